// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// maxAnswer caps what is read of an answer, in bytes.
const maxAnswer = 8 << 20

// page is an answer of the REST service.
type page struct {
	what   string
	status int
	header http.Header
	body   []byte
}

func (a page) mediaType() string {
	t, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		return a.header.Get("Content-Type")
	}
	return t
}

// ask sends one request: the path goes onto the wire as it is given.
func (g *guest) ask(ctx context.Context, p *suite.Probe, base, method, path string, body []byte) page {
	if base == "" {
		p.Skipf("no REST service to ask (--rest)")
	}
	target, err := url.Parse(base)
	if err != nil || target.Host == "" {
		p.Fatalf("%q is no URL: %v", base, err)
	}
	r := (&http.Request{Method: method, Host: target.Host, Header: http.Header{},
		URL: &url.URL{Scheme: target.Scheme, Host: target.Host, Opaque: "//" + target.Host + path}}).WithContext(ctx)
	if body != nil {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		p.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	a := page{what: method + " " + path, status: response.StatusCode, header: response.Header}
	if a.body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer)); err != nil {
		p.Fatalf("%s: %v", a.what, err)
	}
	return a
}

// says checks a status and a part of the body.
func (a page) says(p *suite.Probe, status int, text string) {
	p.Check(a.status == status, "%s: status %d, want %d: %.200s", a.what, a.status, status, a.body)
	p.Check(strings.Contains(string(a.body), text), "%s: %.200q does not contain %q", a.what, a.body, text)
}

