// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"testing"

	"github.com/nacre-project/nacre/policy"
)

const releaseV1 = `package policy

default allow := false

allow if {
	data.plugin == "resource"
	data["resource-path"] == ["default", "db", "password"]
	every _, submod in input.submods { submod["ear.status"] == "affirming" }
	count(input.submods) > 0
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == "abcd"
}
`

func affirming() map[string]any {
	return map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "affirming",
		"ear.veraison.annotated-evidence": map[string]any{"init_data": "abcd"}}}}
}

func request(path ...any) map[string]any {
	return map[string]any{"plugin": "resource", "resource-path": path, "query": map[string]any{}}
}

func TestRelease(t *testing.T) {
	ctx := context.Background()
	p, err := policy.Compile(ctx, releaseV1, policy.Options{Queries: []string{"data.policy.allow", "data.policy.missing", "data.other.x"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Eval(ctx, "data.policy.allow", policy.Input{Input: affirming(), Data: request("default", "db", "password")})
	if err != nil || !v.True() {
		t.Fatal(v, err)
	}
	v, err = p.Eval(ctx, "data.policy.allow", policy.Input{Input: affirming(), Data: request("default", "db", "other")})
	if err != nil || v.True() || !v.Defined() {
		t.Fatal(v, err)
	}
	v, err = p.Eval(ctx, "data.policy.missing", policy.Input{Input: affirming(), Data: request("default", "db", "other")})
	if err != nil || v.Defined() {
		t.Fatal(v, err)
	}
	_, err = p.Eval(ctx, "data.policy.allow", policy.Input{Input: affirming(), Data: map[string]any{"policy": map[string]any{"allow": true}}})
	if err == nil {
		t.Fatal("conflict accepted")
	}
}

func BenchmarkRelease(b *testing.B) {
	ctx := context.Background()
	p, err := policy.Compile(ctx, releaseV1, policy.Options{Queries: []string{"data.policy.allow"}})
	if err != nil {
		b.Fatal(err)
	}
	in, data := affirming(), request("default", "db", "password")
	b.ReportAllocs()
	for b.Loop() {
		if v, err := p.Eval(ctx, "data.policy.allow", policy.Input{Input: in, Data: data}); err != nil || !v.True() {
			b.Fatal(v, err)
		}
	}
}
