// SPDX-License-Identifier: Apache-2.0

package appraisal

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
)

// An owner who registered the platform's settings can tell a guest that has them (configuration 2) from one of which
// only the init-data is right (3).
func TestAttackOtherSettings(t *testing.T) {
	for name, value := range map[string]any{
		"platform_smt_enabled": false, "platform_tsme_enabled": true, "policy_abi_major": int64(1), "policy_abi_minor": int64(30),
		"policy_single_socket": true, "policy_smt_allowed": false,
	} {
		t.Run(name, func(t *testing.T) {
			claims := snpClaims()
			claims.Values[name] = value
			s, err := defaultPolicy(t).Appraise(t.Context(), Evidence{Claims: claims}, snapshot(t, settings()), now)
			if err != nil || s.Vector.Configuration != 3 {
				t.Errorf("configuration %d, %v", s.Vector.Configuration, err)
			}
		})
	}
}

// A rating that is remembered is nobody's but of those guests that the policy cannot tell apart: whoever comes after a
// good guest, and differs from it in anything that the policy looks at, is rated as if he were the first.
func TestAttackRatingOfAnotherGuest(t *testing.T) {
	refs, expired := snapshot(t, settings()), now.Add(time.Hour)
	files := func(image string) *InitData {
		return showing(t, map[string]any{agentPolicyClaims: map[string]any{"containers": []any{map[string]any{
			"OCI": map[string]any{"Annotations": map[string]any{"io.kubernetes.cri.image-name": image}}}}}})
	}
	good := Evidence{Claims: snpClaims(), RuntimeData: map[string]any{"nonce": "n"}, InitData: files("good")}
	none := snapshot(t, nil)
	claim := func(name string, value any) func(*Evidence) {
		return func(e *Evidence) { e.Claims.Values[name] = value }
	}
	for name, c := range map[string]struct {
		deviate func(*Evidence)
		refs    *refvalue.Snapshot
		at      time.Time
	}{
		"measurement":         {claim("measurement", "eeee"), refs, now},
		"no measurement":      {func(e *Evidence) { delete(e.Claims.Values, "measurement") }, refs, now},
		"firmware":            {claim("reported_tcb_snp", int64(1)), refs, now},
		"firmware, a text":    {claim("reported_tcb_snp", "23"), refs, now},
		"debugging":           {claim("policy_debug_allowed", true), refs, now},
		"init-data":           {claim("init_data", strings.Repeat("ab", 32)), refs, now},
		"no platform's":       {func(e *Evidence) { delete(e.Claims.Values, "init_data") }, refs, now},
		"platform":            {func(e *Evidence) { e.Claims.TEE = attest.Sample }, refs, now},
		"init-data's files":   {func(e *Evidence) { e.InitData = files("other") }, refs, now},
		"no files":            {func(e *Evidence) { e.InitData = nil }, refs, now},
		"reference values":    {func(*Evidence) {}, none, now},
		"time":                {func(*Evidence) {}, refs, expired},
		"a list as a version": {claim("reported_tcb_snp", []any{int64(23)}), refs, now},
	} {
		t.Run(name, func(t *testing.T) {
			p := defaultPolicy(t)
			if s, err := p.Appraise(t.Context(), good, refs, now); err != nil || s.Status != ear.Affirming {
				t.Fatalf("the good guest: %v, %v", s.Status, err)
			}
			other := good
			other.Claims = snpClaims()
			c.deviate(&other)
			got, err := p.Appraise(t.Context(), other, c.refs, c.at)
			if err != nil {
				t.Fatal(err)
			}
			want, err := defaultPolicy(t).Appraise(t.Context(), other, c.refs, c.at)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("rated %+v, want %+v", got, want)
			}
		})
	}
}

// What a policy adds cannot pass for what the trustee says itself.
func TestAttackExtensionInTheNameOfAnother(t *testing.T) {
	for _, name := range []string{"ear.status", "ear.trustworthiness-vector", "ear.appraisal-policy-id",
		ear.AnnotatedEvidence, "nacre.appraisal-policy-digest", "nacre.root-of-trust", UnauthorisedInitData} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(t.Context(), fmt.Sprintf("package policy\nextensions := [{\"name\": %q, \"value\": 1}]", name))
			if err != nil {
				t.Fatal(err)
			}
			s, err := p.Appraise(t.Context(), Evidence{Claims: snpClaims()}, snapshot(t, nil), now)
			if !errors.Is(err, ErrPolicy) {
				t.Errorf("%v, %v", s.Extensions, err)
			}
		})
	}
}

// Init-data is the host's choice: what is nested deeper than configuration ever is does not become an object.
func TestAttackDeepInitData(t *testing.T) {
	const deep = 1 << 14
	for name, file := range map[string]struct{ name, text string }{
		"a key of many parts":   {initdata.AgentConfig, strings.Repeat("a.", deep) + "a = 1"},
		"a table of many parts": {initdata.DataConfig, "[" + strings.Repeat("a.", deep) + "a]"},
		"a very long file":      {initdata.AgentConfig, "a = '" + strings.Repeat("x", maxConfig) + "'"},
		"tables in braces": {initdata.AgentConfig,
			"a = " + strings.Repeat("{a=", maxDepth) + "1" + strings.Repeat("}", maxDepth)},
		"lists": {initdata.AgentConfig, "a = " + strings.Repeat("[", deep) + strings.Repeat("]", deep)},
		"data of a policy": {initdata.AgentPolicy, "package p\n" + policyDataMarker + "\"a\":" +
			strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + "}"},
	} {
		t.Run(name, func(t *testing.T) {
			got := InitDataClaims(&initdata.Data{Files: map[string]string{file.name: file.text}})
			if got[file.name] != file.text {
				text, _ := json.Marshal(got)
				t.Errorf("became %.100s", text)
			}
		})
	}
}

// A table for each part of a key costs hundreds of times what the key is long.
func TestAttackCostOfDeepInitData(t *testing.T) {
	text := strings.Repeat("a.", 1<<14) + "a = 1"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	InitDataClaims(&initdata.Data{Files: map[string]string{initdata.AgentConfig: text}})
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 200*uint64(len(text)) {
		t.Errorf("%d bytes of memory for %d", took, len(text))
	}
}