func (g *guest) restCases() []suite.Case {
	ask := func(ctx context.Context, p *suite.Probe, method, path string, body []byte) page {
		return g.ask(ctx, p, g.rest, method, path, body)
	}
	info := func(ctx context.Context, p *suite.Probe) map[string]any {
		a := ask(ctx, p, http.MethodGet, "/info", nil)
		var members map[string]any
		if a.status != http.StatusOK || json.Unmarshal(a.body, &members) != nil {
			p.Fatalf("GET /info: status %d: %.200s", a.status, a.body)
		}
		return members
	}
	feature := func(ctx context.Context, p *suite.Probe, name string) bool {
		f := info(ctx, p)["feature"]
		return f == name || f == "all"
	}
	resource := func(p *suite.Probe) string {
		if g.resource == "" {
			p.Skipf("no resource to ask for (--resource)")
		}
		return "/cdh/resource/" + strings.TrimPrefix(g.resource, "kbs:///")
	}
	// released checks that an answer is the resource.
	released := func(p *suite.Probe, a page) {
		if !p.Check(a.status == http.StatusOK, "%s: status %d: %.200s", a.what, a.status, a.body) {
			return
		}
		p.Check(a.mediaType() == "application/octet-stream", "%s: Content-Type %q", a.what, a.header.Get("Content-Type"))
		if g.value != nil {
			p.Check(bytes.Equal(a.body, g.value), "%s: %d bytes, want %d others", a.what, len(a.body), len(g.value))
		}
	}
	const ref = "guest-components §4"
	return []suite.Case{
		{Name: "rest/info", Ref: ref, Level: suite.Must,
			Want: "GET /info is JSON {version: \"Guest Components Version: …\", tee?, additional_tees?, feature}",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := ask(ctx, p, http.MethodGet, "/info", nil)
				p.Check(a.mediaType() == "application/json", "Content-Type %q", a.header.Get("Content-Type"))
				members := info(ctx, p)
				version, _ := members["version"].(string)
				p.Check(strings.HasPrefix(version, "Guest Components Version: "), "version %q", version)
				p.Check(slices.Contains([]any{"resource", "attestation", "all"}, members["feature"]), "feature %v", members["feature"])
				if tee, ok := members["tee"]; ok {
					name, _ := tee.(string)
					p.Check(slices.Contains(teeNames, name), "tee %v", tee)
				}
				if more, ok := members["additional_tees"]; ok {
					list, _ := more.([]any)
					p.Check(len(list) > 0, "additional_tees %v", more)
				}
			}},
		{Name: "rest/info-method", Ref: ref, Level: suite.Must, Want: "another method than GET is 405, \"Method Not Allowed\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, method := range []string{"POST", "PUT", "DELETE"} {
					ask(ctx, p, method, "/info", nil).says(p, http.StatusMethodNotAllowed, "Method Not Allowed")
				}
			}},
		{Name: "rest/elsewhere", Ref: ref, Level: suite.Must, Want: "another path is 404, \"URL NOT FOUND\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, path := range []string{"/", "/none", "/cdh", "/cdh/", "/cdh/none", "/infos", "/INFO"} {
					ask(ctx, p, http.MethodGet, path, nil).says(p, http.StatusNotFound, "URL NOT FOUND")
				}
			}},
		{Name: "rest/resource", Ref: ref, Level: suite.Must,
			Want: "GET /cdh/resource/<repository>/<type>/<tag> is 200, application/octet-stream, the resource's bytes",
			Run: func(ctx context.Context, p *suite.Probe) {
				released(p, ask(ctx, p, http.MethodGet, resource(p), nil))
			}},
		{Name: "rest/resource-query", Ref: ref, Level: suite.Should, Want: "a query is dropped",
			Run: func(ctx context.Context, p *suite.Probe) {
				released(p, ask(ctx, p, http.MethodGet, resource(p)+"?a=b&a=c", nil))
			}},
		{Name: "rest/resource-method", Ref: ref, Level: suite.Should, Want: "any method gets the resource",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
					released(p, ask(ctx, p, method, resource(p), nil))
				}
				head := ask(ctx, p, http.MethodHead, resource(p), nil)
				p.Check(head.status == http.StatusOK && len(head.body) == 0, "HEAD: status %d, %d bytes", head.status, len(head.body))
			}},
		{Name: "rest/resource-body", Ref: ref, Level: suite.Should, Want: "a body is not looked at",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := ask(ctx, p, http.MethodPost, resource(p), []byte(`{"path":"other"}`))
				if a.status == http.StatusRequestEntityTooLarge {
					p.Differsf("%s: 413: nothing here takes a body, and none is read", a.what)
					return
				}
				released(p, a)
			}},
		{Name: "rest/resource-missing", Ref: ref, Level: suite.Must, Want: "a resource that is not there is 500 with the error's text",
			Run: func(ctx context.Context, p *suite.Probe) {
				if g.missing == "" {
					p.Skipf("no resource to ask for (--missing)")
				}
				a := ask(ctx, p, http.MethodGet, "/cdh/resource/"+strings.TrimPrefix(g.missing, "kbs:///"), nil)
				p.Check(len(a.body) > 0, "no text")
				if a.status == http.StatusNotFound {
					p.Differsf("%s: 404 where the stock service answers 500: who asks can tell that there is none from a failure", a.what)
					return
				}
				p.Check(a.status == http.StatusInternalServerError, "status %d", a.status)
			}},
		{Name: "rest/resource-path", Ref: "guest-components §2.3, §4", Level: suite.Must,
			Want: "what is no resource's path is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, path := range []string{"", "a", "a/b", "a/b/c/d/e/f", "a//c", "a/../../c", "a/b/%2e%2e", "a/b/c%2Fd", "a/b/c%00"} {
					a := ask(ctx, p, http.MethodGet, "/cdh/resource/"+path, nil)
					p.Check(a.status >= 400 && a.status <= 599, "%s: status %d", a.what, a.status)
				}
			}},
		{Name: "rest/attestation", Ref: ref, Level: suite.Must,
			Want: "without the feature, /aa/… is 404, \"Attestation Feature Not Enabled\"; with it, a token and evidence are served",
			Run: func(ctx context.Context, p *suite.Probe) {
				routes := []string{"/aa/token?token_type=kbs", "/aa/evidence?runtime_data=text",
					"/aa/evidence?runtime_data=dGV4dA&encoding=base64"}
				if !feature(ctx, p, "attestation") {
					for _, route := range append(routes, "/aa/additional-evidence?runtime_data=text") {
						ask(ctx, p, http.MethodGet, route, nil).says(p, http.StatusNotFound, "Attestation Feature Not Enabled")
					}
					ask(ctx, p, http.MethodPost, "/aa/aael", []byte(`{"domain":"a","operation":"b","content":"c"}`)).
						says(p, http.StatusNotFound, "Attestation Feature Not Enabled")
					return
				}
				for _, route := range routes {
					a := ask(ctx, p, http.MethodGet, route, nil)
					p.Check(a.status == http.StatusOK && json.Valid(a.body), "%s: status %d: %.100s", a.what, a.status, a.body)
					p.Check(a.mediaType() == "application/octet-stream", "%s: Content-Type %q", a.what, a.header.Get("Content-Type"))
				}
				for _, route := range []string{"/aa/token", "/aa/evidence", "/aa/evidence?runtime_data=%21&encoding=base64"} {
					a := ask(ctx, p, http.MethodGet, route, nil)
					p.Check(a.status == http.StatusBadRequest, "%s: status %d, want 400", a.what, a.status)
				}
				a := ask(ctx, p, http.MethodPost, "/aa/token?token_type=kbs", nil)
				p.Check(a.status == http.StatusNotFound, "%s: status %d, want 404", a.what, a.status)
			}},
		{Name: "rest/event", Ref: ref, Level: suite.Must,
			Want: "POST /aa/aael answers {\"success\":\"true\"} or {\"success\":\"false\",\"message\":…}, in strings",
			Run: func(ctx context.Context, p *suite.Probe) {
				if !feature(ctx, p, "attestation") {
					p.Skipf("the service has not the feature")
				}
				if !g.extend {
					p.Skipf("it would extend a register (--extend)")
				}
				a := ask(ctx, p, http.MethodPost, "/aa/aael", []byte(`{"domain":"conformance","operation":"Extend","content":"c"}`))
				var members map[string]any
				p.Check(a.status == http.StatusOK && json.Unmarshal(a.body, &members) == nil, "status %d: %.200s", a.status, a.body)
				p.Check(members["success"] == "true" || members["success"] == "false" && members["message"] != nil, "%.200s", a.body)
			}},
		{Name: "rest/resource-feature", Ref: ref, Level: suite.Must,
			Want: "without the feature, /cdh/resource/… is 404, \"Resource Feature Not Enabled\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				if feature(ctx, p, "resource") {
					p.Skipf("the service has the feature")
				}
				ask(ctx, p, http.MethodGet, "/cdh/resource/a/b/c", nil).says(p, http.StatusNotFound, "Resource Feature Not Enabled")
			}},
		{Name: "rest/peer", Ref: ref, Level: suite.Must, Want: "a peer that is not on the loopback is 403, \"Forbidden\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				if g.restOutside == "" {
					p.Skipf("no other address to ask at (--rest-outside)")
				}
				g.ask(ctx, p, g.restOutside, http.MethodGet, "/info", nil).says(p, http.StatusForbidden, "Forbidden")
			}},
	}
}
