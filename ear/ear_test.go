// SPDX-License-Identifier: Apache-2.0

package ear_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/nacre-project/nacre/ear"
)

var issued = time.Unix(1_800_000_000, 0)

func newSigner(t testing.TB) *ear.Signer {
	t.Helper()
	s, err := ear.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// result is a token as an appraisal of a good guest makes it.
func result() ear.Token {
	return ear.Token{
		Profile:  ear.Profile,
		IssuedAt: issued,
		Verifier: ear.VerifierID{Developer: "https://nacre.example", Build: "nacre 0.1.0"},
		Submods: map[string]ear.Submod{ear.PrimarySubmod: {
			Vector:       ear.Vector{Configuration: 3, Executables: 3, Hardware: 2},
			PolicyID:     "default",
			PolicyDigest: "00ff",
			Evidence: map[string]any{
				"snp":                 map[string]any{"measurement": "aa"},
				"report_data":         "bb",
				ear.RuntimeDataClaims: map[string]any{"nonce": "n", ear.TEEPublicKeyClaim: map[string]any{"kty": "EC"}},
			},
			Extensions: map[string]any{"ear.trustee.identifiers": map[string]any{"validated": map[string]any{}}},
		}},
		Expiry: issued.Add(5 * time.Minute),
		Issuer: "nacre-trustee",
		ID:     "01",
	}
}

func sign(t testing.TB, s *ear.Signer, token ear.Token) string {
	t.Helper()
	compact, err := s.Sign(token)
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

const wantClaims = `{"eat_profile":"tag:github.com,2024:confidential-containers/Trustee","iat":1800000000,` +
	`"ear.verifier-id":{"developer":"https://nacre.example","build":"nacre 0.1.0"},` +
	`"submods":{"cpu0":{"ear.status":"affirming","ear.trustworthiness-vector":{"instance-identity":0,"configuration":3,"executables":3,` +
	`"file-system":0,"hardware":2,"runtime-opaque":0,"storage-opaque":0,"sourced-data":0},"ear.appraisal-policy-id":"default",` +
	`"ear.veraison.annotated-evidence":{"report_data":"bb","runtime_data_claims":{"nonce":"n","tee-pubkey":{"kty":"EC"}},` +
	`"snp":{"measurement":"aa"}},"nacre.appraisal-policy-digest":"00ff","ear.trustee.identifiers":{"validated":{}}}},` +
	`"exp":1800000300,"iss":"nacre-trustee","jti":"01"}`

func part(t *testing.T, compact string, i int) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestTokenIsExact(t *testing.T) {
	s := newSigner(t)
	for range 3 {
		compact := sign(t, s, result())
		if got := part(t, compact, 1); got != wantClaims {
			t.Errorf("claims\n%s, want\n%s", got, wantClaims)
		}
		var header struct {
			Typ, Alg, Kid string
			JWK           map[string]string
		}
		if err := json.Unmarshal([]byte(part(t, compact, 0)), &header); err != nil {
			t.Fatal(err)
		}
		if header.Typ != "JWT" || header.Alg != "ES256" || header.Kid != s.KeyID() || header.JWK["kty"] != "EC" ||
			header.JWK["crv"] != "P-256" || header.JWK["alg"] != "ES256" || len(header.JWK["x"]) != 43 || len(header.JWK["y"]) != 43 ||
			len(header.JWK) != 5 {
			t.Errorf("header %s", part(t, compact, 0))
		}
	}
}

func TestClaimsAreTheSignedOnes(t *testing.T) {
	s, token := newSigner(t), result()
	bare := token.Submods[ear.PrimarySubmod]
	bare.PolicyDigest, bare.Extensions = "", nil
	token.Submods["gpu0"] = bare
	_, want, err := ear.Verify(sign(t, s, token), []ear.Key{s.Public()}, issued, ear.Options{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(token.Claims())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	if dec.UseNumber(); dec.Decode(&got) != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestSignAndVerify(t *testing.T) {
	s := newSigner(t)
	token, claims, err := ear.Verify(
		sign(t, s, result()),
		[]ear.Key{newSigner(t).Public(), s.Public()},
		issued,
		ear.Options{},
	)
	if err != nil {
		t.Fatal(err)
	}
	want := result()
	submod := want.Submods[ear.PrimarySubmod]
	submod.Status = ear.Affirming
	want.Submods[ear.PrimarySubmod] = submod
	if !reflect.DeepEqual(*token, want) {
		t.Errorf("%+v, want %+v", *token, want)
	}
	if text, err := json.Marshal(*token); err != nil || string(text) != wantClaims {
		t.Errorf("came back as %s, %v", text, err)
	}
	if claims["iat"] != json.Number("1800000000") {
		t.Errorf("claims %v", claims)
	}
	if key, err := token.TEEPublicKey(); err != nil || string(key) != `{"kty":"EC"}` {
		t.Errorf("TEE key %s, %v", key, err)
	}
	if token.Simulated() {
		t.Error("simulated")
	}
}

func TestTokenWithoutATEEKey(t *testing.T) {
	token := result()
	delete(token.Submods[ear.PrimarySubmod].Evidence, ear.RuntimeDataClaims)
	if key, err := token.TEEPublicKey(); err == nil {
		t.Errorf("TEE key %s", key)
	}
	if _, err := (&ear.Token{}).TEEPublicKey(); err == nil {
		t.Error("an empty token has a TEE key")
	}
}

// Whatever the marker's value is, short of a plain false, the token counts as simulated; in any submodule.
func TestSimulated(t *testing.T) {
	for _, c := range []struct {
		value any
		want  bool
	}{{true, true}, {false, false}, {nil, true}, {"false", true}, {json.Number("0"), true}} {
		token := result()
		token.Submods["gpu0"] = ear.Submod{Evidence: map[string]any{ear.SimulatedClaim: c.value}}
		if token.Simulated() != c.want {
			t.Errorf("%v: %t", c.value, token.Simulated())
		}
	}
}

func TestTimes(t *testing.T) {
	s := newSigner(t)
	compact := sign(t, s, result())
	expiry := result().Expiry
	for _, c := range []struct {
		name    string
		now     time.Time
		options ear.Options
		good    bool
		expired bool
	}{
		{"when issued", issued, ear.Options{}, true, false},
		{"the last second", expiry.Add(-time.Second), ear.Options{}, true, false},
		{"on expiry", expiry, ear.Options{}, false, true},
		{"long after", expiry.AddDate(10, 0, 0), ear.Options{}, false, true},
		{"after, with leeway", expiry.Add(59 * time.Second), ear.Options{ExpiryLeeway: time.Minute}, true, false},
		{"after the leeway", expiry.Add(time.Minute), ear.Options{ExpiryLeeway: time.Minute}, false, true},
		{"a minute before it was issued", issued.Add(-time.Minute), ear.Options{}, true, false},
		{"longer before it was issued", issued.Add(-61 * time.Second), ear.Options{}, false, false},
		{"years before, with leeway", issued.AddDate(-10, 0, 0), ear.Options{IssueLeeway: 11 * 366 * 24 * time.Hour}, true, false},
	} {
		_, _, err := ear.Verify(compact, []ear.Key{s.Public()}, c.now, c.options)
		if (err == nil) != c.good || errors.Is(err, ear.ErrExpired) != c.expired {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// forge signs claims or a header of the attacker's choice, with the right key where that is not the deviation.
func forge(
	t *testing.T,
	algorithm jose.SignatureAlgorithm,
	key any,
	headers map[jose.HeaderKey]any,
	claims string,
) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	for name, value := range headers {
		options = options.WithHeader(name, value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// court is a verifier's view: one trusted key, of which an attacker here may get the private half, too.
type court struct {
	private *ecdsa.PrivateKey
	key     ear.Key
}

func newCourt(t *testing.T) court {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ear.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return court{private, s.Public()}
}

func (c court) verify(compact string) error {
	_, _, err := ear.Verify(compact, []ear.Key{c.key}, issued, ear.Options{})
	return err
}

func (c court) kid() map[jose.HeaderKey]any { return map[jose.HeaderKey]any{"kid": c.key.ID} }

func TestForgerHasTheRightTools(t *testing.T) {
	c := newCourt(t)
	if err := c.verify(forge(t, jose.ES256, c.private, c.kid(), wantClaims)); err != nil {
		t.Fatal(err)
	}
}

func TestAttackAlgorithmNone(t *testing.T) {
	c := newCourt(t)
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"` + c.key.ID + `","typ":"JWT"}`))
	for _, signature := range []string{"", "AA"} {
		if err := c.verify(header + "." + base64.RawURLEncoding.EncodeToString([]byte(wantClaims)) + "." + signature); err == nil {
			t.Errorf("accepted with signature %q", signature)
		}
	}
}

// The public key as an HMAC secret: whoever takes the algorithm from the token verifies this.
func TestAttackPublicKeyAsHMACSecret(t *testing.T) {
	c := newCourt(t)
	der, err := x509.MarshalPKIXPublicKey(c.key.Public)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.verify(forge(t, jose.HS256, der, c.kid(), wantClaims)); err == nil {
		t.Error("accepted")
	}
}

func TestAttackAnotherAlgorithm(t *testing.T) {
	c := newCourt(t)
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	compact := forge(t, jose.ES384, private, map[jose.HeaderKey]any{"kid": "384"}, wantClaims)
	if _, _, err := ear.Verify(compact, []ear.Key{c.key, {ID: "384", Public: &private.PublicKey}}, issued, ear.Options{}); err == nil {
		t.Error("accepted")
	}
}

func TestAttackAnotherKey(t *testing.T) {
	c, other := newCourt(t), newCourt(t)
	if err := c.verify(forge(t, jose.ES256, other.private, c.kid(), wantClaims)); !errors.Is(err, ear.ErrUntrusted) {
		t.Errorf("under the right id: %v", err)
	}
}

func TestAttackUnknownKeyID(t *testing.T) {
	c := newCourt(t)
	for name, headers := range map[string]map[jose.HeaderKey]any{"another": {"kid": "other"}, "empty": {"kid": ""}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			if err := c.verify(forge(t, jose.ES256, c.private, headers, wantClaims)); !errors.Is(err, ear.ErrUntrusted) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("none, like the key's", func(t *testing.T) {
		nameless := ear.Key{Public: c.key.Public}
		compact := forge(t, jose.ES256, c.private, nil, wantClaims)
		if _, _, err := ear.Verify(compact, []ear.Key{nameless}, issued, ear.Options{}); err == nil {
			t.Error("accepted")
		}
	})
}

// A token that brings its own key, or says where to fetch one, is not trusted for that.
func TestAttackKeyInTheHeader(t *testing.T) {
	c, attacker := newCourt(t), newCourt(t)
	own := jose.JSONWebKey{Key: &attacker.private.PublicKey, Algorithm: "ES256"}
	for name, value := range map[jose.HeaderKey]any{"jwk": own, "jku": "https://attacker.example/jwks.json",
		"x5u": "https://attacker.example/x"} {
		t.Run(string(name), func(t *testing.T) {
			headers := map[jose.HeaderKey]any{"kid": c.key.ID, name: value}
			err := c.verify(forge(t, jose.ES256, attacker.private, headers, wantClaims))
			if !errors.Is(err, ear.ErrUntrusted) {
				t.Error(err)
			}
		})
	}
}

func TestAttackChangedClaims(t *testing.T) {
	c := newCourt(t)
	parts := strings.Split(forge(t, jose.ES256, c.private, c.kid(), wantClaims), ".")
	parts[1] = base64.RawURLEncoding.EncodeToString(
		[]byte(strings.Replace(wantClaims, `"measurement":"aa"`, `"measurement":"ab"`, 1)),
	)
	if err := c.verify(strings.Join(parts, ".")); !errors.Is(err, ear.ErrUntrusted) {
		t.Error(err)
	}
}

func TestAttackNoExpiry(t *testing.T) {
	c := newCourt(t)
	for name, claims := range map[string]string{
		"missing":      strings.Replace(wantClaims, `"exp":1800000300,`, "", 1),
		"null":         strings.Replace(wantClaims, `"exp":1800000300`, `"exp":null`, 1),
		"a text":       strings.Replace(wantClaims, `"exp":1800000300`, `"exp":"1800000300"`, 1),
		"another case": strings.Replace(wantClaims, `"exp"`, `"Exp"`, 1),
		"beyond time":  strings.Replace(wantClaims, `"exp":1800000300`, `"exp":9223372036854775807`, 1),
		"negative":     strings.Replace(wantClaims, `"exp":1800000300`, `"exp":-1`, 1),
		"a fraction":   strings.Replace(wantClaims, `"exp":1800000300`, `"exp":1800000300.5`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.verify(forge(t, jose.ES256, c.private, c.kid(), claims)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestAttackExpired(t *testing.T) {
	c := newCourt(t)
	claims := strings.Replace(wantClaims, `"exp":1800000300`, `"exp":1799999999`, 1)
	if err := c.verify(forge(t, jose.ES256, c.private, c.kid(), claims)); !errors.Is(err, ear.ErrExpired) {
		t.Error(err)
	}
}

func TestAttackIssuedInTheFuture(t *testing.T) {
	c := newCourt(t)
	claims := strings.Replace(wantClaims, `"iat":1800000000`, `"iat":1800000100`, 1)
	if err := c.verify(forge(t, jose.ES256, c.private, c.kid(), claims)); err == nil {
		t.Error("accepted")
	}
}

func TestVerifyRefuses(t *testing.T) {
	c := newCourt(t)
	for name, claims := range map[string]string{
		"not JSON": "x", "an array": "[]", "no claims": "{}",
		"no iat":           strings.Replace(wantClaims, `"iat":1800000000,`, "", 1),
		"no submods":       strings.Replace(wantClaims, `"submods"`, `"Submods"`, 1),
		"submods a list":   strings.Replace(wantClaims, `"submods":{"cpu0":`, `"submods":[],"x":{"cpu0":`, 1),
		"cpu0 a text":      strings.Replace(wantClaims, `"cpu0":{`, `"cpu0":"","gpu0":{`, 1),
		"no status":        strings.Replace(wantClaims, `"ear.status"`, `"ear-status"`, 1),
		"unknown status":   strings.Replace(wantClaims, `"affirming"`, `"Affirming"`, 1),
		"no vector":        strings.Replace(wantClaims, `"ear.trustworthiness-vector"`, `"v"`, 1),
		"a claim of 200":   strings.Replace(wantClaims, `"hardware":2`, `"hardware":200`, 1),
		"an unknown claim": strings.Replace(wantClaims, `"hardware":2`, `"hardwear":2`, 1),
		"no evidence":      strings.Replace(wantClaims, `"ear.veraison.annotated-evidence"`, `"e"`, 1),
		"jti a number":     strings.Replace(wantClaims, `"jti":"01"`, `"jti":1`, 1),
		"no profile":       strings.Replace(wantClaims, `"eat_profile"`, `"profile"`, 1),
		"two values":       wantClaims + "{}",
	} {
		if err := c.verify(forge(t, jose.ES256, c.private, c.kid(), claims)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, compact := range map[string]string{
		"nothing": "", "dots": "..", "text": "token", "JSON serialisation": `{"payload":"","signatures":[]}`,
		"too long": strings.Repeat("a", ear.MaxSize+1), "encrypted": "a.b.c.d.e",
	} {
		if err := c.verify(compact); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := ear.Verify(forge(t, jose.ES256, c.private, c.kid(), wantClaims), nil, issued, ear.Options{}); !errors.Is(
		err,
		ear.ErrUntrusted,
	) {
		t.Errorf("with no keys at all: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	s := newSigner(t)
	for name, change := range map[string]func(*ear.Submod){
		"an extension called ear.status": func(m *ear.Submod) { m.Extensions = map[string]any{"ear.status": "affirming"} },
		"an extension that is a func":    func(m *ear.Submod) { m.Extensions = map[string]any{"x": func() {}} },
		"evidence that is a func":        func(m *ear.Submod) { m.Evidence["x"] = func() {} },
		"evidence beyond all bounds":     func(m *ear.Submod) { m.Evidence["x"] = strings.Repeat("a", ear.MaxSize) },
	} {
		token := result()
		submod := token.Submods[ear.PrimarySubmod]
		change(&submod)
		token.Submods[ear.PrimarySubmod] = submod
		if _, err := s.Sign(token); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// The status in a token is what its vector comes to, whatever the caller thinks.
func TestStatusIsComputed(t *testing.T) {
	token := result()
	token.Submods = map[string]ear.Submod{
		"cpu0": {Status: ear.Affirming, Vector: ear.Vector{Hardware: 97}, Evidence: map[string]any{}},
	}
	s := newSigner(t)
	got, _, err := ear.Verify(sign(t, s, token), []ear.Key{s.Public()}, issued, ear.Options{})
	if err != nil || got.Submods["cpu0"].Status != ear.Contraindicated {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSignerPEM(t *testing.T) {
	s := newSigner(t)
	text, err := s.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ear.ParseSigner(text.Reveal())
	if err != nil || back.KeyID() != s.KeyID() || !back.Public().Public.Equal(s.Public().Public) {
		t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ear.NewSigner(private); err == nil {
		t.Error("a signer on P-384")
	}
	if _, err := ear.NewSigner(nil); err == nil {
		t.Error("a signer without a key")
	}
	for name, text := range map[string]string{"nothing": "", "another type": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
		"not PKCS#8": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"Ed25519": "-----BEGIN PRIVATE KEY-----\n" +
			"MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"} {
		if _, err := ear.ParseSigner([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if out := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(out, "PRIVATE") || len(out) > 2000 {
		t.Errorf("prints as %s", out)
	}
}

func TestJWKS(t *testing.T) {
	a, b := newSigner(t), newSigner(t)
	text, err := ear.JWKS(a.Public(), b.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ear.ParseJWKS(text)
	if err != nil || len(keys) != 2 || keys[0].ID != a.KeyID() || !keys[1].Public.Equal(b.Public().Public) {
		t.Fatalf("%s: %v", text, err)
	}
	if strings.Contains(string(text), `"d"`) {
		t.Errorf("the set has a private key in it: %s", text)
	}
	if _, _, err := ear.Verify(sign(t, b, result()), keys, issued, ear.Options{}); err != nil {
		t.Error(err)
	}
	if empty, err := ear.JWKS(); err != nil || string(empty) != `{"keys":[]}` {
		t.Errorf("%s, %v", empty, err)
	}
	for name, text := range map[string]string{"nothing": "", "no keys": `{"keys":[]}`,
		"a key without an id": `{"keys":[{"kty":"EC","crv":"P-256",` +
			`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`,
		"a secret": `{"keys":[{"kty":"oct","kid":"1","k":"AAAA"}]}`, "too long": strings.Repeat(" ", ear.MaxSize+1)} {
		if _, err := ear.ParseJWKS([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := newSigner(f)
	valid := sign(f, s, result())
	f.Add(valid)
	f.Add(strings.Replace(valid, ".", "..", 1))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, compact string) {
		token, _, err := ear.Verify(compact, []ear.Key{s.Public()}, issued, ear.Options{})
		if err != nil {
			return
		}
		if text, err := json.Marshal(*token); err != nil || string(text) != wantClaims {
			t.Fatalf("forged %s, %v", text, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := newSigner(b)
	compact, keys := sign(b, s, result()), []ear.Key{s.Public()}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ear.Verify(compact, keys, issued, ear.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	s := newSigner(b)
	token := result()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPrimitives is what no way of signing and verifying can do without.
func BenchmarkPrimitives(b *testing.B) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := make([]byte, 32)
	signature, err := ecdsa.SignASN1(rand.Reader, private, digest)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, private, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if !ecdsa.VerifyASN1(&private.PublicKey, digest, signature) {
				b.Fatal()
			}
		}
	})
}
