// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// newQuietLog is for servers whose clients are meant to hang up on them.
func newQuietLog() *log.Logger { return log.New(io.Discard, "", 0) }

func TestAdminRequests(t *testing.T) {
	const rego = "package policy\nallow if true\n"
	b64 := base64.RawURLEncoding.EncodeToString([]byte(rego))
	record := `{"id":7,"time":"2026-01-02T03:04:05.000000006Z","request_id":"r","event":"release","decision":"refused",` +
		`"code":"policy_denied",` +
		`"tee":"snp","simulated":true,"root":"simulated sha256:ab12","measurement":"00","init_data":"11","resource":"default/db/password",` +
		`"policy":"resource-policy@sha256:0123456789ab","token_id":"t","detail":"d","prev":"p","hash":"h"}`
	for _, c := range []struct {
		name           string
		request, reply string // METHOD path, content type and body
		do             func(*Admin) (any, error)
		want           string // the result as JSON
	}{
		{"PutResource", "POST /kbs/v0/resource/default/db/password  a password", "",
			func(a *Admin) (any, error) {
				return nil, a.PutResource(t.Context(), "default/db/password", []byte("a password"))
			}, "null"},
		{"DeleteResource", "DELETE /kbs/v0/resource/default/db/password  ", "",
			func(a *Admin) (any, error) { return nil, a.DeleteResource(t.Context(), "default/db/password") }, "null"},
		{"Resources", "GET /nacre/v1/resources?prefix=default%2F  ",
			`{"resources":[{"path":"default/db/password","size":10,"updated":"2026-01-02T03:04:05Z"}]}`,
			func(a *Admin) (any, error) { return a.Resources(t.Context(), "default/") },
			`[{"path":"default/db/password","size":10,"updated":"2026-01-02T03:04:05Z"}]`},
		{"SetResourcePolicy", `POST /kbs/v0/resource-policy application/json {"policy":"` + b64 + `"}`, "",
			func(a *Admin) (any, error) { return nil, a.SetResourcePolicy(t.Context(), rego, ReleaseOptions{}) }, "null"},
		{"SetResourcePolicy, unsafely",
			`POST /kbs/v0/resource-policy application/json {"policy":"` + b64 + `","allow_simulated":true,"unsafe_any_initdata":true}`, "",
			func(a *Admin) (any, error) {
				return nil, a.SetResourcePolicy(t.Context(), rego, ReleaseOptions{AllowSimulated: true, UnsafeAnyInitData: true})
			}, "null"},
		{"ResourcePolicy", "GET /nacre/v1/resource-policy  ",
			`{"id":"resource-policy","policy":"package policy","digest":"00","allow_simulated":true,"unsafe_any_initdata":false}`,
			func(a *Admin) (any, error) { return a.ResourcePolicy(t.Context()) },
			`{"id":"resource-policy","policy":"package policy","digest":"00","allow_simulated":true,"unsafe_any_initdata":false}`},
		{"ResourcePolicyIDs", "GET /kbs/v0/resource-policy  ", `["resource-policy"]`,
			func(a *Admin) (any, error) { return a.ResourcePolicyIDs(t.Context()) }, `["resource-policy"]`},
		{"SetAttestationPolicy",
			`POST /kbs/v0/attestation-policy application/json {"type":"rego","policy_id":"default_cpu","policy":"` + b64 + `"}`, "",
			func(a *Admin) (any, error) { return nil, a.SetAttestationPolicy(t.Context(), "default_cpu", rego) }, "null"},
		{"RegisterReferenceValue", `POST /kbs/v0/reference-value application/json {"version":"0.1.0","type":"sample","payload":"` +
			base64.StdEncoding.EncodeToString([]byte(`{"init_data":["11"],"svn":3}`)) + `"}`, "",
			func(a *Admin) (any, error) {
				return nil, a.RegisterReferenceValue(t.Context(), map[string]any{"svn": 3, "init_data": []string{"11"}})
			}, "null"},
		{"ReferenceValue", "GET /kbs/v0/reference-value/a/b%20c  ", `["11"]`,
			func(a *Admin) (any, error) { return a.ReferenceValue(t.Context(), "a/b c") }, `["11"]`},
		{"ReferenceValues", "GET /nacre/v1/reference-values  ",
			`{"values":[{"name":"init_data","value":["11"],"expiration":"2027-01-02T03:04:05Z"},{"name":"svn","value":3}]}`,
			func(a *Admin) (any, error) { return a.ReferenceValues(t.Context()) },
			`[{"name":"init_data","value":["11"],"expiration":"2027-01-02T03:04:05Z"},{"name":"svn","value":3}]`},
		{"DeleteReferenceValue", "DELETE /nacre/v1/reference-value/init_data  ", "",
			func(a *Admin) (any, error) { return nil, a.DeleteReferenceValue(t.Context(), "init_data") }, "null"},
		{"Audit", "GET /nacre/v1/audit?after=6&limit=10  ", `{"records":[` + record + `]}`,
			func(a *Admin) (any, error) { return a.Audit(t.Context(), 6, 10) }, "[" + record + "]"},
	} {
		id := newIdentity(t, nil)
		url := serve(t, id, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			got := fmt.Sprintf("%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), body)
			if err != nil || got != c.request || r.Header.Get("Authorization") != "Bearer the-token" {
				t.Errorf("%s: asked %s, want %s (%v)", c.name, got, c.request, err)
			}
			_, _ = io.WriteString(w, c.reply)
		}))
		admin, err := NewAdmin(
			ClientConfig{URL: url, PinnedCert: id.pin},
			func() (string, error) { return "the-token", nil },
		)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.do(admin)
		admin.Close()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if text, err := json.Marshal(got); err != nil || string(text) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, text, err, c.want)
		}
	}
}

