// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/kbs"
)

// forger makes tokens of any form. He has copied everything but what the subject of an attack takes from him.
type forger struct {
	t       *testing.T
	ours    *ecdsa.PrivateKey // the trustee's
	his     *ecdsa.PrivateKey
	header  map[string]any // of a genuine token
	payload map[string]any
}

func newForger(s *trustee, token string) *forger {
	s.t.Helper()
	text, err := s.store.Get(s.t.Context(), "server", "token-key")
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	ours, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	f := &forger{t: s.t.(*testing.T), ours: ours.(*ecdsa.PrivateKey)}
	if f.his, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		s.t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	for i, into := range []*map[string]any{&f.header, &f.payload} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			s.t.Fatal(err)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			s.t.Fatal(err)
		}
	}
	return f
}

// text is a copy of a genuine part with some members changed; nil takes one out.
func (f *forger) text(part map[string]any, changes map[string]any) string {
	f.t.Helper()
	out := map[string]any{}
	for name, value := range part {
		out[name] = value
	}
	for name, value := range changes {
		if out[name] = value; value == nil {
			delete(out, name)
		}
	}
	raw, err := json.Marshal(out)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(raw)
}

func (f *forger) head(changes map[string]any) string { return f.text(f.header, changes) }
func (f *forger) body(changes map[string]any) string { return f.text(f.payload, changes) }

func input(header, payload string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
}

