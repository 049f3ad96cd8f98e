// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/kbs"
)

// The tests of this file are named for the weaknesses of spec/trustee.md §8.2, which they show to be absent. S5 is
// shown beside the verifier (attest/snp), and part of S15 beside the store.

// The default resource policy releases any resource to any guest that is not a sample.
func TestS1DefaultPolicyReleasesNothing(t *testing.T) {
	s := start(t)
	s.register(references(t))
	if err := s.admin.PutResource(t.Context(), secretPath, []byte("hunter2")); err != nil {
		t.Fatal(err)
	}
	denied := func(t *testing.T, a *attempt) {
		t.Helper()
		if got := s.get(secretPath, withBearer(s.token(a))); got.status != 403 {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	t.Run("to a guest that is affirming", func(t *testing.T) { denied(t, s.attempt()) })
	s.setRelease(affirming(t), kbs.ReleaseOptions{AllowSimulated: true})
	if got := s.get(secretPath, withBearer(s.token(s.attempt()))); got.status != 200 {
		t.Fatalf("under the owner's policy: %d %s", got.status, got.body)
	}
	t.Run("to a guest of unknown firmware", func(t *testing.T) {
		a := s.attempt()
		a.launch.Measurement[0] ^= 1
		denied(t, a)
	})
	for name := range references(t) {
		if err := s.admin.DeleteReferenceValue(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("when there are no reference values", func(t *testing.T) { denied(t, s.attempt()) })
}

// The nonce can be used until it expires after failures; the cookie lacks its attributes.
func TestS9SessionIsGuarded(t *testing.T) {
	s := start(t)
	a := s.attempt()
	cookie := s.send("POST", "/kbs/v0/auth", []byte(authBody), nil).cookie()
	if cookie == nil || !cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/kbs" {
		t.Errorf("cookie %v", cookie)
	}
	a.boundNonce = "another"
	body := a.body(t)
	for range 16 {
		s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie))
	}
	if got := s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie)); got.info.Code != "too_many_attempts" {
		t.Errorf("the 17th time: %d %s", got.status, got.body)
	}
}