func TestAdminErrors(t *testing.T) {
	id := newIdentity(t, nil)
	url := serve(t, id, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/nacre/v1/audit" {
			_, _ = io.WriteString(w, "{")
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"type":"AdminAuthAccess","detail":"admin access denied"}`)
	}))
	admin, err := NewAdmin(ClientConfig{URL: url, PinnedCert: id.pin}, func() (string, error) { return "x", nil })
	if err != nil {
		t.Fatal(err)
	}
	patient(admin.wire)
	var refused *StatusError
	err = admin.DeleteResource(t.Context(), "a/b/c")
	if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized ||
		!strings.Contains(err.Error(), "is this the admin key") ||
		!strings.HasPrefix(err.Error(), "deleting resource a/b/c: ") {
		t.Error(err)
	}
	if _, err := admin.Audit(t.Context(), 0, 1); err == nil {
		t.Error("half an answer is accepted")
	}
	if err := admin.PutResource(t.Context(), "a/../c", nil); err == nil {
		t.Error("stored at a/../c")
	}
	if err := admin.DeleteResource(t.Context(), "a/b"); err == nil {
		t.Error("deleted a/b")
	}
	if err := admin.PutResource(t.Context(), "a/b/c", make([]byte, MaxPlaintextSize+1)); err == nil {
		t.Error("stored what cannot be released")
	}
	if err := admin.RegisterReferenceValue(t.Context(), map[string]any{"a": func() {}}); err == nil {
		t.Error("registered a function")
	}
	broken := errors.New("no key")
	admin.token = func() (string, error) { return "", broken }
	if err := admin.DeleteResource(t.Context(), "a/b/c"); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestAdminKey(t *testing.T) {
	key, err := NewAdminKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseAdminKey(text.Reveal())
	if err != nil || !back.Public().Equal(key.Public()) {
		t.Fatal(err)
	}
	public, err := key.PublicPEM()
	if err != nil || !strings.HasPrefix(string(public), "-----BEGIN PUBLIC KEY-----\n") {
		t.Errorf("%s, %v", public, err)
	}
	now := time.Unix(1_800_000_000, 0)
	token, err := back.Token(now, 5*time.Minute, "https://broker.test", "owner")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := parsed.Claims(key.Public(), &claims); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(claims)
	if want := `{"aud":"https://broker.test","exp":1800000300,"iat":1800000000,"role":"owner"}`; err != nil ||
		string(got) != want {
		t.Errorf("claims %s, %v, want %s", got, err, want)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if out := fmt.Sprintf(verb, key) + fmt.Sprintf(verb, struct{ k AdminKey }{key}); len(out) > 120 {
			t.Errorf("%s prints %s", verb, out)
		}
	}
}

func TestAdminKeyRefuses(t *testing.T) {
	tee, err := newKey(t, ECDHP256).MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"nothing": "", "not PEM": "x",
		"another type": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
		"not PKCS#8":   "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not Ed25519": string(tee.Reveal())} {
		if _, err := ParseAdminKey([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var zero AdminKey
	if _, err := zero.Token(time.Now(), time.Minute, "a", "r"); err == nil || zero.Public() != nil {
		t.Error("the zero key signs")
	}
	if _, err := zero.MarshalPEM(); err == nil {
		t.Error("the zero key is written")
	}
	if _, err := zero.PublicPEM(); err == nil {
		t.Error("the zero key's public half is written")
	}
}