func (f *forger) es256(key *ecdsa.PrivateKey, header, payload string) string {
	f.t.Helper()
	text := input(header, payload)
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		f.t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

func (f *forger) hs256(secret []byte, header, payload string) string {
	mac := hmac.New(sha256.New, secret)
	text := input(header, payload)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// jwk is the forger's public key, as headers bring keys along.
func (f *forger) jwk() map[string]any {
	point, err := f.his.PublicKey.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(point[1:33]), "y": encode(point[33:])}
}

// Every way to pass something for a guest's token that the trustee did not sign as one, or not for now (spec/field.md
// §4.2, JWT confusions). Where a token is signed with the trustee's own key, the attack is on what it says.
func TestAttackTokenConfusion(t *testing.T) {
	s := start(t)
	s.provision()
	genuine := s.token(s.attempt())
	f := newForger(s, genuine)
	now := s.now()
	der, err := x509.MarshalPKIXPublicKey(f.ours.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	point, err := f.ours.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	plain := f.body(nil)
	signed := func(header, payload map[string]any) string { return f.es256(f.ours, f.head(header), f.body(payload)) }
	said := func(payload map[string]any) string { return signed(nil, payload) }
	if got := s.get(secretPath, withBearer(said(nil))); got.status != 200 {
		t.Fatalf("the token that the others deviate from: %d %s", got.status, got.body)
	}
	hs := f.head(map[string]any{"alg": "HS256"})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs := input(f.head(map[string]any{"alg": "RS256"}), plain)
	digest := sha256.Sum256([]byte(rs))
	pkcs1, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, 5, digest[:]) // crypto.SHA256
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := start(t)
	elsewhere.provision()
	admin, err := s.adminToken()
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		// how it is signed
		"alg none":                         input(f.head(map[string]any{"alg": "none"}), plain) + ".",
		"alg NONE with a signature":        input(f.head(map[string]any{"alg": "NONE"}), plain) + ".AA",
		"no alg":                           f.es256(f.ours, f.head(map[string]any{"alg": nil}), plain),
		"HS256 with the public key in DER": f.hs256(der, hs, plain),
		"HS256 with the public key in PEM": f.hs256(public, hs, plain),
		"HS256 with the public point":      f.hs256(point, hs, plain),
		"HS256 with nothing":               f.hs256(nil, hs, plain),
		"RS256 with a key of his":          rs + "." + base64.RawURLEncoding.EncodeToString(pkcs1),
		"RS256, signed with ES256":         signed(map[string]any{"alg": "RS256"}, nil),
		"ES384, signed with ES256":         signed(map[string]any{"alg": "ES384"}, nil),
		"a key of his":                     f.es256(f.his, f.head(nil), plain),
		"no signature":                     input(f.head(nil), plain) + ".",
		"a signature of zeros":             input(f.head(nil), plain) + "." + strings.Repeat("A", 86),
		"claims changed after signing": strings.Split(genuine, ".")[0] + "." +
			base64.RawURLEncoding.EncodeToString([]byte(f.body(map[string]any{"iat": now.Unix() - 1}))) + "." + strings.Split(genuine, ".")[2],
		"JSON instead of the compact form": `{"payload":"` + strings.Split(genuine, ".")[1] + `"}`,

		// which key it names
		"CVE-2020-16250 jwk in the header":   f.es256(f.his, f.head(map[string]any{"jwk": f.jwk()}), plain),
		"CVE-2020-16250 jwk without kid":     f.es256(f.his, f.head(map[string]any{"jwk": f.jwk(), "kid": nil}), plain),
		"CVE-2020-16250 jku in the header":   f.es256(f.his, f.head(map[string]any{"jku": elsewhere.server.URL + "/.well-known/jwks.json"}), plain),
		"CVE-2020-16250 x5u in the header":   f.es256(f.his, f.head(map[string]any{"x5u": "https://attacker.example/cert.pem"}), plain),
		"CVE-2020-16250 x5c in the header":   f.es256(f.his, f.head(map[string]any{"x5c": []string{"MIIB"}}), plain),
		"kid of another":                     signed(map[string]any{"kid": "other"}, nil),
		"no kid":                             signed(map[string]any{"kid": nil}, nil),
		"kid a path":                         f.es256(f.his, f.head(map[string]any{"kid": "../../../dev/null"}), plain),
		"kid twice":                          f.es256(f.ours, strings.Replace(f.head(nil), "{", `{"kid":"other",`, 1), plain),
		"crit":                               signed(map[string]any{"crit": []string{"exp"}, "exp": 1}, nil),
		"alg twice":                          f.es256(f.ours, strings.Replace(f.head(nil), "{", `{"alg":"none",`, 1), plain),
		"encoded as unencoded payload (b64)": signed(map[string]any{"crit": []string{"b64"}, "b64": false}, nil),

		// when it is for
		"SPIRE no exp":      said(map[string]any{"exp": nil}),
		"exp null":          f.es256(f.ours, f.head(nil), strings.Replace(plain, `"exp":`, `"exp":null,"x":`, 1)),
		"exp a text":        said(map[string]any{"exp": "9999999999"}),
		"exp in the past":   said(map[string]any{"exp": now.Unix() - 1}),
		"exp far away":      said(map[string]any{"exp": now.Unix() + int64((broker.MaxTokenLifetime+time.Hour)/time.Second)}),
		"exp beyond time":   said(map[string]any{"exp": 1e18}),
		"no iat":            said(map[string]any{"iat": nil}),
		"iat in the future": said(map[string]any{"iat": now.Unix() + 120, "exp": now.Unix() + 240}),
		"nbf in the future": said(map[string]any{"nbf": now.Unix() + 120}),
		"nbf a text":        said(map[string]any{"nbf": "0"}),

		// what it says
		"another issuer":        said(map[string]any{"iss": "somebody"}),
		"no issuer":             said(map[string]any{"iss": nil}),
		"exp twice":             f.es256(f.ours, f.head(nil), strings.Replace(plain, "{", fmt.Sprintf(`{"exp":%d,`, now.Unix()-9), 1)),
		"submods twice":         f.es256(f.ours, f.head(nil), strings.Replace(plain, "{", `{"submods":{},`, 1)),
		"no submods":            said(map[string]any{"submods": nil}),
		"text after the claims": f.es256(f.ours, f.head(nil), plain+"{}"),
		"claims an array":       f.es256(f.ours, f.head(nil), "[]"),
		"an administrator's":    admin,
		"another trustee's":     elsewhere.token(elsewhere.attempt()),
		"without a TEE key":     said(map[string]any{"submods": withoutTEEKey(t, f)}),
		"another trustee's, kid ours": f.es256(f.his, f.head(nil), strings.Replace(plain, `"iss":"nacre-trustee"`,
			`"iss":"nacre-trustee","aud":"*"`, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			got := s.get(secretPath, withBearer(token))
			if got.status != 401 || got.info.Code != "token_invalid" && got.info.Code != "token_expired" {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	t.Run("a guest's token as an administrator's", func(t *testing.T) {
		if got := s.send("GET", "/nacre/v1/resources", nil, withBearer(genuine)); got.status != 401 || got.info.Code != "not_admin" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

func withoutTEEKey(t *testing.T, f *forger) any {
	t.Helper()
	raw := f.text(f.payload["submods"].(map[string]any), nil)
	var submods map[string]any
	if err := json.Unmarshal([]byte(strings.Replace(raw, `"tee-pubkey"`, `"other-key"`, 1)), &submods); err != nil {
		t.Fatal(err)
	}
	return submods
}

// Every way to use a challenge that is not this session's, not now, or not for the first time.
func TestAttackSessionConfusion(t *testing.T) {
	s := start(t)
	s.provision()
	other := start(t)
	refused := func(t *testing.T, got answer, code string) {
		t.Helper()
		if got.status != 401 || got.info.Code != code {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	used := s.attempt()
	usedBody := used.body(t)
	token := ""
	if got := s.send("POST", "/kbs/v0/attest", usedBody, withCookie(used.cookie)); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	} else {
		token = string(got.body)[len(`{"token":"`) : len(got.body)-2]
	}
	t.Run("replay", func(t *testing.T) {
		refused(t, s.send("POST", "/kbs/v0/attest", usedBody, withCookie(used.cookie)), "nonce_used")
	})
	t.Run("replay to another server", func(t *testing.T) {
		refused(t, other.send("POST", "/kbs/v0/attest", usedBody, withCookie(used.cookie)), "session_invalid")
	})
	t.Run("cookie of another server", func(t *testing.T) {
		a := s.attempt()
		_, a.cookie = other.challenge()
		refused(t, s.attest(a), "session_invalid")
	})
	t.Run("cookies swapped between sessions", func(t *testing.T) {
		a, b := s.attempt(), s.attempt()
		a.cookie, b.cookie = b.cookie, a.cookie
		refused(t, s.attest(a), "nonce_mismatch")
		refused(t, s.attest(b), "nonce_mismatch")
	})
	t.Run("evidence of one session in another", func(t *testing.T) {
		a, b := s.attempt(), s.attempt()
		a.boundNonce, a.boundKey = b.nonce, b.key
		refused(t, s.attest(a), "report_data_mismatch")
	})
	t.Run("a cookie of zeros", func(t *testing.T) {
		refused(t, s.get(secretPath, withCookie(strings.Repeat("A", 300))), "session_expired")
	})
	t.Run("a token as the cookie", func(t *testing.T) {
		refused(t, s.get(secretPath, withCookie(token)), "session_invalid")
	})
	t.Run("two cookies", func(t *testing.T) {
		a := s.attempt()
		_, second := s.challenge()
		refused(t, s.send("POST", "/kbs/v0/attest", a.body(t), func(r *http.Request) {
			r.Header.Set("Cookie", kbs.SessionCookie+"="+second+"; "+kbs.SessionCookie+"="+a.cookie)
		}), "nonce_mismatch")
	})
	t.Run("replay after a restart", func(t *testing.T) {
		s.restart()
		refused(t, s.send("POST", "/kbs/v0/attest", usedBody, withCookie(used.cookie)), "nonce_used")
	})
	t.Run("attempts without end", func(t *testing.T) {
		a := s.attempt()
		for range 16 {
			if got := s.send("POST", "/kbs/v0/attest", []byte("{}"), withCookie(a.cookie)); got.status != 400 {
				t.Fatalf("%d %s", got.status, got.body)
			}
		}
		refused(t, s.attest(a), "too_many_attempts")
	})
	t.Run("expired", func(t *testing.T) {
		a := s.attempt()
		s.clock.Store(int64(broker.DefaultSessionLifetime))
		refused(t, s.attest(a), "session_expired")
	})
	t.Run("of a day ago", func(t *testing.T) {
		s.clock.Store(int64(24 * time.Hour))
		refused(t, s.send("POST", "/kbs/v0/attest", usedBody, withCookie(used.cookie)), "session_expired")
	})
}