// RSA1_5 is accepted; that the path is not bound into the envelope is the wire's, see THREATS.md.
func TestS10WeakTEEKeys(t *testing.T) {
	s := start(t)
	for name, change := range map[string]func(map[string]any){
		"RSA1_5":      func(k map[string]any) { k["alg"] = "RSA1_5" },
		"RSA of 1024": func(k map[string]any) { k["n"] = strings.Repeat("_", 171) },
		"P-384":       func(k map[string]any) { k["kty"], k["crv"], k["alg"] = "EC", "P-384", "ECDH-ES+A256KW" },
	} {
		t.Run(name, func(t *testing.T) {
			a := s.attempt()
			a.key = teeKey(t, kbs.RSAOAEP256)
			a.boundKey = a.key
			var message map[string]any
			if err := json.Unmarshal(a.body(t), &message); err != nil {
				t.Fatal(err)
			}
			change(message["runtime-data"].(map[string]any)["tee-pubkey"].(map[string]any))
			body, err := json.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie)); got.status != 400 {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
}

// Who may do what is a regular expression over the URI, query and all, without the method.
func TestS11AdministratorsByRouteAndMethod(t *testing.T) {
	s := start(t)
	s.provision()
	guest := s.token(s.attempt())
	reader, err := s.owner.Token(s.now(), time.Minute, admin.DefaultAudience, "reader")
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"POST /kbs/v0/resource-policy", "POST /kbs/v0/resource-policy?/kbs/v0/auth", "POST /kbs/v0/resource/a/b/c?x=/kbs/v0/auth",
		"POST /kbs/v0/auth/../resource-policy", "POST /kbs/v0//resource-policy", "POST /kbs/v0/%72esource-policy",
		"POST /kbs/v0/resource-policy%3Fa=/kbs/v0/auth", "DELETE /kbs/v0/resource/default/db/password",
		"POST /KBS/v0/resource-policy", "POST /kbs/v0/resource-policy/", "PUT /kbs/v0/resource-policy",
		"PATCH /kbs/v0/resource/default/db/password", "GET /nacre/v1/audit?/healthz", "GET /healthz/../nacre/v1/audit",
		"POST /kbs/v0/resource-policy;/kbs/v0/auth", "POST /kbs/v0/resource-policy#/kbs/v0/auth",
	} {
		method, path, _ := strings.Cut(request, " ")
		for who, token := range map[string]string{"nobody": "", "a guest": guest, "a reader": reader} {
			t.Run(request+" as "+who, func(t *testing.T) {
				before := s.last().ID
				got := s.send(method, path, []byte(`{"policy":""}`), func(r *http.Request) {
					r.URL.Opaque = path
					if token != "" {
						withBearer(token)(r)
					}
				})
				if got.status < 400 || s.last().ID != before {
					t.Errorf("%d %s", got.status, got.body)
				}
			})
		}
	}
}

// The sample verifier is in every build, and only the policy keeps it out.
func TestS14NoSampleEvidence(t *testing.T) {
	s := start(t)
	for _, tee := range []string{"sample", "sampledevice"} {
		got := s.send("POST", "/kbs/v0/auth", []byte(strings.Replace(authBody, `"snp"`, `"`+tee+`"`, 1)), nil)
		if got.status != 401 || got.info.Code != string(attest.CodeEvidenceUnsupported) {
			t.Errorf("%s: %d %s", tee, got.status, got.body)
		}
	}
}

// Secrets lie in the clear in every back end.
func TestS15SecretsAtRest(t *testing.T) {
	s := start(t)
	secret := []byte("S15 hunter2 S15")
	if err := s.admin.PutResource(t.Context(), secretPath, secret); err != nil {
		t.Fatal(err)
	}
	s.token(s.attempt()) // a token is somebody's, too
	s.stop()
	defer s.run()
	files := 0
	err := filepath.WalkDir(s.options.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for what, text := range map[string][]byte{"the secret": secret, "a token": []byte("eyJ"), "a key": []byte("PRIVATE KEY")} {
			if bytes.Contains(content, text) {
				t.Errorf("%s is in %s", what, entry.Name())
			}
		}
		files++
		return err
	})
	if err != nil || files == 0 {
		t.Fatal(files, err)
	}
	if strings.Contains(s.log.String(), string(secret)) {
		t.Error("the log has the secret")
	}
}

// Malformed input ends the process, or at least the request without an answer.
func TestS16MalformedInput(t *testing.T) {
	s := start(t, func(c *broker.Config) { c.Limits.RefusalBurst = 1 << 20 })
	a := s.attempt()
	body := a.body(t)
	sendAll := func(path string, text []byte, change func(*http.Request)) {
		t.Helper()
		step := max(1, len(text)/64)
		for i := 0; i < len(text); i += step {
			changed := bytes.Clone(text)
			changed[i] ^= 0x15
			for _, hostile := range [][]byte{text[:i], changed, append(bytes.Clone(text[:i]), text...)} {
				if got := s.send("POST", path, hostile, change); got.status >= 500 {
					t.Fatalf("%s: %d %s for %q", path, got.status, got.body, hostile)
				}
			}
		}
	}
	sendAll("/kbs/v0/auth", []byte(authBody), nil)
	for _, hostile := range []string{"null", "[]", "{}", `""`, "0", strings.Repeat("[", 100_000), `{"version":1e999}`, "\xff\xfe", "\x00"} {
		sendAll("/kbs/v0/attest", []byte(hostile), withCookie(s.attempt().cookie))
	}
	for len(body) > 0 {
		fresh := s.attempt()
		sendSome(s, fresh, &body)
	}
	if strings.Contains(s.log.String(), "a handler panicked") {
		t.Errorf("panics are in the log")
	}
	if got := s.attest(s.attempt()); got.status != 200 {
		t.Errorf("afterwards: %d %s", got.status, got.body)
	}
}

