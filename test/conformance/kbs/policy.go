// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/http"
	"reflect"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// appraisalPolicy rates evidence by what policies are shown: the input's members, and a reference value. What it
// reports about each is one trust claim.
const appraisalPolicy = `package policy

import rego.v1

default executables := 33

executables := 3 if {
	input.runtime_data_claims.nonce
	input.runtime_data_claims["tee-pubkey"].kty == "EC"
}

default hardware := 97

hardware := 2 if "known" in query_reference_value("conformance_appraisal")

default configuration := 36

configuration := 2 if input.init_data_claims["aa.toml"].token_configs.kbs.url == "https://127.0.0.1:8080"

default runtime_opaque := 0

runtime_opaque := 32 if "x" in query_reference_value("conformance_never_set")

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"runtime-opaque": runtime_opaque,
}

extensions := [{"name": "conformance.extension", "key": -70001, "value": {"seen": object.keys(input)}}]
`

// policyCases change what evidence is worth to the server, and come last.
func (s *server) policyCases() []suite.Case {
	return []suite.Case{
		{Name: "appraisal/policy", Ref: "trustee §1.2, §3.5", Level: suite.Must,
			Want: "POST attestation-policy sets default_cpu: trust_claims, query_reference_value and the input are as documented",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.evidence == nil {
					p.Skipf("%v", errNoEvidence)
				}
				a := s.administer(ctx, p, http.MethodPost, prefix+"attestation-policy", []byte(
					`{"type":"rego","policy_id":"default_cpu","policy":"`+b64url.EncodeToString([]byte(appraisalPolicy))+`"}`))
				if !a.demand(p, http.StatusOK) {
					return
				}
				p.Check(len(a.body) == 0, "a body of %d bytes", len(a.body))
				s.administer(ctx, p, http.MethodPost, prefix+"reference-value",
					rvpsMessage("sample", map[string]any{"conformance_appraisal": []string{"known"}})).demand(p, http.StatusOK)
				cpu := s.appraised(ctx, p)
				want := map[string]float64{"executables": 3, "hardware": 2, "runtime-opaque": 0, "storage-opaque": 0,
					"instance-identity": 0, "file-system": 0, "sourced-data": 0, "configuration": 36}
				status := "warning"
				if s.evidence.bindsInitData() || s.tee() == "sample" {
					want["configuration"], status = 2, "affirming"
				}
				for name, value := range want {
					p.Check(at(cpu, "ear.trustworthiness-vector", name) == value, "%s is %v, want %v", name,
						at(cpu, "ear.trustworthiness-vector", name), value)
				}
				p.Check(at(cpu, "ear.status") == status, "ear.status %v, want %s", at(cpu, "ear.status"), status)
			}},
		{Name: "appraisal/extensions", Ref: "trustee §3.5", Level: suite.Must,
			Want: "extensions become members of the submodule by their names",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.adminToken(p)
				seen, ok := at(s.appraised(ctx, p), "conformance.extension", "seen").([]any)
				p.Check(ok && len(seen) > 1, "conformance.extension is %v", seen)
				for _, name := range []string{s.tee(), "report_data", "runtime_data_claims"} {
					found := false
					for _, member := range seen {
						found = found || reflect.DeepEqual(member, name)
					}
					p.Check(found, "the policy's input has no member %q: %v", name, seen)
				}
			}},
		{Name: "appraisal/refvalue-changes", Ref: "trustee §3.5, §4.4", Level: suite.Must,
			Want: "a reference value that is registered counts for the next attestation",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.administer(ctx, p, http.MethodPost, prefix+"reference-value",
					rvpsMessage("sample", map[string]any{"conformance_appraisal": []string{"other"}})).demand(p, http.StatusOK)
				cpu := s.appraised(ctx, p)
				p.Check(at(cpu, "ear.trustworthiness-vector", "hardware") == 97.0 && at(cpu, "ear.status") == "contraindicated",
					"hardware %v, ear.status %v", at(cpu, "ear.trustworthiness-vector", "hardware"), at(cpu, "ear.status"))
			}},
		{Name: "appraisal/no-claims", Ref: "trustee §3.5", Level: suite.Must,
			Want: "a policy, here in the older Rego, without trust_claims makes all eight claims 0 and the status none",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.evidence == nil {
					p.Skipf("%v", errNoEvidence)
				}
				s.administer(ctx, p, http.MethodPost, prefix+"attestation-policy", []byte(`{"policy_id":"default_cpu","policy":"`+
					b64url.EncodeToString([]byte("package policy\n\nnothing { input.nothing_there }\n"))+`"}`)).demand(p, http.StatusOK)
				cpu := s.appraised(ctx, p)
				for _, name := range vectorNames {
					p.Check(at(cpu, "ear.trustworthiness-vector", name) == 0.0, "%s is %v", name,
						at(cpu, "ear.trustworthiness-vector", name))
				}
				p.Check(at(cpu, "ear.status") == "none", "ear.status %v", at(cpu, "ear.status"))
			}},
		{Name: "release/older-rego", Ref: "trustee §2.6", Level: suite.Must,
			Want: "policies in the older Rego, without \"if\" and the import, are taken",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := s.guest(ctx, p)
				s.provision(ctx, p)
				plain, ok := s.setPolicy(ctx, p, "package policy\n\ndefault allow = false\n\nallow {\n"+
					"\tdata.plugin == \"resource\"\n\tdata[\"resource-path\"][0] == \"conformance\"\n}\n")
				if p.Check(ok, "it is not: %d %.200s", plain.status, plain.body) {
					s.resource(ctx, p, "text/one", bearer(g.token)).demand(p, http.StatusOK)
				}
				_, ok = s.setPolicy(ctx, p, suitePolicy)
				p.Check(ok, "the suite's policy is not taken again")
			}},
		{Name: "release/bad-policy-changes-nothing", Ref: "trustee §2.6", Level: suite.Must,
			Want: "a policy that is refused leaves the one in force",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := s.guest(ctx, p)
				s.provision(ctx, p)
				_, ok := s.setPolicy(ctx, p, "package policy\n\nallow := ")
				p.Check(!ok, "it is taken")
				s.resource(ctx, p, "text/one", bearer(g.token)).demand(p, http.StatusOK)
			}},
		{Name: "release/deny-all", Ref: "trustee §2.6", Level: suite.Must,
			Want: "a policy that is set counts for the next request, also of tokens given before",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.provision(ctx, p)
				g := s.guest(ctx, p)
				s.resource(ctx, p, "text/one", bearer(g.token)).demand(p, http.StatusOK)
				s.administer(ctx, p, http.MethodPost, prefix+"resource-policy",
					policyBody("package policy\n\ndefault allow = false\n")).demand(p, http.StatusOK)
				s.resource(ctx, p, "text/one", bearer(g.token)).refused(p, http.StatusUnauthorized,
					refusal{[]string{"PolicyDeny"}, "Access denied by policy"}, may{http.StatusForbidden, whyForbidden})
			}},
		{Name: "release/undefined", Ref: "trustee §2.6", Level: suite.Must,
			Want: "a policy whose allow is missing or no boolean releases nothing",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := s.guest(ctx, p)
				for _, rego := range []string{
					"package policy\n\nimport rego.v1\n\nallow := \"true\" if input.iss\n",
					"package policy\n\nimport rego.v1\n\nallow if input.nothing_there\n",
					"package other\n\nallow := true\n",
				} {
					if _, ok := s.setPolicy(ctx, p, rego); !ok {
						continue // refused when it was set, which is sooner
					}
					s.resource(ctx, p, "text/one", bearer(g.token)).refused(p, http.StatusUnauthorized,
						refusal{variants: []string{"PolicyDeny", "PolicyEngineError"}}, may{http.StatusForbidden, whyForbidden},
						may{http.StatusInternalServerError, "the policy is the owner's mistake, not the guest's"})
				}
			}},
	}
}

// appraised attests a guest with init-data and returns its submodule.
func (s *server) appraised(ctx context.Context, p *suite.Probe) map[string]any {
	a := s.attempt(ctx, p)
	s.giveInitData(a)
	t, err := parseJWS(s.succeed(ctx, p, a).token)
	if err != nil {
		p.Fatalf("%v", err)
	}
	cpu, _ := at(t.claims, "submods", "cpu0").(map[string]any)
	return cpu
}
