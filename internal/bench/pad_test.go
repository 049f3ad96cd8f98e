// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/policy"
	"github.com/nacre-project/nacre/policy/templates"
)

// The rules that are added change no answer.
func TestPaddedPoliciesDecideTheSame(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	release, err := templates.Affirming{Resources: []string{secretPath}, InitData: []string{digest}}.Rego()
	if err != nil {
		t.Fatal(err)
	}
	appraisal, err := os.ReadFile("../trustee/appraisal/default_cpu.rego")
	if err != nil {
		t.Fatal(err)
	}
	evidence := map[string]any{
		"init_data": "ab",
		"snp": map[string]any{"measurement": "cd", "policy_debug_allowed": false, "policy_migrate_ma": false,
			"reported_tcb_bootloader": 1, "reported_tcb_microcode": 1, "reported_tcb_snp": 1, "reported_tcb_tee": 1},
	}
	submod := func(initData string) map[string]any {
		return map[string]any{"submods": map[string]any{"cpu0": map[string]any{
			"ear.status": "affirming", "ear.veraison.annotated-evidence": map[string]any{"init_data": initData},
		}}}
	}
	data := map[string]any{"plugin": "resource", "resource-path": strings.Split(secretPath, "/"), "query": map[string]any{}}
	for name, c := range map[string]struct {
		text  string
		pad   func(string) string
		query string
		input policy.Input
	}{
		"appraisal": {string(appraisal), padAppraisal, "data.policy.trust_claims", policy.Input{Input: evidence}},
		"a release": {release, padRelease, "data.policy.allow", policy.Input{Input: submod(digest), Data: data}},
		"a refusal": {release, padRelease, "data.policy.allow", policy.Input{Input: submod("ef"), Data: data}},
		"no guest":  {release, padRelease, "data.policy.allow", policy.Input{Input: map[string]any{}, Data: data}},
	} {
		padded := c.pad(c.text)
		if lines := strings.Count(padded, "\n"); lines < paddedLines || !strings.HasPrefix(padded, c.text) {
			t.Errorf("%s: %d lines", name, lines)
		}
		if want, got := answer(t, c.text, c.query, c.input), answer(t, padded, c.query, c.input); got != want {
			t.Errorf("%s: the padded policy says %s, the other %s", name, got, want)
		}
	}
}

func answer(t *testing.T, text, query string, input policy.Input) string {
	t.Helper()
	p, err := policy.Compile(t.Context(), text, policy.Options{Queries: []string{query}, Builtins: []policy.Builtin{{
		Name: "query_reference_value",
		Fn: func(_ context.Context, id string) (any, bool) {
			return []any{1, "ab", "cd"}, !strings.HasPrefix(id, "fleet_")
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Eval(t.Context(), query, input)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Defined() {
		return "nothing"
	}
	return jsonText(t, v)
}
