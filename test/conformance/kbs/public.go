// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// Reasons why an answer may be another than stock servers'. Fact sheet: trustee §8.6, "safely different".
const (
	whyBadRequest = "the request cannot be understood, which another attestation would not mend; stock guests take any " +
		"status but 401 for final"
	whyForbidden = "a policy's denial is final; 401 would make stock guests attest again, three times"
	whyNotFound  = "stock guests take 404 for \"there is none\" and do not attest again"
	whyMethod    = "RFC 9110 §15.5.6: the path is there and the method is not"
)

// metricNames are the families that dashboards of stock servers draw (trustee §2.8). A family without any sample may
// be absent from the text, so only those that the suite makes the server count are looked for.
var metricNames = []string{
	"kbs_build_info", "kbs_http_requests_total", "kbs_http_request_duration_seconds", "kbs_http_request_size_bytes",
	"kbs_http_response_size_bytes", "kbs_http_active_connections", "kbs_policy_evaluations_total",
	"kbs_policy_approvals_total", "kbs_policy_violations_total", "kbs_policy_errors_total",
	"kbs_attestation_requests_total", "kbs_attestation_errors_total", "kbs_auth_requests_total",
	"kbs_auth_successes_total", "kbs_auth_errors_total",
}

func (s *server) publicCases() []suite.Case {
	return []suite.Case{
		{Name: "public/healthz", Ref: "trustee §1.1", Level: suite.Must, Want: "GET /healthz answers 200 and nothing",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.ask(ctx, p, http.MethodGet, "/healthz", nil)
				a.demand(p, http.StatusOK)
				p.Check(len(a.body) == 0, "a body of %d bytes", len(a.body))
			}},
		{Name: "public/metrics", Ref: "trustee §1.1", Level: suite.Must,
			Want: "GET /metrics answers 200 with Prometheus text, to anybody",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.ask(ctx, p, http.MethodGet, "/metrics", nil)
				a.demand(p, http.StatusOK)
				p.Check(a.mediaType() == "text/plain", "Content-Type %q", a.header.Get("Content-Type"))
				p.Check(strings.Contains(string(a.body), "# TYPE kbs_"), "no family of kbs_: %.200s", a.body)
			}},
		{Name: "public/metrics-names", Ref: "trustee §2.8", Level: suite.Should,
			Want: "the families that dashboards of stock servers draw are there",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.ask(ctx, p, http.MethodGet, "/metrics", nil)
				for _, name := range metricNames {
					p.Check(strings.Contains(string(a.body), "# TYPE "+name+" "), "no family %s", name)
				}
			}},
		{Name: "public/metrics-post", Ref: "trustee §1.1", Level: suite.Should, Want: "POST /metrics is 405",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.ask(ctx, p, http.MethodPost, "/metrics", nil).demand(p, http.StatusMethodNotAllowed)
			}},
		{Name: "public/methods", Ref: "trustee §1.1", Level: suite.Must,
			Want: "methods other than GET, POST, PUT and DELETE are 405 below the prefix",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, method := range []string{"PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "get"} {
					for _, path := range []string{"auth", "resource/" + repository + "/text/one", "none/x"} {
						s.ask(ctx, p, method, prefix+path, nil).demand(p, http.StatusMethodNotAllowed)
					}
				}
			}},
		{Name: "public/allow-header", Ref: "RFC 9110 §15.5.6", Level: suite.Should,
			Want: "a 405 names in Allow the methods that the path has, and not the one refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for method, path := range map[string]string{"PATCH": "auth", "PUT": "resource/" + repository + "/text/one"} {
					a := s.ask(ctx, p, method, prefix+path, nil)
					if a.status != http.StatusMethodNotAllowed {
						continue
					}
					allow := a.header.Get("Allow")
					p.Check(allow != "", "%s: no Allow header", a.what)
					p.Check(!slices.Contains(strings.Split(allow, ", "), method), "%s: Allow is %q", a.what, allow)
				}
			}},
		{Name: "public/builtin-other-method", Ref: "trustee §1.1", Level: suite.Must,
			Want: "a built-in name with another method falls through to plugins: 404 PluginNotFound",
			Run: func(ctx context.Context, p *suite.Probe) {
				for path, method := range map[string]string{"auth": "GET", "attest": "PUT", "attestation-policy": "DELETE",
					"resource-policy": "DELETE", "reference-value": "PUT"} {
					a := s.ask(ctx, p, method, prefix+path, nil)
					want := refusal{}
					if a.status == http.StatusNotFound {
						want.variants = []string{"PluginNotFound"}
					}
					a.refused(p, http.StatusNotFound, want, may{http.StatusMethodNotAllowed, whyMethod})
				}
			}},
		{Name: "public/plugin-unknown", Ref: "trustee §1.3, §1.9", Level: suite.Must,
			Want: "a plugin that is not there is 404 PluginNotFound, \"Plugin <name> not found\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
					s.ask(ctx, p, method, prefix+"no-such-plugin/a/b", nil).refused(p, http.StatusNotFound,
						refusal{[]string{"PluginNotFound"}, "Plugin no-such-plugin not found"})
				}
			}},
		{Name: "public/plugin-empty", Ref: "trustee §1.1", Level: suite.Should,
			Want: "the prefix alone names the plugin \"\", which is not there: 404",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.ask(ctx, p, http.MethodGet, prefix, nil).refused(p, http.StatusNotFound, refusal{})
			}},
		{Name: "public/elsewhere", Ref: "trustee §1.1", Level: suite.Should,
			Want: "paths outside of the prefix are 404, and nobody is redirected",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, path := range []string{"/", "/kbs", "/kbs/v1/auth", "//kbs/v0/auth", "/kbs/v0/../v0/auth",
					"/KBS/V0/auth"} {
					a := s.ask(ctx, p, http.MethodGet, path, nil)
					p.Check(a.status >= 400 && a.status < 500, "%s: status %d", a.what, a.status)
				}
			}},
		{Name: "public/tls", Ref: "trustee §2.2", Level: suite.Should,
			Want: "TLS 1.1 and older are refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				base, err := url.Parse(s.base)
				if err != nil || base.Scheme != "https" {
					p.Skipf("the server is asked without TLS")
				}
				address := base.Host
				if base.Port() == "" {
					address = net.JoinHostPort(base.Hostname(), "443")
				}
				config := s.tls.Clone()
				config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
				conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
				if err == nil {
					conn.Close()
				}
				p.Check(err != nil, "it is accepted")
			}},
		{Name: "public/jwks", Ref: "trustee §3.1, §3.6", Level: suite.Should,
			Want: "the key set is there: {\"keys\":[…]}, public P-256 keys for ES256",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, key := range s.keySet(ctx, p) {
					p.Check(key["kty"] == "EC" && key["crv"] == "P-256", "a key of kty %v on %v", key["kty"], key["crv"])
					p.Check(key["alg"] == "ES256", "a key for alg %v", key["alg"])
					p.Check(key["d"] == nil, "a private key is published")
				}
			}},
	}
}

