// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// signing are a provider's private keys.
type signing struct {
	p256, p384, stranger *ecdsa.PrivateKey
	rsa                  *rsa.PrivateKey
	ed                   ed25519.PrivateKey
}

func newSigning(t testing.TB) signing {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var s signing
	var err error
	s.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	s.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	s.stranger, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	s.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	_, s.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return s
}

func pemOf(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func providerKey(t testing.TB, key crypto.PublicKey) ProviderKey {
	t.Helper()
	k, err := ParseProviderKey(pemOf(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) []ProviderKey {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	set, err := ParseKeySet(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// signed signs a payload as it is written.
func signed(t testing.TB, algorithm jose.SignatureAlgorithm, key any, payload string, header map[jose.HeaderKey]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key},
		&jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func at(d time.Duration) int64 { return now.Add(d).Unix() }

const tenYears = 10 * 365 * 24 * time.Hour

// Tokens as upstream's tools make them, by every kind of key.
func TestProviderTokens(t *testing.T) {
	s := newSigning(t)
	stock := fmt.Sprintf(`{"role":"admin","exp":%d}`, at(tenYears))
	compose := fmt.Sprintf(`{"iss":"TrusteeInDocker","role":"admin","iat":%d,"exp":%d}`, at(-time.Hour), at(tenYears))
	for _, tt := range []struct {
		algorithm jose.SignatureAlgorithm
		private   any
		public    crypto.PublicKey
	}{
		{jose.ES256, s.p256, s.p256.Public()}, {jose.ES384, s.p384, s.p384.Public()}, {jose.EdDSA, s.ed, s.ed.Public()},
		{jose.RS256, s.rsa, s.rsa.Public()}, {jose.RS512, s.rsa, s.rsa.Public()}, {jose.PS256, s.rsa, s.rsa.Public()},
	} {
		p := Provider{Name: "stock", Keys: []ProviderKey{providerKey(t, s.stranger.Public()), providerKey(t, tt.public)},
			UnsafeAnyLifetime: true}
		a := New(Config{Providers: []Provider{p}, Now: func() time.Time { return now }})
		for _, payload := range []string{stock, compose} {
			id, err := a.Authenticate(signed(t, tt.algorithm, tt.private, payload, nil))
			if err != nil || id.Role != "admin" || id.Key != "stock/"+p.Keys[1].fingerprint() {
				t.Errorf("%s: %v, %v", tt.algorithm, id, err)
			}
		}
	}
}

// The owner's key is beside a provider, and each token is judged by its signer's rules.
func TestProviderBesideTheOwner(t *testing.T) {
	s := newSigning(t)
	owner, public := key(t)
	a := New(Config{Keys: []ed25519.PublicKey{public}, Now: func() time.Time { return now }, Providers: []Provider{
		{Name: "a", Keys: []ProviderKey{providerKey(t, s.p256.Public())}, Audience: "a"},
		{Name: "b", Keys: []ProviderKey{providerKey(t, s.p256.Public())}, Audience: "b", Roles: []string{"root"}},
	}})
	token, err := owner.Token(now, time.Minute, DefaultAudience, Role)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := a.Authenticate(token); err != nil || id.Key != Fingerprint(public) {
		t.Errorf("%v, %v", id, err)
	}
	payload := fmt.Sprintf(`{"role":"root","aud":"b","iat":%d,"exp":%d}`, at(0), at(time.Minute))
	if id, err := a.Authenticate(signed(t, jose.ES256, s.p256, payload, nil)); err != nil || id.Role != "root" ||
		!strings.HasPrefix(id.Key, "b/") {
		t.Errorf("%v, %v", id, err)
	}
}

// Each token deviates in one thing from one that the provider's rules accept.
func TestAttackProviderTokens(t *testing.T) {
	s := newSigning(t)
	owner, ownerPublic := key(t)
	clock := func() time.Time { return now }
	strict := Provider{Name: "strict", Issuer: "issuer", Audience: "kbs", Keys: keySet(t,
		jose.JSONWebKey{Key: s.p256.Public(), KeyID: "one", Use: "sig"},
		jose.JSONWebKey{Key: s.rsa.Public(), KeyID: "two", Algorithm: "RS256"})}
	stock := Provider{Name: "stock", UnsafeAnyLifetime: true, Keys: []ProviderKey{providerKey(t, s.rsa.Public()),
		providerKey(t, s.p384.Public()), providerKey(t, ownerPublic)}}
	theStrict := New(Config{Providers: []Provider{strict}, Now: clock})
	theStock := New(Config{Keys: []ed25519.PublicKey{ownerPublic}, Providers: []Provider{stock}, Now: clock})

	const format = `{"iss":"issuer","aud":"kbs","role":"admin","iat":%d,"exp":%d}`
	payload := fmt.Sprintf(format, at(0), at(time.Minute))
	one := map[jose.HeaderKey]any{"kid": "one"}
	with := func(name jose.HeaderKey, value any) map[jose.HeaderKey]any {
		return map[jose.HeaderKey]any{"kid": "one", name: value}
	}
	es256 := func(payload string) string { return signed(t, jose.ES256, s.p256, payload, one) }
	says := func(old, replacement string) string {
		if !strings.Contains(payload, old) {
			t.Fatalf("no %s", old)
		}
		return es256(strings.Replace(payload, old, replacement, 1))
	}
	good := es256(payload)
	if _, err := theStrict.Authenticate(good); err != nil {
		t.Fatalf("the token that the others deviate from: %v", err)
	}
	if _, err := theStrict.Authenticate(signed(t, jose.RS256, s.rsa, payload, map[jose.HeaderKey]any{"kid": "two"})); err != nil {
		t.Fatalf("with the other key: %v", err)
	}
	forever := fmt.Sprintf(`{"role":"admin","exp":%d}`, at(tenYears))
	if _, err := theStock.Authenticate(signed(t, jose.RS256, s.rsa, forever, nil)); err != nil {
		t.Fatalf("the token of upstream's tools: %v", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	unsigned := encode([]byte(`{"alg":"none","kid":"one"}`)) + "." + strings.Split(good, ".")[1] + "."
	strangers := jose.JSONWebKey{Key: s.stranger.Public(), KeyID: "one"}
	ours := jose.JSONWebKey{Key: s.p256.Public(), KeyID: "one"}

	for name, token := range map[string]string{
		"alg none":                      unsigned,
		"HS256 under the public key":    signed(t, jose.HS256, pemOf(t, s.p256.Public()), payload, one),
		"a stranger's":                  signed(t, jose.ES256, s.stranger, payload, one),
		"no signature":                  good[:strings.LastIndexByte(good, '.')+1],
		"another's kid":                 signed(t, jose.ES256, s.p256, payload, map[jose.HeaderKey]any{"kid": "two"}),
		"an unknown kid":                signed(t, jose.ES256, s.p256, payload, map[jose.HeaderKey]any{"kid": "three"}),
		"no kid":                        signed(t, jose.ES256, s.p256, payload, nil),
		"an algorithm not the key's":    signed(t, jose.PS256, s.rsa, payload, map[jose.HeaderKey]any{"kid": "two"}),
		"RS256, signed with ES256":      "eyJhbGciOiJSUzI1NiIsImtpZCI6Im9uZSJ9" + good[strings.IndexByte(good, '.'):],
		"a stranger's, his jwk":         signed(t, jose.ES256, s.stranger, payload, with("jwk", strangers)),
		"the provider's, jwk":           signed(t, jose.ES256, s.p256, payload, with("jwk", ours)),
		"jku":                           signed(t, jose.ES256, s.p256, payload, with("jku", "https://attacker.example/keys")),
		"x5u":                           signed(t, jose.ES256, s.p256, payload, with("x5u", "https://attacker.example/cert")),
		"crit":                          signed(t, jose.ES256, s.p256, payload, with("crit", []string{"b64"})),
		"role missing":                  says(`"role"`, `"roles"`),
		"role empty":                    says(`"role":"admin"`, `"role":""`),
		"role another":                  says(`"role":"admin"`, `"role":"reader"`),
		"role in capitals":              says(`"role"`, `"Role"`),
		"role a list":                   says(`"role":"admin"`, `"role":["admin"]`),
		"role twice":                    says(`"role"`, `"role":"reader","role"`),
		"issuer another":                says(`"iss":"issuer"`, `"iss":"else"`),
		"issuer missing":                says(`"iss":"issuer",`, ``),
		"audience another":              says(`"aud":"kbs"`, `"aud":["else"]`),
		"audience missing":              says(`"aud":"kbs",`, ``),
		"exp missing":                   says(`"exp"`, `"x"`),
		"exp null":                      says(`"exp":`, `"exp":null,"x":`),
		"exp a text":                    says(`"exp":`, `"exp":"never","x":`),
		"exp past":                      es256(fmt.Sprintf(format, at(-5*time.Minute), at(-leeway))),
		"exp too far":                   es256(fmt.Sprintf(format, at(0), at(DefaultLongestLifetime)+1)),
		"iat missing":                   says(`"iat"`, `"x"`),
		"iat in the future":             es256(fmt.Sprintf(format, at(leeway)+1, at(2*time.Minute))),
		"nbf in the future":             says(`{`, fmt.Sprintf(`{"nbf":%d,`, at(leeway)+1)),
		"huge":                          says(`{`, `{"x":"`+strings.Repeat("x", maxToken)+`",`),
		"a payload that is no object":   es256("[" + payload + "]"),
		"something behind the payload":  es256(payload + payload),
		"two tokens":                    good + "." + good,
		"the owner's key is none of it": ownerToken(t, owner.Token),
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := theStrict.Authenticate(token); !errors.Is(err, ErrRefused) {
				t.Errorf("%v, %v", id, err)
			}
		})
	}

	// Any life is not no life, and not for others.
	for name, token := range map[string]string{
		"any lifetime, exp missing": signed(t, jose.RS256, s.rsa, `{"role":"admin"}`, nil),
		"any lifetime, exp past":    signed(t, jose.RS256, s.rsa, fmt.Sprintf(`{"role":"admin","exp":%d}`, at(-leeway)), nil),
		"any lifetime, role another": signed(t, jose.RS256, s.rsa,
			strings.Replace(forever, "admin", "reader", 1), nil),
		"any lifetime, by the owner's key": signed(t, jose.EdDSA, privateOf(t, owner), forever, nil),
		"any lifetime, ES256 for a P-384 key": "eyJhbGciOiJFUzI1NiJ9" + strings.TrimPrefix(
			signed(t, jose.ES384, s.p384, forever, nil), "eyJhbGciOiJFUzM4NCJ9"),
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := theStock.Authenticate(token); !errors.Is(err, ErrRefused) {
				t.Errorf("%v, %v", id, err)
			}
		})
	}
}

func ownerToken(t *testing.T, token func(time.Time, time.Duration, string, string) (string, error)) string {
	t.Helper()
	text, err := token(now, time.Minute, "kbs", Role)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAttackProviderKeys(t *testing.T) {
	s := newSigning(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // too small is what is tested
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing": nil, "a small RSA key": pemOf(t, small.Public()), "another curve": pemOf(t, p224.Public()),
		"a private key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
	} {
		t.Run("PEM: "+name, func(t *testing.T) {
			if _, err := ParseProviderKey(text); err == nil {
				t.Error("accepted")
			}
		})
	}
	marshal := func(keys ...jose.JSONWebKey) string {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := marshal(jose.JSONWebKey{Key: s.p256.Public(), KeyID: "one"})
	many := make([]jose.JSONWebKey, maxProviderKeys+1)
	for i := range many {
		many[i] = jose.JSONWebKey{Key: s.p256.Public()}
	}
	for name, text := range map[string]string{
		"nothing": "", "no keys": `{"keys":[]}`, "no set": `{}`, "a number": `{"keys":1}`, "a key of nothing": `{"keys":[{}]}`,
		"a private key":      marshal(jose.JSONWebKey{Key: s.p256}),
		"a secret":           `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`,
		"a small RSA key":    marshal(jose.JSONWebKey{Key: small.Public()}),
		"for encryption":     marshal(jose.JSONWebKey{Key: s.rsa.Public(), Use: "enc"}),
		"for something else": marshal(jose.JSONWebKey{Key: s.rsa.Public(), Use: "other"}),
		"an HMAC's alg":      marshal(jose.JSONWebKey{Key: s.rsa.Public(), Algorithm: "HS256"}),
		"alg none":           marshal(jose.JSONWebKey{Key: s.rsa.Public(), Algorithm: "none"}),
		"another type's alg": marshal(jose.JSONWebKey{Key: s.rsa.Public(), Algorithm: "ES256"}),
		"members twice":      strings.Replace(good, `"kid":"one"`, `"kid":"one","kid":"two"`, 1),
		"something behind":   good + good,
		"too many keys":      marshal(many...),
	} {
		t.Run("set: "+name, func(t *testing.T) {
			if keys, err := ParseKeySet([]byte(text)); err == nil {
				t.Errorf("%d keys", len(keys))
			}
		})
	}
	// An encryption key beside is what identity providers publish.
	if keys := keySet(t, jose.JSONWebKey{Key: s.rsa.Public(), Use: "enc"}, jose.JSONWebKey{Key: s.p256.Public()}); len(keys) != 1 {
		t.Errorf("%d keys", len(keys))
	}
}

func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"EVs_o5-uQbTjL3chynL4wXgUg2R2q9UU8I5mEovUf84","y":"kGe5DgSIycKp8w9aJmoHhB1sB3QTugfnRWm5nU_TzsY","kid":"one"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","use":"sig"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"PS256"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := ParseKeySet(text)
		if err != nil {
			return
		}
		for _, k := range keys {
			if k.key == nil || len(k.algorithms) == 0 || k.fingerprint() == "?" {
				t.Errorf("%+v", k)
			}
		}
	})
}
