// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"encoding/json"
	"reflect"
	"testing"
)

// Claims are parsed after the signature is verified, but not every verifier that we may be told to trust is ours.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"eat_profile":"p","iat":1,"ear.verifier-id":{"developer":"d","build":"b"},"submods":{"cpu0":{` +
		`"ear.status":"affirming","ear.trustworthiness-vector":{"hardware":2},"ear.appraisal-policy-id":"default",` +
		`"ear.veraison.annotated-evidence":{"runtime_data_claims":{"tee-pubkey":{"kty":"EC"}},"simulated":true},"x":[1]}},"exp":2}`))
	f.Add([]byte(`{"exp":1e3,"submods":[]}`))
	f.Fuzz(func(t *testing.T, claims []byte) {
		token, _, err := parseToken(claims)
		if err != nil {
			return
		}
		_, _ = token.TEEPublicKey()
		_ = token.Simulated()
		text, err := json.Marshal(*token)
		if err != nil {
			t.Fatal(err)
		}
		back, _, err := parseToken(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for name, submod := range token.Submods { // the status is computed on writing
			submod.Status = submod.Vector.Status()
			token.Submods[name] = submod
		}
		if !reflect.DeepEqual(back, token) {
			t.Fatalf("%+v came back as %+v", token, back)
		}
	})
}