// keySet fetches the key set.
func (s *server) keySet(ctx context.Context, p *suite.Probe) []map[string]any {
	if s.options.jwksURL == "" {
		p.Skipf("the server has no key set (--jwks-path)")
	}
	a := s.ask(ctx, p, http.MethodGet, s.options.jwksURL, nil)
	if !a.demand(p, http.StatusOK) {
		p.Fatalf("no key set")
	}
	p.Check(a.mediaType() == "application/json" || a.mediaType() == "application/jwk-set+json", "Content-Type %q",
		a.header.Get("Content-Type"))
	list, _ := a.object(p)["keys"].([]any)
	var keys []map[string]any
	for _, k := range list {
		key, ok := k.(map[string]any)
		if !ok {
			p.Fatalf("a key that is not an object")
		}
		keys = append(keys, key)
	}
	p.Check(len(keys) > 0, "no keys in it: %.200s", a.body)
	return keys
}

// teeNames are all platforms of the protocol (trustee §1.4).
var teeNames = []string{"az-snp-vtpm", "az-tdx-vtpm", "sgx", "snp", "tdx", "cca", "csv", "se", "tpm", "nvidia",
	"hygondcu", "sample", "sampledevice"}

const (
	authFailed   = "RCAR handshake Auth failed"
	attestFailed = "RCAR handshake Attest failed"
)

