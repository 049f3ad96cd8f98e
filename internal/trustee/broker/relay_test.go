// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"testing"

	"github.com/nacre-project/nacre/kbs"
)

// Somebody stands between a genuine guest and the trustee, or makes a genuine guest elsewhere answer for him, as in
// CVE-2026-33697. What he forwards is genuine; what he gets for it he cannot read. (That he can carry it to the guest
// it is for, wherever that guest runs, THREATS.md says.)
func TestAttackRelayCVE2026_33697(t *testing.T) {
	s := start(t)
	s.provision()
	t.Run("the guest's evidence for a key of his", func(t *testing.T) {
		a := s.attempt()
		a.key = teeKey(t, kbs.ECDHP256)
		if got := s.attest(a); got.status != 401 || got.info.Code != "report_data_mismatch" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
	t.Run("his session, the guest's evidence and key", func(t *testing.T) {
		a := s.attempt() // the nonce is his, and the guest signs it
		mine := teeKey(t, kbs.ECDHP256)
		token := s.token(a)
		for how, got := range map[string]answer{
			"by the token": s.get(secretPath, withBearer(token)), "by the session": s.get(secretPath, withCookie(a.cookie)),
		} {
			if bytes.Contains(got.body, []byte("hunter2")) {
				t.Errorf("%s he is sent %s", how, got.body)
			}
			if value, err := open(t, mine, got.body); got.status == 200 && err == nil {
				t.Errorf("%s he reads %q", how, value)
			}
		}
	})
	t.Run("the guest's session with another trustee", func(t *testing.T) {
		elsewhere := start(t)
		a := elsewhere.attempt()
		a.nonce, a.cookie = s.challenge()
		if got := s.attest(a); got.status != 401 || got.info.Code != "report_data_mismatch" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}
