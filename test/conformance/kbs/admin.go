// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// adminRoutes are the built-in routes that need an administrator (trustee §1.2).
var adminRoutes = []struct{ method, path string }{
	{"POST", "attestation-policy"}, {"GET", "reference-value/conformance"}, {"POST", "reference-value"},
	{"POST", "resource-policy"}, {"GET", "resource-policy"},
}

// pluginRoutes are those of the plugin "resource".
var pluginRoutes = []struct{ method, path string }{
	{"POST", "resource/" + repository + "/admin/one"}, {"DELETE", "resource/" + repository + "/admin/one"},
}

// rvpsMessage is a registration of reference values (trustee §4.2).
func rvpsMessage(kind string, values any) []byte {
	payload, err := json.Marshal(values)
	if err != nil {
		panic(err) // the callers are in this program
	}
	return rawMessage("0.1.0", kind, base64.StdEncoding.EncodeToString(payload))
}

func rawMessage(version, kind, payload string) []byte {
	text, err := json.Marshal(map[string]string{"version": version, "type": kind, "payload": payload})
	if err != nil {
		panic(err) // strings are JSON
	}
	return text
}

func policyBody(rego string) []byte {
	return []byte(`{"policy":"` + b64url.EncodeToString([]byte(rego)) + `"}`)
}

