// SPDX-License-Identifier: Apache-2.0

package templates

import (
	"strings"
	"testing"
)

// A policy that pins no init-data, or that of guests which have none, releases to whoever can start a guest.
func TestAttackTemplateThatPinsNothing(t *testing.T) {
	for name, digests := range map[string][]string{
		"no digest":           nil,
		"that of none":        {strings.Repeat("0", 64)},
		"a digest of nothing": {""},
		"a piece of a digest": {one[:32]},
	} {
		t.Run(name, func(t *testing.T) {
			if text, err := (Affirming{Resources: []string{"a/b/c"}, InitData: digests}).Rego(); err == nil {
				t.Errorf("made a policy:\n%s", text)
			}
		})
	}
}
