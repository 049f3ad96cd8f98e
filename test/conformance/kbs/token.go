// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// vectorNames are the eight claims of a trustworthiness vector (AR4SI; trustee §3.5).
var vectorNames = []string{"configuration", "executables", "file-system", "hardware", "instance-identity",
	"runtime-opaque", "sourced-data", "storage-opaque"}

// snpClaims are what policies read of SEV-SNP evidence, and their types (trustee §3.8).
var snpClaims = map[string]any{
	"policy_abi_major": 0.0, "policy_abi_minor": 0.0, "reported_tcb_bootloader": 0.0, "reported_tcb_tee": 0.0,
	"reported_tcb_snp": 0.0, "reported_tcb_microcode": 0.0,
	"policy_smt_allowed": true, "policy_migrate_ma": true, "policy_debug_allowed": true, "policy_single_socket": true,
	"platform_tsme_enabled": true, "platform_smt_enabled": true, "measurement": "", "chip_id": "",
}

func (s *server) tokenCases() []suite.Case {
	parsed := func(ctx context.Context, p *suite.Probe) (*attested, *jws) {
		g := s.guest(ctx, p)
		t, err := parseJWS(g.token)
		if err != nil {
			p.Fatalf("%v", err)
		}
		return g, t
	}
	submod := func(ctx context.Context, p *suite.Probe) (g *attested, cpu, evidence map[string]any) {
		g, t := parsed(ctx, p)
		submods, _ := t.claims["submods"].(map[string]any)
		cpu, _ = submods["cpu0"].(map[string]any)
		evidence, _ = cpu["ear.veraison.annotated-evidence"].(map[string]any)
		if evidence == nil {
			p.Fatalf("no object at /submods/cpu0/ear.veraison.annotated-evidence")
		}
		return g, cpu, evidence
	}
	return []suite.Case{
		{Name: "token/header", Ref: "trustee §3.6, RFC 7515 §4.1", Level: suite.Must,
			Want: "the header has typ JWT, alg ES256, and the public key as jwk with alg ES256",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				p.Check(t.header["typ"] == "JWT", "typ %v", t.header["typ"])
				p.Check(t.header["alg"] == "ES256", "alg %v", t.header["alg"])
				jwk, _ := t.header["jwk"].(map[string]any)
				p.Check(jwk["kty"] == "EC" && jwk["crv"] == "P-256" && jwk["alg"] == "ES256", "jwk %v", jwk)
				p.Check(jwk["d"] == nil, "the private key is in the header")
				p.Check(t.header["crit"] == nil, "crit %v", t.header["crit"])
			}},
		{Name: "token/signature", Ref: "trustee §3.6, RFC 7518 §3.4", Level: suite.Must,
			Want: "the signature verifies with the header's key",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				jwk, _ := t.header["jwk"].(map[string]any)
				if err := t.verify(jwk); err != nil {
					p.Failf("%v", err)
				}
			}},
		{Name: "token/jwks", Ref: "trustee §2.3, §3.6", Level: suite.Must,
			Want: "a verifier that trusts the key set only finds the key in it: the same as the header's",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				embedded, _ := t.header["jwk"].(map[string]any)
				for _, key := range s.keySet(ctx, p) {
					if kid, named := t.header["kid"]; named && key["kid"] != kid {
						continue
					}
					if t.verify(key) == nil {
						p.Check(key["x"] == embedded["x"] && key["y"] == embedded["y"], "the header has another key")
						return
					}
				}
				p.Failf("no key of the set verifies the token")
			}},
		{Name: "token/claims", Ref: "trustee §3.6", Level: suite.Must,
			Want: "the claims eat_profile, iat, ear.verifier-id{developer,build}, submods, exp and iss are there",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				profile, _ := t.claims["eat_profile"].(string)
				p.Check(profile != "", "eat_profile %v", t.claims["eat_profile"])
				id, _ := t.claims["ear.verifier-id"].(map[string]any)
				developer, _ := id["developer"].(string)
				build, _ := id["build"].(string)
				p.Check(developer != "" && build != "", "ear.verifier-id %v", t.claims["ear.verifier-id"])
				issuer, _ := t.claims["iss"].(string)
				p.Check(issuer != "", "iss %v", t.claims["iss"])
				_, ok := t.claims["submods"].(map[string]any)
				p.Check(ok, "submods %v", t.claims["submods"])
			}},
		{Name: "token/profile", Ref: "trustee §3.3", Level: suite.Should,
			Want: "eat_profile is tag:github.com,2024:confidential-containers/Trustee",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				p.Check(t.claims["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee", "%v",
					t.claims["eat_profile"])
			}},
		{Name: "token/times", Ref: "trustee §1.10, RFC 7519 §4.1", Level: suite.Must,
			Want: "iat is about now, exp later, both whole seconds; nbf, if there, has come",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				now := float64(time.Now().Unix())
				iat, _ := t.claims["iat"].(float64)
				exp, _ := t.claims["exp"].(float64)
				p.Check(math.Abs(now-iat) < 300, "iat %v, now %v", t.claims["iat"], now)
				p.Check(exp > iat && exp > now, "exp %v, iat %v", t.claims["exp"], t.claims["iat"])
				p.Check(iat == math.Trunc(iat) && exp == math.Trunc(exp), "iat %v, exp %v", iat, exp)
				if nbf, ok := t.claims["nbf"].(float64); ok {
					p.Check(nbf <= now+60, "nbf %v, now %v", nbf, now)
				}
			}},
		{Name: "token/submod", Ref: "trustee §3.6", Level: suite.Must,
			Want: "cpu0 has ear.status, eight trust claims, the policy id \"default\" and the annotated evidence",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, cpu, evidence := submod(ctx, p)
				p.Check(slices.Contains([]string{"none", "affirming", "warning", "contraindicated"}, text(cpu, "ear.status")),
					"ear.status %v", cpu["ear.status"])
				vector, _ := cpu["ear.trustworthiness-vector"].(map[string]any)
				p.Check(slices.Equal(names(vector), vectorNames), "ear.trustworthiness-vector %v", vector)
				p.Check(cpu["ear.appraisal-policy-id"] == "default", "ear.appraisal-policy-id %v", cpu["ear.appraisal-policy-id"])
				tee, _ := evidence[s.tee()].(map[string]any)
				p.Check(len(tee) > 0, "the annotated evidence has no object %q: %q", s.tee(), names(evidence))
			}},
		{Name: "token/status", Ref: "trustee §3.5", Level: suite.Must,
			Want: "ear.status is the worst tier of the vector",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, cpu, _ := submod(ctx, p)
				vector, _ := cpu["ear.trustworthiness-vector"].(map[string]any)
				want := worst(p, vector)
				p.Check(cpu["ear.status"] == want, "ear.status %v, the vector %v makes it %s", cpu["ear.status"], vector, want)
			}},
		{Name: "token/runtime-data", Ref: "trustee §3.5, §3.6", Level: suite.Must,
			Want: "runtime_data_claims are the nonce, the key and the additional evidence as sent, report_data their digest",
			Run: func(ctx context.Context, p *suite.Probe) {
				g, _, evidence := submod(ctx, p)
				claims, _ := evidence["runtime_data_claims"].(map[string]any)
				p.Check(claims["nonce"] == g.attempt.nonce, "nonce %v", claims["nonce"])
				p.Check(reflect.DeepEqual(claims["tee-pubkey"], g.attempt.key.public), "tee-pubkey %v", claims["tee-pubkey"])
				if got, present := claims["additional-evidence"]; present || s.options.strict {
					p.Check(got == "", "additional-evidence %v", got)
				}
				if s.tee() == "snp" {
					digest := hex.EncodeToString(reportData(g.attempt.nonce, g.attempt.key.public, ""))
					p.Check(evidence["report_data"] == digest+strings.Repeat("0", 32), "report_data %v", evidence["report_data"])
				}
			}},
		{Name: "token/init-data", Ref: "trustee §1.6, §3.5", Level: suite.Must,
			Want: "init_data is the digest, init_data_claims its files: *.toml as objects, the agent policy's data apart",
			Run: func(ctx context.Context, p *suite.Probe) {
				g, _, evidence := submod(ctx, p)
				if g.attempt.initData == nil {
					p.Skipf("the evidence's init-data cannot be chosen")
				}
				if s.tee() == "snp" {
					p.Check(evidence["init_data"] == hex.EncodeToString(initDataDigest(initDataText)), "init_data %v",
						evidence["init_data"])
				}
				claims, _ := evidence["init_data_claims"].(map[string]any)
				p.Check(slices.Equal(names(claims), []string{"aa.toml", "agent_policy_claims", "cdh.toml"}), "members %q",
					names(claims))
				p.Check(at(claims, "aa.toml", "token_configs", "kbs", "url") == "https://127.0.0.1:8080", "aa.toml %v",
					claims["aa.toml"])
				p.Check(at(claims, "cdh.toml", "socket") == "unix:///run/confidential-containers/cdh.sock", "cdh.toml %v",
					claims["cdh.toml"])
				containers, _ := at(claims, "agent_policy_claims", "containers").([]any)
				p.Check(len(containers) == 1, "agent_policy_claims %v", claims["agent_policy_claims"])
			}},
		{Name: "token/no-init-data", Ref: "trustee §1.6, §3.5", Level: suite.Must,
			Want: "without init-data there are no claims of it: absent, or null",
			Run: func(ctx context.Context, p *suite.Probe) {
				t, err := parseJWS(s.succeed(ctx, p, s.attempt(ctx, p)).token)
				if err != nil {
					p.Fatalf("%v", err)
				}
				claims := at(t.claims, "submods", "cpu0", "ear.veraison.annotated-evidence", "init_data_claims")
				p.Check(claims == nil, "init_data_claims %v", claims)
			}},
		{Name: "token/identifiers", Ref: "trustee §3.5", Level: suite.Should,
			Want: "the default policy names the containers of the agent policy: ear.trustee.identifiers.validated",
			Run: func(ctx context.Context, p *suite.Probe) {
				g, cpu, _ := submod(ctx, p)
				if g.attempt.initData == nil {
					p.Skipf("the evidence's init-data cannot be chosen")
				}
				want := map[string]any{"container_images": []any{"registry.example/app:1"}, "container_uids": []any{65535.0}}
				got := at(cpu, "ear.trustee.identifiers", "validated")
				p.Check(reflect.DeepEqual(got, want), "validated %v", got)
			}},
		{Name: "token/snp-claims", Ref: "trustee §3.8", Level: suite.Must,
			Want: "the claims that policies read of SEV-SNP evidence have their names and types",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.tee() != "snp" {
					p.Skipf("for SEV-SNP")
				}
				_, _, evidence := submod(ctx, p)
				claims, _ := evidence["snp"].(map[string]any)
				for _, name := range slices.Sorted(maps.Keys(snpClaims)) {
					p.Check(reflect.TypeOf(claims[name]) == reflect.TypeOf(snpClaims[name]), "%s is a %T: %v", name, claims[name],
						claims[name])
				}
				for _, name := range []string{"report_data", "init_data"} {
					p.Check(claims[name] == nil, "%s is below \"snp\" too; it is lifted out", name)
				}
				p.Check(len(text(claims, "measurement")) == 96, "measurement %q", claims["measurement"])
			}},
		{Name: "token/order", Ref: "trustee §3.6", Level: suite.Should,
			Want: "the claims come in the order eat_profile, iat, ear.verifier-id, submods, exp, iss",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, t := parsed(ctx, p)
				last := -1
				for _, name := range []string{`{"eat_profile":`, `,"iat":`, `,"ear.verifier-id":`, `,"submods":`, `,"exp":`,
					`,"iss":`} {
					index := strings.LastIndex(string(t.payload), name)
					p.Check(index > last, "%s is out of order", name)
					last = index
				}
			}},
		{Name: "token/own-key", Ref: "trustee §3.6", Level: suite.Must,
			Want: "each token carries the key of its own attestation",
			Run: func(ctx context.Context, p *suite.Probe) {
				var seen []string
				for range 2 {
					g := s.succeed(ctx, p, s.attempt(ctx, p))
					t, err := parseJWS(g.token)
					if err != nil {
						p.Fatalf("%v", err)
					}
					key := at(t.claims, "submods", "cpu0", "ear.veraison.annotated-evidence", "runtime_data_claims", "tee-pubkey")
					p.Check(reflect.DeepEqual(key, g.attempt.key.public), "tee-pubkey %v", key)
					encoded, _ := json.Marshal(key)
					seen = append(seen, string(encoded))
				}
				p.Check(seen[0] != seen[1], "the same key twice")
			}},
	}
}

func text(members map[string]any, name string) string {
	s, _ := members[name].(string)
	return s
}

// at follows names into objects; nil when one of them is not there.
func at(value any, path ...string) any {
	for _, name := range path {
		members, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = members[name]
	}
	return value
}

// worst is the worst tier of a vector by the bands of AR4SI.
func worst(p *suite.Probe, vector map[string]any) string {
	tiers := []string{"none", "affirming", "warning", "contraindicated"}
	w := 0
	for name, value := range vector {
		n, ok := value.(float64)
		p.Check(ok && n == math.Trunc(n) && n >= -128 && n <= 127, "%s is %v, want an integer of 8 bits", name, value)
		tier := 3
		switch {
		case n >= -1 && n <= 1:
			tier = 0
		case n >= -32 && n <= 31:
			tier = 1
		case n >= -96 && n <= 95:
			tier = 2
		}
		w = max(w, tier)
	}
	return tiers[w]
}
