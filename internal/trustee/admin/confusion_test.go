// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/kbs"
)

// Every form of a token that some library somewhere has taken for one that an administrator signed (spec/field.md
// §4.2, JWT confusions). All but those named "a key of his" are signed by the administrator, with the forms changed.
func TestAttackAdminTokenConfusion(t *testing.T) {
	owner, public := key(t)
	his, hisPublic := key(t)
	a := New(Config{Keys: []ed25519.PublicKey{public}, Now: func() time.Time { return now }})
	sign := func(signer ed25519.PrivateKey, header, payload string) string {
		encode := base64.RawURLEncoding.EncodeToString
		input := encode([]byte(header)) + "." + encode([]byte(payload))
		return input + "." + encode(ed25519.Sign(signer, []byte(input)))
	}
	ours, theirs := privateOf(t, owner), privateOf(t, his)
	const header = `{"alg":"EdDSA","typ":"JWT"}`
	payload := fmt.Sprintf(`{"role":"admin","aud":"nacre-trustee","iat":%d,"exp":%d}`, now.Unix(), now.Unix()+60)
	if _, err := a.Authenticate(sign(ours, header, payload)); err != nil {
		t.Fatalf("the token that the others deviate from: %v", err)
	}
	jwk := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, base64.RawURLEncoding.EncodeToString(hisPublic))
	with := func(member string) string { return strings.Replace(header, "{", "{"+member+",", 1) }
	says := func(old, replacement string) string {
		return sign(ours, header, strings.Replace(payload, old, replacement, 1))
	}
	for name, token := range map[string]string{
		"CVE-2020-16250 jwk in the header": sign(theirs, with(`"jwk":`+jwk), payload),
		"CVE-2020-16250 jku in the header": sign(theirs, with(`"jku":"https://attacker.example/jwks.json"`), payload),
		"CVE-2020-16250 x5u in the header": sign(theirs, with(`"x5u":"https://attacker.example/x"`), payload),
		"CVE-2020-16250 x5c in the header": sign(theirs, with(`"x5c":["MIIB"]`), payload),
		"a kid and a key of his":           sign(theirs, with(`"kid":`+fmt.Sprintf("%q", Fingerprint(public))), payload),
		"alg none":                         strings.TrimRight(sign(ours, `{"alg":"none"}`, payload), "A"),
		"alg ES256, signed with EdDSA":     sign(ours, `{"alg":"ES256"}`, payload),
		"alg twice":                        sign(ours, with(`"alg":"none"`), payload),
		"no alg":                           sign(ours, `{"typ":"JWT"}`, payload),
		"crit":                             sign(ours, with(`"crit":["exp"],"exp":1`), payload),
		"role twice":                       says("{", `{"role":"reader",`),
		"exp twice":                        says("{", `{"exp":1,`),
		"SPIRE no exp":                     says(`"exp"`, `"expires"`),
		"exp null":                         says(`"exp":`, `"exp":null,"x":`),
		"exp a text":                       says(`"exp":`, `"exp":"never","x":`),
		"exp far away":                     says(`"exp":`, `"exp":99999999999,"x":`),
		"iat in the future":                says(`"iat":`, fmt.Sprintf(`"iat":%d,"x":`, now.Unix()+61)),
		"nbf in the future":                says("{", fmt.Sprintf(`{"nbf":%d,`, now.Unix()+61)),
		"an audience among many":           says(`"nacre-trustee"`, `["somebody-else"]`),
		"Role with a capital":              says(`"role"`, `"Role"`),
		"a guest's token":                  sign(ours, header, `{"submods":{},"iss":"nacre-trustee","iat":1,"exp":9999999999}`),
		"claims in an array":               sign(ours, header, "["+payload+"]"),
		"another trustee's administrator":  sign(theirs, header, payload),
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := a.Authenticate(token); !errors.Is(err, ErrRefused) {
				t.Errorf("%v, %v", id, err)
			}
		})
	}
}

func privateOf(t *testing.T, k kbs.AdminKey) ed25519.PrivateKey {
	t.Helper()
	text, err := k.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text.Reveal())
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return private.(ed25519.PrivateKey)
}
