// SPDX-License-Identifier: Apache-2.0

package ear_test

import (
	"testing"
	"time"

	"github.com/nacre-project/nacre/ear"
)

func TestSignVerify(t *testing.T) {
	s, err := ear.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	compact, err := s.Sign(ear.Token{Profile: ear.Profile, IssuedAt: now, Expiry: now.Add(5 * time.Minute), Issuer: "x", ID: "1",
		Submods: map[string]ear.Submod{"cpu0": {Vector: ear.Vector{Hardware: 2}, PolicyID: "default",
			Evidence: map[string]any{"snp": map[string]any{}, "runtime_data_claims": map[string]any{"tee-pubkey": map[string]any{"kty": "EC"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := ear.Verify(compact, []ear.Key{s.Public()}, now, ear.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if token.Submods["cpu0"].Status != ear.Affirming {
		t.Fatal(token)
	}
	key, err := token.TEEPublicKey()
	if err != nil || string(key) != `{"kty":"EC"}` {
		t.Fatal(string(key), err)
	}
	t.Log(compact)
}
