// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"encoding/json"
	"reflect"
	"testing"
)

// What is written is what encoding/json would have written, whatever it is made of.
func TestValuesAreWrittenAsByEncodingJSON(t *testing.T) {
	value := map[string]any{
		"text": "a", "markup": "<a href=\"&\">", "control": "\x00\x1f\x7f", "separator": "\u2028", "not UTF-8": "\xff", "": "é", "true": true,
		"numbers": []any{int64(-1), 7, 1.5, uint8(3)}, "claim": Claim(-128), "tier": Affirming, "vector": Vector{Hardware: 97, SourcedData: -1},
		"nothing": nil, "object": map[string]any{}, "no object": map[string]any(nil), "texts": map[string]string{"b": "c"},
	}
	var w writer
	if w.value(value); w.err != nil {
		t.Fatal(w.err)
	}
	if want, err := json.Marshal(value); err != nil || string(w.text) != string(want) {
		t.Errorf("written\n%s, want\n%s, %v", w.text, want, err)
	}
	w = writer{}
	w.members(value, map[string]json.RawMessage{"text": json.RawMessage(`"a"`), "other": json.RawMessage(`1`)})
	if want, err := json.Marshal(value); err != nil || string(w.text) != string(want) {
		t.Errorf("with an encoded member\n%s, want\n%s, %v", w.text, want, err)
	}
}

// Claims are parsed after the signature is verified, but not every verifier that we may be told to trust is ours.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"eat_profile":"p","iat":1,"ear.verifier-id":{"developer":"d","build":"b"},"submods":{"cpu0":{` +
		`"ear.status":"affirming","ear.trustworthiness-vector":{"hardware":2},"ear.appraisal-policy-id":"default",` +
		`"ear.veraison.annotated-evidence":{"runtime_data_claims":{"tee-pubkey":{"kty":"EC"}},"simulated":true},"x":[1]}},"exp":2}`))
	f.Add([]byte(`{"exp":1e3,"submods":[]}`))
	f.Add([]byte(`{"eat_profile":"p","iat":1,"ear.verifier-id":{"developer":"<\u2028>","build":"\u00e9\u007f&"},"submods":{},"exp":2,` +
		`"a":{"b":[true,null,-1.5,{"\"":"\\\n"}],"":{}}}`))
	f.Fuzz(func(t *testing.T, claims []byte) {
		token, members, err := parseToken(claims)
		if err != nil {
			return
		}
		var w writer
		if w.value(members); w.err != nil {
			t.Fatal(w.err)
		}
		if want, err := json.Marshal(members); err != nil || string(w.text) != string(want) {
			t.Fatalf("written %s, want %s, %v", w.text, want, err)
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
