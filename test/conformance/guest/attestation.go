// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/test/conformance/suite"
	wire "github.com/nacre-project/nacre/test/conformance/ttrpcwire"
)

const agentService = "attestation_agent.AttestationAgentService"

// teeNames are the platforms by their wire names (guest-components §1.3.2).
var teeNames = []string{"az-snp-vtpm", "az-tdx-vtpm", "sgx", "snp", "tdx", "cca", "csv", "se", "tpm", "nvidia",
	"hygondcu", "sample", "sampledevice"}

// Reasons why the agent may refuse what the stock one gives.
const (
	whyNoEvidence = "evidence over report data that a caller chooses would let him attest as this guest, with a key of " +
		"his own; the data hub in the same guest fetches resources for callers"
	whyNoToken = "a token comes with the private key that resources are encrypted to, which does not leave the agent"
)

func (g *guest) aaCases() []suite.Case {
	s := service{name: "aa", socket: g.aa, flag: "--aa", probe: wire.Request{Service: agentService, Method: "GetTeeType"}}
	call := func(ctx context.Context, p *suite.Probe, method string, payload []byte) (wire.Request, wire.Response) {
		r := wire.Request{Service: agentService, Method: method, Payload: payload}
		return r, s.call(ctx, p, r)
	}
	// field takes the one field of an answer.
	field := func(p *suite.Probe, answer wire.Response) string {
		fields, err := wire.Fields(answer.Payload)
		if err != nil {
			p.Fatalf("%v", err)
		}
		value, _ := wire.Text(fields, 1)
		for _, f := range fields {
			p.Check(f.Number == 1, "a field %d in the answer", f.Number)
		}
		return value
	}
	extend := func(domain, operation, content string) []byte {
		return wire.AppendString(wire.AppendString(wire.AppendString(nil, 1, domain), 2, operation), 3, content)
	}
	return append([]suite.Case{
		{Name: "aa/GetTeeType", Ref: "guest-components §1.1, §1.3.2", Level: suite.Must,
			Want: "GetTeeTypeResponse{string tee = 1} has a platform's wire name",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, answer := call(ctx, p, "GetTeeType", nil)
				p.Check(answer.Code == wire.OK, "code %d %q", answer.Code, answer.Message)
				tee := field(p, answer)
				p.Check(slices.Contains(teeNames, tee), "tee %q", tee)
			}},
		{Name: "aa/GetAdditionalTees", Ref: "guest-components §1.1", Level: suite.Must,
			Want: "GetAdditionalTeesResponse{repeated string additional_tees = 1} has wire names",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, answer := call(ctx, p, "GetAdditionalTees", nil)
				p.Check(answer.Code == wire.OK, "code %d %q", answer.Code, answer.Message)
				fields, err := wire.Fields(answer.Payload)
				p.Check(err == nil, "%v", err)
				for _, f := range fields {
					p.Check(f.Number == 1 && slices.Contains(teeNames, string(f.Bytes)), "field %d: %q", f.Number, f.Bytes)
				}
			}},
		{Name: "aa/GetAdditionalEvidence", Ref: "guest-components §1.1", Level: suite.Must,
			Want: "evidence of devices is a JSON object by platform; empty bytes without a device",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, tees := call(ctx, p, "GetAdditionalTees", nil)
				_, answer := call(ctx, p, "GetAdditionalEvidence", wire.AppendBytes(nil, 1, make([]byte, 48)))
				p.Check(answer.Code == wire.OK, "code %d %q", answer.Code, answer.Message)
				evidence := field(p, answer)
				if len(tees.Payload) == 0 {
					p.Check(evidence == "", "%d bytes without a device", len(evidence))
					return
				}
				var byTEE map[string]json.RawMessage
				p.Check(json.Unmarshal([]byte(evidence), &byTEE) == nil, "not a JSON object: %.100q", evidence)
			}},
		{Name: "aa/GetEvidence", Ref: "guest-components §1.1, §1.7", Level: suite.Must,
			Want: "GetEvidenceResponse{bytes Evidence = 1} is the platform's JSON, over report data as given",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, answer := call(ctx, p, "GetEvidence", wire.AppendBytes(nil, 1, make([]byte, 48)))
				if answer.Code == wire.PermissionDenied && len(answer.Payload) == 0 {
					p.Differsf("PERMISSION_DENIED: %s", whyNoEvidence)
					return
				}
				p.Check(answer.Code == wire.OK, "code %d %q", answer.Code, answer.Message)
				evidence := field(p, answer)
				p.Check(strings.HasPrefix(evidence, "{") && json.Valid([]byte(evidence)), "not a JSON object: %.100q", evidence)
			}},
		{Name: "aa/GetToken", Ref: "guest-components §1.1, §1.4, §10.4", Level: suite.Must,
			Want: "GetToken(\"kbs\") is JSON {\"token\":<JWT>,\"tee_keypair\":<PEM, PKCS #8 for EC, PKCS #1 for RSA>}",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, answer := call(ctx, p, "GetToken", wire.AppendString(nil, 1, "kbs"))
				if answer.Code == wire.PermissionDenied && len(answer.Payload) == 0 {
					p.Differsf("PERMISSION_DENIED: %s", whyNoToken)
					return
				}
				p.Check(answer.Code == wire.OK, "code %d %q", answer.Code, answer.Message)
				var token struct {
					Token   string `json:"token"`
					Keypair string `json:"tee_keypair"`
				}
				if err := json.Unmarshal([]byte(field(p, answer)), &token); err != nil {
					p.Fatalf("%v", err)
				}
				p.Check(strings.Count(token.Token, ".") == 2, "token %.40q", token.Token)
				block, _ := pem.Decode([]byte(token.Keypair))
				p.Check(block != nil && slices.Contains([]string{"PRIVATE KEY", "RSA PRIVATE KEY"}, block.Type), "tee_keypair is no PEM of a key")
			}},
		{Name: "aa/GetToken-unknown", Ref: "guest-components §1.4", Level: suite.Must,
			Want: "a token of a kind that is not known, or not configured, is an error",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, kind := range []string{"", "conformance", "KBS"} {
					_, answer := call(ctx, p, "GetToken", wire.AppendString(nil, 1, kind))
					p.Check(answer.Code != wire.OK && answer.Message != "", "%q: code %d %q", kind, answer.Code, answer.Message)
				}
			}},
		{Name: "aa/ExtendRuntimeMeasurement", Ref: "guest-components §1.1, §1.5", Level: suite.Must,
			Want: "the result is OK, NOT_SUPPORTED or NOT_ENABLED (0, 1, 2); the register's index may be left out",
			Run: func(ctx context.Context, p *suite.Probe) {
				if !g.extend {
					p.Skipf("it would extend a register (--extend)")
				}
				for _, payload := range [][]byte{extend("conformance", "Extend", "content with spaces"),
					wire.AppendVarint(extend("conformance", "Extend", `{"a": "b"}`), 4, 17)} {
					_, answer := call(ctx, p, "ExtendRuntimeMeasurement", payload)
					p.Check(answer.Code == wire.OK, "code %d %q", answer.Code, answer.Message)
					fields, err := wire.Fields(answer.Payload)
					p.Check(err == nil && wire.Number(fields, 1) <= 2, "%v, result %d", err, wire.Number(fields, 1))
				}
			}},
		{Name: "aa/BindInitData", Ref: "guest-components §1.1", Level: suite.Must,
			Want: "BindInitData is not served by ttrpc: NOT_FOUND",
			Run: func(ctx context.Context, p *suite.Probe) {
				r, answer := call(ctx, p, "BindInitData", wire.AppendBytes(nil, 1, make([]byte, 32)))
				notSupported(p, r, answer)
			}},
	}, s.transportCases()...)
}
