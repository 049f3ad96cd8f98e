// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/nacre-project/nacre/test/conformance/suite"
	wire "github.com/nacre-project/nacre/test/conformance/ttrpcwire"
)

const (
	kataService   = "grpc.AgentService"
	healthService = "grpc.Health"
)

// whyUnimplemented is why the Kata agent may tell of a missing method with gRPC's own code.
const whyUnimplemented = "UNIMPLEMENTED, which is what gRPC calls it, as servers written with the Go library answer"

// needsContainer are methods that, for a container that is not there, change nothing in a guest.
var needsContainer = strings.Fields(`StartContainer RemoveContainer SignalProcess WaitProcess WriteStdin ReadStdout
	ReadStderr CloseStdin TtyWinResize StatsContainer UpdateContainer PauseContainer ResumeContainer`)

// agentCases ask the Kata agent what can be asked before there is a pod: whether it is there, what it can do, and
// that it refuses what makes no sense.
func (g *guest) agentCases() []suite.Case {
	s := service{name: "agent", socket: g.agent, flag: "--agent", probe: wire.Request{Service: healthService, Method: "Check"}}
	list := []suite.Case{
		{Name: "agent/Check", Ref: "kata-peerpods §3.1", Level: suite.Must,
			Want: "Health.Check answers {status = 1: SERVING (1)}",
			Run: func(ctx context.Context, p *suite.Probe) {
				answer := s.call(ctx, p, s.probe)
				fields, err := wire.Fields(answer.Payload)
				p.Check(err == nil && answer.Code == wire.OK && wire.Number(fields, 1) == 1, "code %d %q, status %d, %v",
					answer.Code, answer.Message, wire.Number(fields, 1), err)
			}},
		{Name: "agent/Version", Ref: "kata-peerpods §3.1", Level: suite.Must,
			Want: "Health.Version answers {grpc_version = 1, agent_version = 2}",
			Run: func(ctx context.Context, p *suite.Probe) {
				answer := s.call(ctx, p, wire.Request{Service: healthService, Method: "Version"})
				fields, err := wire.Fields(answer.Payload)
				if err != nil || answer.Code != wire.OK {
					p.Fatalf("code %d %q, %v", answer.Code, answer.Message, err)
				}
				protocol, _ := wire.Text(fields, 1)
				version, _ := wire.Text(fields, 2)
				p.Check(protocol != "" && version != "", "grpc_version %q, agent_version %q", protocol, version)
			}},
		{Name: "agent/GetGuestDetails", Ref: "kata-peerpods §3.1", Level: suite.Must,
			Want: "GetGuestDetails answers {agent_details = 2 {version = 1, …}}",
			Run: func(ctx context.Context, p *suite.Probe) {
				answer := s.call(ctx, p, wire.Request{Service: kataService, Method: "GetGuestDetails"})
				if answer.Code == wire.PermissionDenied {
					p.Skipf("the agent's policy does not allow it: %s", answer.Message)
				}
				fields, err := wire.Fields(answer.Payload)
				if err != nil || answer.Code != wire.OK {
					p.Fatalf("code %d %q, %v", answer.Code, answer.Message, err)
				}
				details, _ := wire.Text(fields, 2)
				inner, err := wire.Fields([]byte(details))
				version, _ := wire.Text(inner, 1)
				p.Check(err == nil && version != "", "agent_details.version %q, %v", version, err)
			}},
		{Name: "agent/denied", Ref: "kata-peerpods §3.4", Level: suite.Should,
			Want: "what the policy denies is PERMISSION_DENIED, \"<Request> is blocked by policy\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				seen := false
				for _, method := range needsContainer {
					answer := s.call(ctx, p, wire.Request{Service: kataService, Method: method,
						Payload: wire.AppendString(nil, 1, "conformance-none")})
					if answer.Code == wire.PermissionDenied {
						seen = true
						p.Check(strings.Contains(answer.Message, "is blocked by policy"), "%s: %q", method, answer.Message)
					}
				}
				if !seen {
					p.Skipf("the agent's policy denies none of the methods asked")
				}
			}},
		{Name: "agent/container-unknown", Ref: "kata-peerpods §3.1", Level: suite.Must,
			Want: "a container that is not there is an error, whatever is asked of it",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, method := range needsContainer {
					answer := s.call(ctx, p, wire.Request{Service: kataService, Method: method,
						Payload: wire.AppendString(nil, 1, "conformance-none")})
					p.Check(answer.Code != wire.OK, "%s: it succeeded", method)
				}
			}},
		{Name: "agent/SetPolicy", Ref: "kata-peerpods §3.1, §3.4", Level: suite.Must,
			Want: "SetPolicy answers OK where the policy allows it, and otherwise refuses",
			Run: func(ctx context.Context, p *suite.Probe) {
				answer := s.call(ctx, p, wire.Request{Service: kataService, Method: "SetPolicy",
					Payload: wire.AppendString(nil, 1, "this is not Rego")})
				p.Check(answer.Code != wire.OK, "it took what is not Rego")
			}},
		{Name: "agent/method-unknown", Ref: "guest-components §0.1", Level: suite.Must,
			Want: "a method or service that is not there is NOT_FOUND, \"/<service>/<method> is not supported\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, r := range []wire.Request{{Service: kataService, Method: "NoSuchMethod"},
					{Service: "no.such.Service", Method: "Check"}} {
					answer := s.call(ctx, p, r)
					if answer.Code == wire.Unimplemented {
						p.Differsf("%s/%s: %s", r.Service, r.Method, whyUnimplemented)
						continue
					}
					notSupported(p, r, answer)
				}
			}},
	}
	for _, c := range s.transportCases() {
		switch strings.TrimPrefix(c.Name, "agent/") {
		case "method-unknown", "service-unknown": // asked above
		case "stream-ids": // the runtime is the one peer, and its ids rise
		default:
			list = append(list, c)
		}
	}
	return list
}