func (s *server) adminCases() []suite.Case {
	// denied asks every administrators' route, and demands that it is refused.
	denied := func(ctx context.Context, p *suite.Probe, options ...option) {
		for _, r := range adminRoutes {
			s.ask(ctx, p, r.method, prefix+r.path, []byte("{}"), options...).refused(p, http.StatusUnauthorized,
				refusal{[]string{"AdminAuthAccess"}, ""})
		}
		for _, r := range pluginRoutes {
			s.ask(ctx, p, r.method, prefix+r.path, []byte("x"), options...).refused(p, http.StatusUnauthorized,
				refusal{[]string{"AdminAuthInitialization", "AdminAuthAccess"}, ""})
		}
	}
	// claims makes a token of other claims.
	claims := func(p *suite.Probe, change func(map[string]any)) option {
		if s.admin == nil {
			p.Skipf("%v", errNoAdmin)
		}
		c := adminClaims(s.options.adminAudience, time.Now())
		change(c)
		token, err := s.admin(c)
		if err != nil {
			p.Skipf("%v", err)
		}
		return bearer(token)
	}
	set := func(ctx context.Context, p *suite.Probe, path string, value []byte) {
		a := s.administer(ctx, p, http.MethodPost, prefix+"resource/"+repository+"/"+path, value)
		a.demand(p, http.StatusOK)
		p.Check(a.mediaType() == "text/xml", "%s: Content-Type %q, want text/xml", a.what, a.header.Get("Content-Type"))
		p.Check(len(a.body) == 0, "%s: a body of %d bytes", a.what, len(a.body))
	}
	unreadable := func(ctx context.Context, p *suite.Probe, path string, bodies map[string][]byte) {
		for name, body := range bodies {
			a := s.administer(ctx, p, http.MethodPost, prefix+path, body)
			before := p.Failed()
			if a.refused(p, http.StatusUnauthorized, refusal{}, may{http.StatusBadRequest, whyBadRequest}); p.Failed() && !before {
				p.Failf("with %s", name)
			}
		}
	}
	return []suite.Case{
		{Name: "admin/no-token", Ref: "trustee §1.2, §1.9", Level: suite.Must,
			Want: "without a token every administrators' route is 401 AdminAuthAccess",
			Run:  func(ctx context.Context, p *suite.Probe) { denied(ctx, p) }},
		{Name: "admin/detail", Ref: "trustee §1.9", Level: suite.Should,
			Want: "the detail begins \"admin access denied for endpoint <endpoint>\", which clients match",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, r := range adminRoutes {
					a := s.ask(ctx, p, r.method, prefix+r.path, []byte("{}"))
					p.Check(strings.Contains(text(a.objectIf(a.status), "detail"), "admin access denied for endpoint "),
						"%s: detail %q", a.what, text(a.objectIf(a.status), "detail"))
				}
			}},
		{Name: "admin/bad-token", Ref: "trustee §2.5, RFC 8725 §2", Level: suite.Must,
			Want: "garbage, an unsigned token, one of a stranger's key and one by HMAC are 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, stranger, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					p.Fatalf("%v", err)
				}
				foreign, err := adminJWT(stranger, adminClaims(s.options.adminAudience, time.Now()))
				if err != nil {
					p.Fatalf("%v", err)
				}
				payload := strings.Split(foreign, ".")[1]
				for _, token := range []string{"x", "", "a.b.c", foreign,
					b64url.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + payload + ".",
					b64url.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + payload + "." +
						b64url.EncodeToString(make([]byte, 32)), strings.Repeat("x", 20000)} {
					denied(ctx, p, bearer(token))
				}
				denied(ctx, p, func(r *http.Request) { r.Header.Set("Authorization", "Basic YWRtaW46YWRtaW4=") })
			}},
		{Name: "admin/expired", Ref: "trustee §2.5, RFC 7519 §4.1.4", Level: suite.Must,
			Want: "a token that has expired, or has no exp, is 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				past := time.Now().Add(-time.Hour)
				denied(ctx, p, claims(p, func(c map[string]any) {
					c["iat"], c["exp"] = past.Unix(), past.Add(2*time.Minute).Unix()
				}))
				denied(ctx, p, claims(p, func(c map[string]any) { delete(c, "exp") }))
			}},
		{Name: "admin/role", Ref: "trustee §2.5", Level: suite.Must,
			Want: "a token without the claim role, or with another than an administrator's, is 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				denied(ctx, p, claims(p, func(c map[string]any) { delete(c, "role") }))
				denied(ctx, p, claims(p, func(c map[string]any) { c["role"] = "" }))
				denied(ctx, p, claims(p, func(c map[string]any) { c["role"] = []string{"admin"} }))
				denied(ctx, p, claims(p, func(c map[string]any) { c["role"] = "conformance-nobody" }))
			}},
		{Name: "admin/stock-claims", Ref: "trustee §2.5, §5.4", Level: suite.Should,
			Want: "a token with role and exp alone counts where no issuer or audience is configured",
			Run: func(ctx context.Context, p *suite.Probe) {
				option := claims(p, func(c map[string]any) {
					delete(c, "aud")
					delete(c, "iat")
					c["exp"] = time.Now().AddDate(10, 0, 0).Unix() // as long as the stock set-up's
				})
				s.ask(ctx, p, http.MethodGet, prefix+"resource-policy", nil, option).demand(p, http.StatusOK,
					may{http.StatusUnauthorized, "tokens must name this server (aud) and be short-lived (iat), so that one " +
						"which leaks is of no use elsewhere or later"})
			}},
		{Name: "admin/guest-token", Ref: "trustee §1.3", Level: suite.Must,
			Want: "a guest's token, and its session, make no administrator",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := s.guest(ctx, p)
				denied(ctx, p, bearer(g.token))
				denied(ctx, p, withCookie(g.attempt.cookie))
			}},
		{Name: "admin/resource-set", Ref: "trustee §1.2", Level: suite.Must,
			Want: "POST resource/<repo>/<type>/<tag> answers 200, text/xml, empty; also over what was there, and for no bytes",
			Run: func(ctx context.Context, p *suite.Probe) {
				set(ctx, p, "admin/one", []byte("1"))
				set(ctx, p, "admin/one", []byte("2"))
				set(ctx, p, "admin/none", nil)
				set(ctx, p, "A_-1/b.c", []byte{0, 255})
			}},
		{Name: "admin/resource-delete", Ref: "trustee §1.2", Level: suite.Must,
			Want: "DELETE resource/<repo>/<type>/<tag> answers 200, text/xml, empty",
			Run: func(ctx context.Context, p *suite.Probe) {
				set(ctx, p, "admin/gone", []byte("1"))
				a := s.administer(ctx, p, http.MethodDelete, prefix+"resource/"+repository+"/admin/gone", nil)
				a.demand(p, http.StatusOK)
				p.Check(a.mediaType() == "text/xml" && len(a.body) == 0, "Content-Type %q, %d bytes",
					a.header.Get("Content-Type"), len(a.body))
			}},
		{Name: "admin/resource-path", Ref: "trustee §2.6", Level: suite.Must,
			Want: "a path that is not three segments of letters, digits, -, _ and (not first) . is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, path := range []string{"a/b", "a/b/c/d", "a//c", "/b/c", "a/b/", ".a/b/c", "a/../c", "a/b/..", "a/b/c%2Fd",
					"a/b/%2e%2e", "a/b/c%00", "a/b/c+d", "a/b/c:d", "a/b/\u00e9", ""} {
					s.administer(ctx, p, http.MethodPost, prefix+"resource/"+path, []byte("x")).harmless(p, "resource/"+path)
				}
			}},
		{Name: "admin/resource-limit", Ref: "trustee §1.1", Level: suite.Must, Want: "a resource over the limit is 413",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.tooLong(ctx, p, prefix+"resource/"+repository+"/admin/long", bearer(s.adminToken(p)))
			}},
		{Name: "admin/resource-longest", Ref: "trustee §1.1", Level: suite.Should,
			Want: "a resource as long as a body may be is stored",
			Run: func(ctx context.Context, p *suite.Probe) {
				set(ctx, p, "admin/longest", bytes.Repeat([]byte{7}, int(s.options.bodyLimit)))
				s.administer(ctx, p, http.MethodDelete, prefix+"resource/"+repository+"/admin/longest", nil).demand(p, http.StatusOK)
			}},
		{Name: "admin/resource-put", Ref: "trustee §1.2", Level: suite.Should,
			Want: "the plugin has no PUT: it is refused, and nothing is stored",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.administer(ctx, p, http.MethodPut, prefix+"resource/"+repository+"/admin/put", []byte("x")).harmless(p, "PUT")
			}},
		{Name: "admin/policy-ids", Ref: "trustee §1.2", Level: suite.Must,
			Want: "GET resource-policy answers a JSON array of policy ids",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.administer(ctx, p, http.MethodGet, prefix+"resource-policy", nil)
				a.demand(p, http.StatusOK)
				p.Check(a.mediaType() == "application/json", "Content-Type %q", a.header.Get("Content-Type"))
				var ids []string
				if err := json.Unmarshal(a.body, &ids); err != nil {
					p.Fatalf("not an array of strings: %.200s", a.body)
				}
				p.Check(len(ids) == 0 || slices.Contains(ids, "resource-policy"), "ids %q", ids)
			}},
		{Name: "admin/policy-set", Ref: "trustee §1.2, §2.6", Level: suite.Must,
			Want: "POST resource-policy {\"policy\":<base64url of Rego>} answers 200 and nothing",
			Run: func(ctx context.Context, p *suite.Probe) {
				plain, ok := s.setPolicy(ctx, p, suitePolicy)
				p.Check(ok, "the policy is not taken: %d %.200s", plain.status, plain.body)
				plain.demand(p, http.StatusOK, may{http.StatusBadRequest, "a policy that does not look at the init-data lets " +
					"whoever starts a guest bring his own; it must be asked for by unsafe_any_initdata"})
				deny := s.administer(ctx, p, http.MethodPost, prefix+"resource-policy",
					policyBody("package policy\n\ndefault allow = false\n"))
				deny.demand(p, http.StatusOK)
				p.Check(len(deny.body) == 0, "a body of %d bytes", len(deny.body))
			}},
		{Name: "admin/policy-bad", Ref: "trustee §2.6", Level: suite.Must,
			Want: "a body that is not the message, base64url or Rego is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				unreadable(ctx, p, "resource-policy", map[string][]byte{
					"no body": {}, "no JSON": []byte("{"), "no policy": []byte("{}"), "a number": []byte(`{"policy":1}`),
					"no base64": []byte(`{"policy":"***"}`), "no Rego": policyBody("this is not Rego"),
				})
			}},
		{Name: "admin/refvalue", Ref: "trustee §1.2, §4.2", Level: suite.Must,
			Want: "POST reference-value answers 200, application/json, empty; GET answers the value alone, whatever JSON it is",
			Run: func(ctx context.Context, p *suite.Probe) {
				values := map[string]any{"conformance_list": []any{"a", "b"}, "conformance-number": 7.0, "conformance.flag": true,
					"conformance/of/segments": map[string]any{"x": nil}, "conformance_text": "t"}
				a := s.administer(ctx, p, http.MethodPost, prefix+"reference-value", rvpsMessage("sample", values))
				a.demand(p, http.StatusOK)
				p.Check(a.mediaType() == "application/json" && len(a.body) == 0, "%s: Content-Type %q, %d bytes", a.what,
					a.header.Get("Content-Type"), len(a.body))
				for _, name := range slices.Sorted(maps.Keys(values)) {
					got := s.administer(ctx, p, http.MethodGet, prefix+"reference-value/"+name, nil)
					if !got.demand(p, http.StatusOK) {
						continue
					}
					var value any
					p.Check(json.Unmarshal(got.body, &value) == nil && reflect.DeepEqual(value, values[name]), "%s: %.100s", name,
						got.body)
					p.Check(got.mediaType() == "application/json", "%s: Content-Type %q", name, got.header.Get("Content-Type"))
				}
			}},
		{Name: "admin/refvalue-over", Ref: "trustee §4.3", Level: suite.Must, Want: "registering again replaces the value",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, value := range []string{"1", "2"} {
					s.administer(ctx, p, http.MethodPost, prefix+"reference-value",
						rvpsMessage("sample", map[string]any{"conformance_again": value})).demand(p, http.StatusOK)
				}
				got := s.administer(ctx, p, http.MethodGet, prefix+"reference-value/conformance_again", nil)
				p.Check(string(bytes.TrimSpace(got.body)) == `"2"`, "%.100s", got.body)
			}},
		{Name: "admin/refvalue-version", Ref: "trustee §4.2", Level: suite.Should, Want: "version may be absent",
			Run: func(ctx context.Context, p *suite.Probe) {
				payload := base64.StdEncoding.EncodeToString([]byte(`{"conformance_default":1}`))
				s.administer(ctx, p, http.MethodPost, prefix+"reference-value",
					[]byte(`{"type":"sample","payload":"`+payload+`"}`)).demand(p, http.StatusOK)
			}},
		{Name: "admin/refvalue-missing", Ref: "trustee §1.2", Level: suite.Must,
			Want: "a reference value that is not there is 401 RvpsError",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.administer(ctx, p, http.MethodGet, prefix+"reference-value/conformance_never_set", nil).
					refused(p, http.StatusUnauthorized, refusal{variants: []string{"RvpsError"}},
						may{http.StatusNotFound, "there is none; administrators' tools can tell that from not being let in"})
			}},
		{Name: "admin/refvalue-bad", Ref: "trustee §4.2", Level: suite.Must,
			Want: "another version or type, and a payload that is not base64 of an object, are refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				object := base64.StdEncoding.EncodeToString([]byte(`{"conformance_bad":1}`))
				unreadable(ctx, p, "reference-value", map[string][]byte{
					"another version": rawMessage("0.2.0", "sample", object), "another type": rawMessage("0.1.0", "none", object),
					"no base64":   rawMessage("0.1.0", "sample", "***"),
					"no object":   rawMessage("0.1.0", "sample", base64.StdEncoding.EncodeToString([]byte("[1]"))),
					"no JSON":     rawMessage("0.1.0", "sample", base64.StdEncoding.EncodeToString([]byte("{"))),
					"no message":  []byte("[]"),
					"no body":     {},
					"swid: empty": rawMessage("0.1.0", "swid", ""),
				})
			}},
		{Name: "admin/refvalue-corim", Ref: "trustee §4.2", Level: suite.Should,
			Want: "the types swid and corim are understood",
			Run: func(ctx context.Context, p *suite.Probe) {
				// Two ways to find out without a document of either type: the refusal must be about the payload.
				for _, kind := range []string{"swid", "corim"} {
					a := s.administer(ctx, p, http.MethodPost, prefix+"reference-value",
						rawMessage("0.1.0", kind, base64.StdEncoding.EncodeToString([]byte("x"))))
					a.harmless(p, kind)
					if strings.Contains(text(a.objectIf(a.status), "detail"), "not supported") {
						p.Differsf("%s: not supported; register the values themselves with the type sample", kind)
					}
				}
			}},
		{Name: "admin/attestation-policy", Ref: "trustee §1.2, §3.5", Level: suite.Must,
			Want: "a body that is not the message, base64url or Rego is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				bad := b64url.EncodeToString([]byte("this is not Rego"))
				unreadable(ctx, p, "attestation-policy", map[string][]byte{
					"no body": {}, "no JSON": []byte("{"), "no members": []byte("{}"),
					"no base64": []byte(`{"type":"rego","policy_id":"default_cpu","policy":"***"}`),
					"no Rego":   []byte(`{"type":"rego","policy_id":"default_cpu","policy":"` + bad + `"}`),
				})
			}},
		{Name: "admin/attestation-policy-id", Ref: "trustee §1.2, §3.5", Level: suite.Should,
			Want: "a policy may be set under any id",
			Run: func(ctx context.Context, p *suite.Probe) {
				policy := b64url.EncodeToString([]byte(appraisalPolicy))
				s.administer(ctx, p, http.MethodPost, prefix+"attestation-policy",
					[]byte(`{"type":"rego","policy_id":"conformance_cpu","policy":"`+policy+`"}`)).demand(p, http.StatusOK,
					may{http.StatusBadRequest, "no evidence is ever appraised by it, for servers always ask for the policies " +
						"\"default\"; a slip in the id would go unnoticed"})
			}},
	}
}