// sendSome sends shorter and shorter beginnings of an attestation, as many as one session may try.
func sendSome(s *trustee, a *attempt, body *[]byte) {
	s.t.Helper()
	for range 15 {
		*body = (*body)[:max(0, len(*body)-211)]
		if got := s.send("POST", "/kbs/v0/attest", *body, withCookie(a.cookie)); got.status >= 500 || got.status < 400 {
			s.t.Fatalf("%d %s", got.status, got.body)
		}
	}
}

// There are no limits; a challenge writes a record. The limits are attacked by the tests of limits_test.go.
func TestS17ChallengesCostNothing(t *testing.T) {
	s := start(t, func(c *broker.Config) {
		c.Limits = broker.Limits{RefusalsPerSecond: 1, RefusalBurst: 3}
	})
	size := func() (n int64) {
		for _, name := range []string{"trustee.db", "trustee.db-wal"} {
			if info, err := os.Stat(filepath.Join(s.options.Dir, name)); err == nil {
				n += info.Size()
			}
		}
		return n
	}
	before := size()
	for range 200 {
		s.challenge()
	}
	if after := size(); after != before {
		t.Errorf("200 challenges wrote %d bytes", after-before)
	}
	for range 4 {
		s.send("POST", "/kbs/v0/attest", []byte("{"), withCookie("AAAA"))
	}
	if got := s.send("POST", "/kbs/v0/attest", []byte("{"), withCookie("AAAA")); got.status != 429 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// The expiry of reference values is never enforced; overwriting them leaves no trace.
func TestS19ReferenceValuesExpire(t *testing.T) {
	s := start(t, func(c *broker.Config) { c.ReferenceValueLifetime = time.Hour })
	s.provision()
	s.register(map[string]any{"snp_launch_measurement": references(t)["snp_launch_measurement"]})
	if r := s.last(); r.Event != "admin" || !strings.Contains(r.Detail, "replacing snp_launch_measurement") {
		t.Errorf("audit: %+v", r)
	}
	var past struct {
		History []refvalue.Past `json:"history"`
	}
	got := s.send("GET", "/nacre/v1/reference-value-history/snp_launch_measurement", nil, s.withAdmin())
	if err := json.Unmarshal(got.body, &past); err != nil || len(past.History) != 2 {
		t.Errorf("history: %s, %v", got.body, err)
	}
	if got := s.get(secretPath, withBearer(s.token(s.attempt()))); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	s.clock.Store(int64(time.Hour + time.Second))
	if got := s.get(secretPath, withBearer(s.token(s.attempt()))); got.status != 403 {
		t.Errorf("when their time is over: %d %s", got.status, got.body)
	}
}

// Tokens have no id, do not say by which policy, and count wherever their signer is trusted.
func TestS20TokensAreBound(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	text := s.token(a)
	keys, err := ear.ParseJWKS(s.send("GET", "/.well-known/jwks.json", nil, nil).body)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := ear.Verify(text, keys, s.now(), ear.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if token.ID == "" || len(token.Submods["cpu0"].PolicyDigest) != 64 {
		t.Errorf("id %q, policy %q", token.ID, token.Submods["cpu0"].PolicyDigest)
	}
	t.Run("to another trustee", func(t *testing.T) {
		elsewhere := start(t)
		elsewhere.provision()
		if got := elsewhere.get(secretPath, withBearer(text)); got.status != 401 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
	t.Run("by a thief", func(t *testing.T) {
		got := s.get(secretPath, withBearer(text))
		if value, err := open(t, teeKey(t, kbs.ECDHP256), got.body); err == nil || bytes.Contains(got.body, []byte("hunter2")) {
			t.Errorf("reads %q", value)
		}
	})
}