func (s *server) authCases() []suite.Case {
	auth := func(ctx context.Context, p *suite.Probe, body string, options ...option) *answer {
		return s.ask(ctx, p, http.MethodPost, prefix+"auth", []byte(body), options...)
	}
	request := func(version, tee, extra string) string {
		return fmt.Sprintf(`{"version":%q,"tee":%q,"extra-params":%s}`, version, tee, extra)
	}
	refusedOrBad := func(a *answer, p *suite.Probe) {
		want := refusal{variants: []string{"AttestationError", "SerdeError"}}
		a.refused(p, http.StatusUnauthorized, want, may{http.StatusBadRequest, whyBadRequest})
	}
	return []suite.Case{
		{Name: "auth/challenge", Ref: "trustee §1.2, §1.4", Level: suite.Must,
			Want: "a request is answered by 200 and {\"nonce\":<base64 of 32 bytes>,\"extra-params\":\"\" or an object}",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.ask(ctx, p, http.MethodPost, prefix+"auth", authBody(s.tee()), contentType("application/json"))
				if !a.demand(p, http.StatusOK) {
					return
				}
				p.Check(a.mediaType() == "application/json", "Content-Type %q", a.header.Get("Content-Type"))
				members := a.object(p)
				p.Check(slices.Equal(names(members), []string{"extra-params", "nonce"}), "members %q", names(members))
				if s.tee() != "se" {
					nonce, _ := members["nonce"].(string)
					raw, err := base64.StdEncoding.Strict().DecodeString(nonce)
					p.Check(err == nil && len(raw) == 32 && len(nonce) == 44, "nonce %q: %d bytes, %v", nonce, len(raw), err)
				}
				switch extra := members["extra-params"].(type) {
				case string:
					p.Check(extra == "", "extra-params %q", extra)
				case map[string]any:
					p.Check(extra["selected-hash-algorithm"] != nil || len(extra) == 0, "extra-params %v", extra)
				default:
					p.Failf("extra-params is a %T", extra)
				}
			}},
		{Name: "auth/fresh", Ref: "trustee §1.4, §1.7", Level: suite.Must,
			Want: "each challenge has a nonce and a session of its own",
			Run: func(ctx context.Context, p *suite.Probe) {
				seen := map[string]bool{}
				for range 8 {
					nonce, cookie, err := s.challenge(ctx)
					if err != nil {
						p.Fatalf("%v", err)
					}
					p.Check(!seen[nonce] && !seen[cookie], "a nonce or a session came twice")
					seen[nonce], seen[cookie] = true, true
				}
			}},
		{Name: "auth/content-type", Ref: "trustee §1.4", Level: suite.Should,
			Want: "the body counts, whatever the Content-Type says",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, t := range []string{"", "application/json; charset=utf-8", "text/plain"} {
					a := s.ask(ctx, p, http.MethodPost, prefix+"auth", authBody(s.tee()), func(r *http.Request) {
						if t != "" {
							r.Header.Set("Content-Type", t)
						}
					})
					p.Check(a.status == http.StatusOK, "Content-Type %q: status %d", t, a.status)
				}
			}},
		{Name: "auth/extra-params", Ref: "trustee §1.4", Level: suite.Must, Want: "extra-params may be any JSON",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, extra := range []string{`""`, `{}`, `{"supported-hash-algorithms":["sha384"]}`, `[]`, `null`, `5`,
					`"text"`, `{"a":{"b":[1,2.5e3,true]}}`} {
					a := auth(ctx, p, request("0.4.0", s.tee(), extra))
					p.Check(a.status == http.StatusOK, "extra-params %s: status %d", extra, a.status)
				}
			}},
		{Name: "auth/extra-members", Ref: "trustee §1.4, §1.11", Level: suite.Should,
			Want: "members that the protocol does not know are skipped, and order, space and escapes do not matter",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, body := range []string{
					`{"version":"0.4.0","tee":"` + s.tee() + `","extra-params":"","future":{"x":[1]}}`,
					" {\n\"extra-params\" : {},\t\"tee\":\"" + s.tee() + "\",\r\n\"version\":\"0.4.0\"} \n",
					`{"v\u0065rsion":"0\u002e4.0","tee":"` + s.tee() + `","extra-params":""}`,
				} {
					a := auth(ctx, p, body)
					p.Check(a.status == http.StatusOK, "%q: status %d: %.200s", body, a.status, a.body)
				}
			}},
		{Name: "auth/version", Ref: "trustee §1.4, §1.11", Level: suite.Must,
			Want: "a version other than 0.4.0 is 401, and the detail names both versions",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, v := range []string{"0.1.0", "0.1.1", "0.2.0", "0.3.0", "0.4.1", "0.5.0", "1.0.0", "0.4.0-alpha"} {
					auth(ctx, p, request(v, s.tee(), `""`)).refused(p, http.StatusUnauthorized, refusal{
						[]string{"AttestationError"},
						"KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is " + v})
				}
			}},
		{Name: "auth/version-text", Ref: "trustee §1.9", Level: suite.Must,
			Want: "a refusal's detail begins \"Attestation error: RCAR handshake Auth failed\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				auth(ctx, p, request("0.2.0", s.tee(), `""`)).refused(p, http.StatusUnauthorized,
					refusal{[]string{"AttestationError"}, "Attestation error: " + authFailed})
			}},
		{Name: "auth/version-malformed", Ref: "trustee §1.4", Level: suite.Must,
			Want: "what is not a version is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, v := range []string{"", "0.4", "v0.4.0", "0.4.0.0", " 0.4.0", "0.4.0\n", "latest"} {
					refusedOrBad(auth(ctx, p, request(v, s.tee(), `""`)), p)
				}
			}},
		{Name: "auth/platforms", Ref: "trustee §1.4", Level: suite.Must,
			Want: "each platform of the protocol is known, or refused as one without a verifier",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, tee := range teeNames {
					a := auth(ctx, p, request("0.4.0", tee, `{"supported-hash-algorithms":["sha256","sha384","sha512"]}`))
					if a.status == http.StatusOK {
						continue
					}
					a.refused(p, http.StatusUnauthorized, refusal{variants: []string{"AttestationError", "SerdeError"}})
				}
			}},
		{Name: "auth/platform-unknown", Ref: "trustee §1.4", Level: suite.Must, Want: "a platform of another name is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, tee := range []string{"", "SNP", "snp ", "unknown", "../snp", strings.Repeat("x", 4000)} {
					refusedOrBad(auth(ctx, p, request("0.4.0", tee, `""`)), p)
				}
			}},
		{Name: "auth/members", Ref: "trustee §1.4", Level: suite.Must,
			Want: "all three members are required, of the right types, once",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, body := range []string{
					`{"tee":"snp","extra-params":""}`, `{"version":"0.4.0","extra-params":""}`,
					`{"version":"0.4.0","tee":"snp"}`, `{"version":4,"tee":"snp","extra-params":""}`,
					`{"version":"0.4.0","tee":["snp"],"extra-params":""}`, `{"version":null,"tee":"snp","extra-params":""}`,
					`{"Version":"0.4.0","Tee":"snp","Extra-Params":""}`, `{"version":"0.4.0","tee":"snp","extra_params":""}`,
					`{"version":"0.4.0","tee":"snp","tee":"snp","extra-params":""}`,
				} {
					refusedOrBad(auth(ctx, p, body), p)
				}
			}},
		{Name: "auth/malformed", Ref: "trustee §1.9", Level: suite.Must,
			Want: "a body that is not the message is refused, and the server goes on",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, body := range []string{"", "{", "[]", "null", `"x"`, "0", "\x00", "\xff\xfe",
					string(authBody("snp")) + "{}", "{\"version\":\"0.4.0\",\"tee\":\"snp\xff\",\"extra-params\":\"\"}",
					strings.Repeat("[", 30000), strings.Repeat(`{"a":`, 10000)} {
					auth(ctx, p, body).harmless(p, fmt.Sprintf("%.20q", body))
				}
				deep := request("0.4.0", s.tee(), strings.Repeat("[", 9000)+strings.Repeat("]", 9000))
				if a := auth(ctx, p, deep); a.status != http.StatusOK {
					a.harmless(p, "deep extra-params")
				}
				if _, _, err := s.challenge(ctx); err != nil {
					p.Failf("afterwards: %v", err)
				}
			}},
		{Name: "auth/body-limit", Ref: "trustee §1.1, §2.2", Level: suite.Must,
			Want: "a body over the limit is 413",
			Run:  func(ctx context.Context, p *suite.Probe) { s.tooLong(ctx, p, prefix+"auth") }},
		{Name: "cookie/name", Ref: "trustee §1.7", Level: suite.Must,
			Want: "the challenge sets the cookie kbs-session-id with Expires, some minutes from now",
			Run: func(ctx context.Context, p *suite.Probe) {
				c := s.cookie(ctx, p)
				left := time.Until(c.Expires)
				p.Check(!c.Expires.IsZero() && left > 30*time.Second && left < 24*time.Hour, "Expires in %s", left)
				p.Check(len(c.Value) >= 22 && !strings.ContainsAny(c.Value, " \",;\\"), "value %q", c.Value)
			}},
		{Name: "cookie/value", Ref: "trustee §1.7", Level: suite.Should,
			Want: "the value is a UUID in 32 hex digits; nothing may depend on that",
			Run: func(ctx context.Context, p *suite.Probe) {
				c := s.cookie(ctx, p)
				if len(c.Value) != 32 || strings.Trim(c.Value, "0123456789abcdef") != "" {
					p.Differsf("a value of %d characters where stock servers' have 32 hex digits: clients return it as it is",
						len(c.Value))
				}
			}},
		{Name: "cookie/attributes", Ref: "trustee §8.6.2, RFC 6265 §5", Level: suite.Should,
			Want: "the cookie is HttpOnly, SameSite=Strict, Secure under TLS only, and for a path that covers the routes",
			Run: func(ctx context.Context, p *suite.Probe) {
				c := s.cookie(ctx, p)
				p.Check(c.HttpOnly, "not HttpOnly")
				p.Check(c.SameSite == http.SameSiteStrictMode, "not SameSite=Strict")
				p.Check(c.Secure == strings.HasPrefix(s.base, "https:"), "Secure is %t at %s", c.Secure, s.base)
				p.Check(c.Domain == "", "Domain %q", c.Domain)
				p.Check(c.Path == "" || c.Path == "/" || strings.HasPrefix(prefix, strings.TrimRight(c.Path, "/")+"/"),
					"Path %q", c.Path)
			}},
		{Name: "cookie/path", Ref: "RFC 6265 §5.1.4", Level: suite.Must,
			Want: "a cookie jar returns the cookie to attest and to resources: its path, if any, covers both",
			Run: func(ctx context.Context, p *suite.Probe) {
				c := s.cookie(ctx, p)
				if c.Path == "" { // the default path is that of the request, less its last segment: /kbs/v0
					return
				}
				p.Check(strings.HasPrefix(prefix, strings.TrimRight(c.Path, "/")+"/"), "Path %q", c.Path)
			}},
	}
}

func (s *server) cookie(ctx context.Context, p *suite.Probe) *http.Cookie {
	a := s.ask(ctx, p, http.MethodPost, prefix+"auth", authBody(s.tee()))
	c := a.cookie()
	if c == nil {
		p.Fatalf("status %d without the cookie %s", a.status, cookieName)
	}
	return c
}

// tooLong sends a body of one byte over the limit.
func (s *server) tooLong(ctx context.Context, p *suite.Probe, path string, options ...option) {
	body := []byte(strings.Repeat(" ", int(s.options.bodyLimit)+1))
	a, err := s.send(ctx, http.MethodPost, path, body, options...)
	if err != nil {
		p.Differsf("the connection was closed while the body was sent, where stock servers answer 413: %v", err)
		return
	}
	a.demand(p, http.StatusRequestEntityTooLarge)
}
