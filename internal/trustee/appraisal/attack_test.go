// SPDX-License-Identifier: Apache-2.0

package appraisal

import (
	"testing"
)

// An owner who registered the platform's settings can tell a guest that has them (configuration 2) from one of which
// only the init-data is right (3).
func TestAttackOtherSettings(t *testing.T) {
	p := defaultPolicy(t)
	for name, value := range map[string]any{
		"platform_smt_enabled": false, "platform_tsme_enabled": true, "policy_abi_major": int64(1), "policy_abi_minor": int64(30),
		"policy_single_socket": true, "policy_smt_allowed": false,
	} {
		t.Run(name, func(t *testing.T) {
			claims := snpClaims()
			claims.Values[name] = value
			s, err := p.Appraise(t.Context(), Evidence{Claims: claims}, snapshot(t, settings()), now)
			if err != nil || s.Vector.Configuration != 3 {
				t.Errorf("configuration %d, %v", s.Vector.Configuration, err)
			}
		})
	}
}
