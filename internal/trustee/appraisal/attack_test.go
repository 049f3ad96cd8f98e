// SPDX-License-Identifier: Apache-2.0

package appraisal

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/initdata"
)

// An owner who registered the platform's settings can tell a guest that has them (configuration 2) from one of which
// only the init-data is right (3).
func TestAttackOtherSettings(t *testing.T) {
	p := defaultPolicy(t)
	for name, value := range map[string]any{
		"platform_smt_enabled": false, "platform_tsme_enabled": true, "policy_abi_major": int64(1), "policy_abi_minor": int64(30),
		"policy_single_socket": true, "policy_smt_allowed": false,
	} {
		t.Run(name, func(t *testing.T) {
			claims := snpClaims()
			claims.Values[name] = value
			s, err := p.Appraise(t.Context(), Evidence{Claims: claims}, snapshot(t, settings()), now)
			if err != nil || s.Vector.Configuration != 3 {
				t.Errorf("configuration %d, %v", s.Vector.Configuration, err)
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
