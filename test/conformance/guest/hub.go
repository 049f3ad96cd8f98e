// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"

	"github.com/nacre-project/nacre/test/conformance/suite"
	wire "github.com/nacre-project/nacre/test/conformance/ttrpcwire"
)

const (
	resourceService = "api.GetResourceService"
	hubError        = "[CDH] [ERROR]: "
)

// whyCode is why a failure may have another code than the stock hub's one.
const whyCode = "the code tells a refusal, a resource that is not there and a broker that is away apart; the stock hub " +
	"keeps that to its log"

func getResource(uri string) wire.Request {
	return wire.Request{Service: resourceService, Method: "GetResource", Payload: wire.AppendString(nil, 1, uri)}
}

func (g *guest) cdhCases() []suite.Case {
	probe := getResource("conformance:///not/a/resource") // refused without asking a broker
	s := service{name: "cdh", socket: g.cdh, flag: "--cdh", probe: probe}
	if g.missing != "" {
		s.slow = getResource(g.missing)
	}
	got := func(ctx context.Context, p *suite.Probe, uri string) {
		answer := s.call(ctx, p, getResource(uri))
		if !p.Check(answer.Code == wire.OK, "%s: code %d %q", uri, answer.Code, answer.Message) {
			return
		}
		fields, err := wire.Fields(answer.Payload)
		if err != nil {
			p.Fatalf("%v", err)
		}
		value, _ := wire.Text(fields, 1)
		if g.value != nil {
			p.Check(bytes.Equal([]byte(value), g.value), "%s: %d bytes, want %d others", uri, len(value), len(g.value))
		}
	}
	failed := func(p *suite.Probe, what string, answer wire.Response, text string) {
		p.Check(answer.Code != wire.OK, "%s: it succeeded", what)
		if answer.Code != wire.OK && answer.Code != wire.Internal {
			p.Differsf("code %d where the stock hub answers INTERNAL: %s", answer.Code, whyCode)
		}
		p.Check(strings.HasPrefix(answer.Message, hubError+text), "%s: message %q, want %q first", what, answer.Message,
			hubError+text)
	}
	// optional asks for what the stock hub serves and a guest that does the work itself need not.
	optional := func(ctx context.Context, p *suite.Probe, r wire.Request, text, why string) {
		answer := s.call(ctx, p, r)
		if answer.Code == wire.NotFound && strings.HasSuffix(answer.Message, "is not supported") {
			notSupported(p, r, answer)
			p.Differsf("not served: %s", why)
			return
		}
		failed(p, r.Method, answer, text)
	}
	list := []suite.Case{
		{Name: "cdh/GetResource", Ref: "guest-components §2.1, §2.3", Level: suite.Must,
			Want: "GetResourceResponse{bytes Resource = 1} is the resource; kbs+resource:// is the same, the host is not looked at",
			Run: func(ctx context.Context, p *suite.Probe) {
				if g.resource == "" {
					p.Skipf("no resource to ask for (--resource)")
				}
				path := strings.TrimPrefix(g.resource, "kbs:///")
				for _, uri := range []string{g.resource, "kbs+resource:///" + path, "kbs://some.host:8080/" + path} {
					got(ctx, p, uri)
				}
			}},
		{Name: "cdh/GetResource-again", Ref: "guest-components §2.4", Level: suite.Must,
			Want: "a resource may be asked for again and again, by several at a time",
			Run: func(ctx context.Context, p *suite.Probe) {
				if g.resource == "" {
					p.Skipf("no resource to ask for (--resource)")
				}
				conn := s.dial(ctx, p)
				defer conn.Close()
				s := s
				s.probe = getResource(g.resource)
				s.together(ctx, p, conn, []uint32{1, 3, 5, 7})
			}},
		{Name: "cdh/GetResource-missing", Ref: "guest-components §2.1", Level: suite.Must,
			Want: "a resource that is not there is INTERNAL, \"[CDH] [ERROR]: Get Resource failed\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				if g.missing == "" {
					p.Skipf("no resource to ask for (--missing)")
				}
				failed(p, g.missing, s.call(ctx, p, getResource(g.missing)), "Get Resource failed")
			}},
		{Name: "cdh/GetResource-uri", Ref: "guest-components §2.3", Level: suite.Must,
			Want: "what is no resource URI is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, uri := range []string{"", "http:///default/db/password", "kbs+:///default/db/password", "kbs:/a/b/c",
					"default/db/password", "kbs://", "kbs:///", "KBS:///a/b/c", "kbs:///a/../c", strings.Repeat("x", 1<<20)} {
					what := uri
					if len(what) > 40 {
						what = what[:40] + "…"
					}
					failed(p, what, s.call(ctx, p, getResource(uri)), "Get Resource failed")
				}
			}},
		{Name: "cdh/GetResource-scheme", Ref: "guest-components §2.3", Level: suite.Should,
			Want: "the reason is told: \"scheme must be kbs or kbs+<plugin>\", \"scheme kbs+ requires a plugin name\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				for uri, text := range map[string]string{"http:///a/b/c": "scheme must be kbs or kbs+<plugin>",
					"kbs+:///a/b/c": "scheme kbs+ requires a plugin name"} {
					answer := s.call(ctx, p, getResource(uri))
					p.Check(strings.Contains(answer.Message, text), "%s: %q", uri, answer.Message)
				}
			}},
		{Name: "cdh/UnsealSecret", Ref: "guest-components §2.1, §2.5", Level: suite.Must,
			Want: "what is no sealed secret is INTERNAL, \"[CDH] [ERROR]: Unseal Secret failed\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, text := range []string{"", "sealed.", "sealed.a.b.c", "not sealed", "sealed.fakejwsheader.e30.fakesignature"} {
					optional(ctx, p, wire.Request{Service: "api.SealedSecretService", Method: "UnsealSecret",
						Payload: wire.AppendString(nil, 1, text)}, "Unseal Secret failed",
						"the guest's agent opens sealed secrets itself")
				}
			}},
		{Name: "cdh/SecureMount", Ref: "guest-components §2.1, §2.8", Level: suite.Must,
			Want: "a volume of a type that is not known is INTERNAL, \"[CDH] [ERROR]: Secure Mount failed\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				payload := wire.AppendString(nil, 1, "conformance")
				payload = wire.AppendBytes(payload, 2, wire.AppendString(wire.AppendString(nil, 1, "key"), 2, "value"))
				payload = wire.AppendString(wire.AppendString(payload, 3, "flag"), 4, "/nowhere")
				optional(ctx, p, wire.Request{Service: "api.SecureMountService", Method: "SecureMount", Payload: payload},
					"Secure Mount failed", "the guest's agent mounts volumes itself")
			}},
		{Name: "cdh/PullImage", Ref: "guest-components §2.1, §2.9", Level: suite.Must,
			Want: "what is no image reference is INTERNAL, \"[CDH] [ERROR]: Image Pull error: …\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				payload := wire.AppendString(wire.AppendString(nil, 1, "::not an image::"), 2, "/nowhere")
				optional(ctx, p, wire.Request{Service: "api.ImagePullService", Method: "PullImage", Payload: payload},
					"Image Pull error", "the guest's agent pulls images itself")
			}},
		{Name: "cdh/UnWrapKey", Ref: "guest-components §2.1, §2.7", Level: suite.Must,
			Want: "what is no key provider's message is an error",
			Run: func(ctx context.Context, p *suite.Probe) {
				optional(ctx, p, wire.Request{Service: "keyprovider.KeyProviderService", Method: "UnWrapKey",
					Payload: wire.AppendString(nil, 1, "{}")}, "", "the guest opens image layers itself")
			}},
		{Name: "cdh/WrapKey", Ref: "guest-components §2.1", Level: suite.Must,
			Want: "WrapKey is not served in a guest: NOT_FOUND",
			Run: func(ctx context.Context, p *suite.Probe) {
				r := wire.Request{Service: "keyprovider.KeyProviderService", Method: "WrapKey",
					Payload: wire.AppendString(nil, 1, "{}")}
				notSupported(p, r, s.call(ctx, p, r))
			}},
	}
	return append(list, s.transportCases()...)
}
