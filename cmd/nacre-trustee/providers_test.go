// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestProviderFlag(t *testing.T) {
	var l providers
	for _, text := range []string{"name=a,public-key=/a.pem",
		"name=b,jwk-set=/b.json,issuer=https://issuer.example,audience=kbs,role=root,role=admin,unsafe-any-lifetime"} {
		if err := l.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if want := (providers{{Name: "a", PublicKey: "/a.pem"}, {Name: "b", JWKSet: "/b.json",
		Issuer: "https://issuer.example", Audience: "kbs", Roles: []string{"root", "admin"}, UnsafeAnyLifetime: true}}); !reflect.DeepEqual(l, want) {
		t.Errorf("%+v", l)
	}
	var again providers
	for text := range strings.SplitSeq(l.String(), "; ") {
		if err := again.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(again, l) || l.check() != nil {
		t.Errorf("%s, %v", &l, l.check())
	}
	for _, text := range []string{"", "name", "name=", "name=a,name=b", "name=a,colour=blue",
		"name=a,unsafe-any-lifetime=true", "role="} {
		if err := new(providers).Set(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	for _, bad := range []providers{{{PublicKey: "/a"}}, {{Name: "a b", PublicKey: "/a"}}, {{Name: "a"}},
		{{Name: "a", JWKSet: "/a"}, {Name: "a", JWKSet: "/b"}}, {{Name: "a", JWKSet: "/a", Roles: []string{""}}}} {
		if bad.check() == nil {
			t.Errorf("%+v counts", bad)
		}
	}
}

// A token as upstream's tools make it administers where a provider is configured so, and as long as its key is.
func TestIdentityProvider(t *testing.T) {
	r, owner := launchReloading(t)
	public, set := filepath.Join(r.home, "provider.pem"), filepath.Join(r.home, "provider.json")
	first, second := providerKeys(t, public, ""), providerKeys(t, "", set)
	configured := func(anyLifetime bool) string {
		return fmt.Sprintf("[[admin-identity-provider]]\nname = \"stock\"\npublic-key = %q\njwk-set = %q\n"+
			"unsafe-any-lifetime = %t\n", public, set, anyLifetime)
	}
	expect := func(what string, status int, key *ecdsa.PrivateKey) {
		t.Helper()
		if got, body := askAs(t, r, key); got != status {
			t.Errorf("%s: %d %s, want %d", what, got, body, status)
		}
	}
	expect("before it is configured", 401, first)
	r.configure(t, configured(false))
	r.hangup(t, "accepted", 1)
	expect("a life of ten years, not accepted by name", 401, first)
	r.configure(t, configured(true))
	r.hangup(t, "accepted", 2)
	expect("the key", 200, first)
	expect("the key set", 200, second)
	if status, body := r.get(t, "/nacre/v1/resources", &owner); status != 200 {
		t.Errorf("the owner's: %d %s", status, body)
	}
	if log := r.log.String(); !strings.Contains(log, `"provider":"stock"`) {
		t.Errorf("no warning of it:\n%s", log)
	}
	next := providerKeys(t, "", set)
	r.hangup(t, "accepted", 3)
	expect("a key that was taken out", 401, second)
	expect("a key that was put in", 200, next)
	write(t, set, []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`))
	r.hangup(t, "refused", 1)
	expect("a key set that was refused", 200, next)
}

// providerKeys makes a key and writes its public half.
func providerKeys(t *testing.T, pemFile, setFile string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if pemFile != "" {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		write(t, pemFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		return key
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public()}}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, setFile, text)
	return key
}

// askAs asks for what administrators may know, with a token of ten years.
func askAs(t *testing.T, r *reloading, key *ecdsa.PrivateKey) (int, string) {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES384, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(fmt.Appendf(nil, `{"role":"admin","exp":%d}`, time.Now().AddDate(10, 0, 0).Unix()))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.start.URL+"/kbs/v0/resource-policy", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}
