// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/test/brokertest"
)

const sealingKey = "kbs:///default/sealing/key"

// sealer makes a key whose public half the broker has.
func sealer(t *testing.T, b *brokertest.Broker) sealed.Signer {
	t.Helper()
	key, err := sealed.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := key.Verifying().JWK(sealingKey)
	if err != nil {
		t.Fatal(err)
	}
	b.Resources["default/sealing/key"] = string(jwk)
	return sealed.Signer{KeyID: sealingKey, Key: key}
}

func pinned(t *testing.T, text string) func(*Config, *aa.Options) {
	t.Helper()
	parsed, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config, _ *aa.Options) { c.Sealed = parsed.Sealed }
}

const pins = "[sealed_secrets]\nkeys = [\"" + sealingKey + "\"]\n"

func TestUnseal(t *testing.T) {
	b := newBroker(t)
	s := sealer(t, b)
	h := newHub(t, b, pinned(t, pins))
	vault, err := s.SealVault(uri)
	if err != nil {
		t.Fatal(err)
	}
	kek := sealed.NewKey()
	b.Resources["default/sealing/kek"] = string(kek.Reveal())
	envelope, err := s.SealEnvelope(kbs.ResourceURI{Path: []string{"default", "sealing", "kek"}}, kek, secret.New([]byte(password)))
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewSealedSecretServiceClient(dial(t, h))
	for _, text := range []string{vault, envelope} {
		out, err := c.UnsealSecret(t.Context(), &api.UnsealSecretInput{Secret: []byte(text)})
		if err != nil || string(out.GetPlaintext()) != password {
			t.Error(err)
		}
	}
	if n := b.Attested.Load(); n != 1 {
		t.Errorf("attested %d times, want 1", n)
	}
	// A key that its owner replaces does not open any more.
	sealer(t, b)
	if _, err := h.Unseal(t.Context(), vault); code(err) != string(sealed.SignatureInvalid) {
		t.Error(err)
	}
}

// code is an *Error's.
func code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestUnsealRefusals(t *testing.T) {
	b := newBroker(t)
	s := sealer(t, b)
	absent, err := s.SealVault(kbs.ResourceURI{Path: []string{"default", "db", "absent"}})
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewSealedSecretServiceClient(dial(t, newHub(t, b, pinned(t, pins))))
	for text, want := range map[string]struct {
		code codes.Code
		text string
	}{
		absent:        {codes.NotFound, CodeNotFound},
		absent + "\n": {codes.InvalidArgument, string(sealed.Malformed)},
		"":            {codes.InvalidArgument, string(sealed.Malformed)},
	} {
		_, err := c.UnsealSecret(t.Context(), &api.UnsealSecretInput{Secret: []byte(text)})
		if status.Code(err) != want.code || !strings.Contains(fmt.Sprint(err), want.text) ||
			!strings.Contains(fmt.Sprint(err), "[CDH] [ERROR]: Unseal Secret failed: ") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	b.Intercept = resourceRefusal(http.StatusForbidden, "policy_denied_simulated")
	_, err = newHub(t, b, pinned(t, pins)).Unseal(t.Context(), absent)
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != Denied || e.Code != "policy_denied_simulated" || e.RequestID != "request-7" {
		t.Error(err)
	}
}

// The stock hub asks its broker for whatever key a sealed secret names.
func TestAttackUnpinnedSealingKey(t *testing.T) {
	b := newBroker(t)
	text, err := sealer(t, b).SealVault(uri)
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]string{
		"no table": "", "an empty table": "[sealed_secrets]", "no keys": "[sealed_secrets]\nkeys = []",
		"another key": "[sealed_secrets]\nkeys = [\"kbs:///default/sealing/other\"]",
		"not skipped": "skip_sealed_secret_verification = false\nunsafe_skip_sealed_secret_verification = false",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, b, pinned(t, config))
			_, err := h.Unseal(t.Context(), text)
			if e, ok := errors.AsType[*Error](err); !ok || e.Kind != Denied || e.Code != string(sealed.KeyNotPinned) ||
				!strings.Contains(e.Error(), `[sealed_secrets] keys = ["`+sealingKey+`"]`) {
				t.Error(err)
			}
			if n := b.Released.Load(); n != 0 {
				t.Errorf("%d resources were asked for", n)
			}
		})
	}
}

func TestSealedConfig(t *testing.T) {
	key, err := sealed.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := key.Verifying().JWK("k")
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.PrivateJWK("k")
	if err != nil {
		t.Fatal(err)
	}
	const skip = "unsafe_skip_sealed_secret_verification = true\n"
	tests := []struct {
		name, text string
		want       sealed.Pins
		fails      string
	}{
		{"a resource", pins, sealed.Pins{Resources: []kbs.ResourceURI{{Plugin: "resource", Path: []string{"default", "sealing", "key"}}}}, ""},
		{"a key", "[sealed_secrets.jwks]\nk = '" + string(jwk) + "'", sealed.Pins{Keys: map[string]sealed.VerifyingKey{"k": key.Verifying()}}, ""},
		{"skipped", skip, sealed.Pins{UnsafeUnverified: true}, ""},
		{"no URI", "[sealed_secrets]\nkeys = [\"k\"]", sealed.Pins{}, "scheme must be kbs"},
		{"no key", "[sealed_secrets.jwks]\nk = '{}'", sealed.Pins{}, string(sealed.KeyInvalid)},
		{"a private key", "[sealed_secrets.jwks]\nk = '" + string(private.Reveal()) + "'", sealed.Pins{}, "private key"},
		{"both", skip + pins, sealed.Pins{}, "choose one"},
		{"many", "[sealed_secrets]\nkeys = [" + strings.Repeat("\""+sealingKey+"\",", maxSealingKeys+1) + "]", sealed.Pins{}, "more than"},
		{"another type", "[sealed_secrets]\nkeys = \"k\"", sealed.Pins{}, "cdh.toml"},
	}
	for _, tt := range tests {
		got, err := ParseConfig([]byte(tt.text))
		if (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("%s: %v", tt.name, err)
		} else if !reflect.DeepEqual(got.Sealed, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got.Sealed, tt.want)
		}
	}
}

// The stock hub's switch, whose name does not say what it gives away, is not a way to get unsigned secrets in.
func TestAttackVerificationIsSkipped(t *testing.T) {
	_, err := ParseConfig([]byte("skip_sealed_secret_verification = true"))
	if err == nil || !strings.Contains(err.Error(), "unsafe_skip_sealed_secret_verification") {
		t.Error(err)
	}
	b := newBroker(t)
	payload, err := sealed.Payload{Vault: &sealed.Vault{Provider: sealed.ProviderKBS, Name: uri.String()}}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	fake := sealed.Prefix + "fakejwsheader." + base64.RawURLEncoding.EncodeToString(payload) + ".fakesignature"
	if _, err := newHub(t, b, pinned(t, pins)).Unseal(t.Context(), fake); code(err) != string(sealed.Malformed) {
		t.Error(err)
	}
	value, err := newHub(t, b, pinned(t, "unsafe_skip_sealed_secret_verification = true")).Unseal(t.Context(), fake)
	if err != nil || string(value.Reveal()) != password {
		t.Errorf("who asks for it: %v", err)
	}
}
