// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"testing"
)

// testJWK is the example key of RFC 7515 appendix A.3, for another use.
var testJWK = JWK{KTY: "EC", CRV: "P-256", ALG: "ECDH-ES+A256KW",
	X: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", Y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}

const testNonce = "bm9uY2U="

func TestReportData(t *testing.T) {
	const key = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC",` +
		`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	for _, c := range []struct {
		name, hashed string
		got          func() ([]byte, error)
	}{
		{"primary", `{"additional-evidence":"","nonce":"bm9uY2U=","tee-pubkey":` + key + `}`,
			func() ([]byte, error) { return ReportData(testNonce, testJWK, "") }},
		{"primary with devices", `{"additional-evidence":"{\"nvidia\":{}}","nonce":"bm9uY2U=","tee-pubkey":` + key + `}`,
			func() ([]byte, error) { return ReportData(testNonce, testJWK, `{"nvidia":{}}`) }},
		{"device", `{"nonce":"bm9uY2U=","tee-pubkey":` + key + `}`,
			func() ([]byte, error) { return DeviceReportData(testNonce, testJWK) }},
	} {
		want := sha512.Sum384([]byte(c.hashed))
		got, err := c.got()
		if err != nil || !bytes.Equal(got, want[:]) {
			t.Errorf("%s: %x, %v, want %x", c.name, got, err, want)
		}
	}
	for algorithm, size := range map[HashAlgorithm]int{SHA256: 32, SHA384: 48, SHA512: 64} {
		got, err := algorithm.ReportData(testNonce, testJWK, "")
		if err != nil || len(got) != size {
			t.Errorf("%s: %d bytes, %v", algorithm, len(got), err)
		}
		if _, err := algorithm.DeviceReportData(testNonce, testJWK); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
	if _, err := HashAlgorithm("md5").ReportData(testNonce, testJWK, ""); err == nil {
		t.Error("md5 is accepted")
	}
}

// honest is what evidence in the attacks below was bound to.
func honest(t *testing.T) string {
	t.Helper()
	sum, err := ReportData(testNonce, testJWK, "")
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum)
}

func notHonest(t *testing.T, nonce string, key JWK, additional string) {
	t.Helper()
	sum, err := ReportData(nonce, key, additional)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(sum) == honest(t) {
		t.Error("the report data is that of the honest guest")
	}
}

func TestAttackEvidenceForAnotherNonce(t *testing.T) { notHonest(t, "b3RoZXI=", testJWK, "") }

func TestAttackEvidenceWithOtherDevices(t *testing.T) {
	notHonest(t, testNonce, testJWK, `{"nvidia":{}}`)
}

func TestAttackEvidenceForAnotherKey(t *testing.T) {
	key, err := GenerateTEEKey(ECDHP256)
	if err != nil {
		t.Fatal(err)
	}
	notHonest(t, testNonce, key.Public(), "")
}

// Each known member counts on its own: an attacker who can only change one gains nothing.
func TestAttackEvidenceForAKeyWithOneOtherMember(t *testing.T) {
	for name, change := range map[string]func(*JWK){
		"crv": func(k *JWK) { k.CRV = "P-521" }, "alg": func(k *JWK) { k.ALG = "RSA1_5" },
		"x": func(k *JWK) { k.X = k.Y }, "y": func(k *JWK) { k.Y = k.X },
	} {
		t.Run(name, func(t *testing.T) {
			key := testJWK
			change(&key)
			notHonest(t, testNonce, key, "")
		})
	}
}

func TestJWKUnknownMembersAreNotHashed(t *testing.T) {
	key, err := ParseJWK(
		[]byte(`{"kid":"1","use":"enc","kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","ext":{"a":[1]},"x":"` +
			testJWK.X + `","y":"` + testJWK.Y + `"}`),
	)
	if err != nil || key != testJWK {
		t.Fatalf("%+v, %v", key, err)
	}
	text, err := json.Marshal(key)
	if err != nil || !bytes.HasPrefix(text, []byte(`{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":`)) {
		t.Fatalf("%s, %v", text, err)
	}
}
