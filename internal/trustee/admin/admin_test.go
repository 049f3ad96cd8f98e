// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

var now = time.Unix(1_800_000_000, 0)

func key(t *testing.T) (kbs.AdminKey, ed25519.PublicKey) {
	t.Helper()
	k, err := kbs.NewAdminKey()
	if err != nil {
		t.Fatal(err)
	}
	return k, k.Public()
}

func TestATokenIsAccepted(t *testing.T) {
	_, stranger := key(t)
	k, public := key(t)
	a := New(Config{Keys: []ed25519.PublicKey{stranger, public}, Now: func() time.Time { return now }})
	token, err := k.Token(now, DefaultLongestLifetime, DefaultAudience, Role)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Authenticate(token)
	if err != nil || id != (Identity{Role: Role, Key: Fingerprint(public)}) {
		t.Errorf("%v, %v", id, err)
	}
}

// Each token deviates from an accepted one in one thing.
func TestAttackAdminTokens(t *testing.T) {
	k, public := key(t)
	stranger, _ := key(t)
	a := New(Config{Keys: []ed25519.PublicKey{public}, Now: func() time.Time { return now }})
	private := func() ed25519.PrivateKey {
		text, err := k.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text.Reveal())
		p, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return p.(ed25519.PrivateKey)
	}()
	sign := func(algorithm jose.SignatureAlgorithm, key any, claims map[string]any) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	claims := func(change func(map[string]any)) map[string]any {
		c := map[string]any{"role": Role, "aud": []string{DefaultAudience}, "iat": now.Unix(),
			"exp": now.Add(DefaultLongestLifetime).Unix()}
		change(c)
		return c
	}
	with := func(name string, value any) string {
		return sign(jose.EdDSA, private, claims(func(c map[string]any) { c[name] = value }))
	}
	without := func(name string) string {
		return sign(jose.EdDSA, private, claims(func(c map[string]any) { delete(c, name) }))
	}
	good := sign(jose.EdDSA, private, claims(func(map[string]any) {}))
	if _, err := a.Authenticate(good); err != nil {
		t.Fatalf("the token that the others deviate from: %v", err)
	}
	parts := strings.Split(good, ".")
	foreign, err := stranger.Token(now, time.Minute, DefaultAudience, Role)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"nothing":                   "",
		"not a token":               "a.b.c",
		"another key":               foreign,
		"no signature":              parts[0] + "." + parts[1] + ".",
		"signature of another":      parts[0] + "." + parts[1] + "." + strings.Split(foreign, ".")[2],
		"algorithm none":            "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"HMAC under the public key": sign(jose.HS256, []byte(public), claims(func(map[string]any) {})),
		"no role":                   without("role"),
		"another role":              with("role", "reader"),
		"role in capitals":          with("role", "ADMIN"),
		"role a list":               with("role", []string{Role}),
		"no audience":               without("aud"),
		"another audience":          with("aud", "somebody-else"),
		"no iat":                    without("iat"),
		"iat in the future":         with("iat", now.Add(leeway+time.Second).Unix()),
		"no exp":                    without("exp"),
		"expired": sign(jose.EdDSA, private,
			claims(func(c map[string]any) {
				c["iat"], c["exp"] = now.Add(-3*time.Minute).Unix(), now.Add(-leeway).Unix()
			})),
		"too long a life":    with("exp", now.Add(DefaultLongestLifetime+time.Second).Unix()),
		"life from long ago": with("iat", now.Add(-time.Hour).Unix()),
		"huge":               with("padding", strings.Repeat("x", maxToken)),
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := a.Authenticate(token); !errors.Is(err, ErrRefused) {
				t.Errorf("%v, %v", id, err)
			}
		})
	}
	t.Run("a trustee without keys", func(t *testing.T) {
		if _, err := New(Config{Now: a.config.Now}).Authenticate(good); !errors.Is(err, ErrRefused) {
			t.Error(err)
		}
	})
}

func open(t *testing.T) *store.Store {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(dir, "data"),
		KeyFile: filepath.Join(dir, "key")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestFirstStart(t *testing.T) {
	s := open(t)
	out := filepath.Join(t.TempDir(), "config", "nacre", "admin.key")
	public, made, err := First(t.Context(), s, out)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	info, err := os.Stat(out)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := kbs.ParseAdminKey(text)
	if err != nil || !owner.Public().Equal(public) {
		t.Errorf("the file's key is not the trustee's: %v", err)
	}
	// Later starts look at the store alone, wherever the file is meanwhile.
	again, made, err := First(t.Context(), s, filepath.Join(t.TempDir(), "elsewhere"))
	if err != nil || made || !again.Equal(public) {
		t.Errorf("second start: %v, %v", made, err)
	}
	// A new trustee takes the key that the owner has.
	other, made, err := First(t.Context(), open(t), out)
	if err != nil || !made || !other.Equal(public) {
		t.Errorf("another trustee: %v, %v", made, err)
	}
	if after, err := os.ReadFile(out); err != nil || !bytes.Equal(after, text) {
		t.Errorf("the owner's key was changed: %v", err)
	}
}

func TestNothingIsWrittenOverAFile(t *testing.T) {
	out := filepath.Join(t.TempDir(), "admin.key")
	if err := os.WriteFile(out, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := First(t.Context(), open(t), out); err == nil || !strings.Contains(err.Error(), "--admin-key-out") {
		t.Errorf("%v", err)
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "something else" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPublicKeys(t *testing.T) {
	k, public := key(t)
	text, err := k.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParsePublicKey(text); err != nil || !got.Equal(public) {
		t.Errorf("%v", err)
	}
	private, err := k.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"empty": nil, "private": private.Reveal(), "damaged": bytes.Replace(text, []byte("M"), []byte("*"), 1),
		"not Ed25519": []byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----\n"),
	} {
		if _, err := ParsePublicKey(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
