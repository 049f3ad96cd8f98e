// SPDX-License-Identifier: Apache-2.0

package templates

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/policy"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	one   = strings.Repeat("1", 64)
	other = strings.Repeat("ab", 32)
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run `go test -update` and look at the difference:\n%s", path, got)
	}
}

func render(t *testing.T, a Affirming) string {
	t.Helper()
	text, err := a.Rego()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	golden(t, "affirming.rego", render(t, Affirming{Resources: []string{"default/db/password", "default/db/ca.crt"},
		InitData: []string{other, one}}))
	golden(t, "deny-all.rego", DenyAll())
}

func TestOrderAndRepetitionDoNotMatter(t *testing.T) {
	a := render(t, Affirming{Resources: []string{"a/b/c", "a/b/d"}, InitData: []string{one, other}})
	b := render(t, Affirming{Resources: []string{"a/b/d", "a/b/c", "a/b/d"}, InitData: []string{other, one, one}})
	if a != b {
		t.Error("the same facts made different policies")
	}
}

func TestHostileFacts(t *testing.T) {
	good := Affirming{Resources: []string{"a/b/c"}, InitData: []string{one}}
	for name, a := range map[string]Affirming{
		"no resources":   {InitData: good.InitData},
		"no init-data":   {Resources: good.Resources},
		"short path":     {[]string{"a/b"}, good.InitData},
		"breaking out":   {[]string{`a/b/c"]] } allow if { true`}, good.InitData},
		"short digest":   {good.Resources, []string{one[:62]}},
		"long digest":    {good.Resources, []string{strings.Repeat("1", 130)}},
		"not hex":        {good.Resources, []string{strings.Repeat("g", 64)}},
		"capitals":       {good.Resources, []string{strings.ToUpper(other)}},
		"no digest":      {good.Resources, []string{""}},
		"zeros":          {good.Resources, []string{strings.Repeat("0", 64)}},
		"one of several": {good.Resources, []string{one, "x"}},
	} {
		if text, err := a.Rego(); err == nil {
			t.Errorf("%s: made a policy:\n%s", name, text)
		}
	}
}

func allows(t *testing.T, text string, input map[string]any, data map[string]any) bool {
	t.Helper()
	p, err := policy.Compile(t.Context(), text, policy.Options{Queries: []string{"data.policy.allow"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Eval(t.Context(), "data.policy.allow", policy.Input{Input: input, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return v.True()
}

func token(status, initData string) map[string]any {
	return map[string]any{"submods": map[string]any{"cpu0": map[string]any{
		"ear.status": status, "ear.veraison.annotated-evidence": map[string]any{"init_data": initData},
	}}}
}

func request(plugin string, path ...any) map[string]any {
	return map[string]any{"plugin": plugin, "resource-path": path, "query": map[string]any{}}
}

func TestDecisions(t *testing.T) {
	text := render(t, Affirming{Resources: []string{"a/b/c", "a/b/d"}, InitData: []string{one}})
	good := request("resource", "a", "b", "d")
	if !allows(t, text, token("affirming", one), good) {
		t.Fatal("the request that the others deviate from is denied")
	}
	withDevice := token("affirming", one)
	withDevice["submods"].(map[string]any)["gpu0"] = map[string]any{"ear.status": "warning"}
	withQuery := request("resource", "a", "b", "d")
	withQuery["query"] = map[string]any{"version": "1"}
	for name, c := range map[string]struct{ input, data map[string]any }{
		"warning":          {token("warning", one), good},
		"contraindicated":  {token("contraindicated", one), good},
		"none":             {token("none", one), good},
		"a device warning": {withDevice, good},
		"other init-data":  {token("affirming", other), good},
		"no init-data":     {map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "affirming"}}}, good},
		"no submods":       {map[string]any{"submods": map[string]any{}}, good},
		"no claims":        {map[string]any{}, good},
		"other resource":   {token("affirming", one), request("resource", "a", "b", "e")},
		"joined segments":  {token("affirming", one), request("resource", "a", "b/d")},
		"other plugin":     {token("affirming", one), request("pkcs11", "a", "b", "d")},
		"a query":          {token("affirming", one), withQuery},
	} {
		if allows(t, text, c.input, c.data) {
			t.Errorf("%s: allowed", name)
		}
	}
	if allows(t, DenyAll(), token("affirming", one), good) {
		t.Error("deny-all allowed")
	}
}
