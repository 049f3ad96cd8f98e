// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-project/nacre/policy"
)

func text(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func compile(t testing.TB, module string, options policy.Options) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(t.Context(), module, options)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const allow = "data.policy.allow"

func forAllow() policy.Options { return policy.Options{Queries: []string{allow}} }

// claims are those of a good guest, as a token has them.
func claims() map[string]any {
	return map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": "affirming",
		"ear.veraison.annotated-evidence": map[string]any{"init_data": "abcd"}}}}
}

func request(path ...any) map[string]any {
	return map[string]any{"plugin": "resource", "resource-path": path, "query": map[string]any{}}
}

func TestRelease(t *testing.T) {
	p := compile(t, text(t, "release.rego"), forAllow())
	for _, c := range []struct {
		name  string
		input policy.Input
		want  bool
	}{
		{"the resource that is named", policy.Input{Input: claims(), Data: request("default", "db", "password")}, true},
		{"another resource", policy.Input{Input: claims(), Data: request("default", "db", "root")}, false},
		{"a longer path", policy.Input{Input: claims(), Data: request("default", "db", "password", "x")}, false},
		{"no data", policy.Input{Input: claims()}, false},
		{"no input", policy.Input{Data: request("default", "db", "password")}, false},
		{"no submodules", policy.Input{Input: map[string]any{"submods": map[string]any{}}, Data: request("default", "db", "password")}, false},
		{"a null input", policy.Input{Input: json.RawMessage("null"), Data: request("default", "db", "password")}, false},
	} {
		v, err := p.Eval(t.Context(), allow, c.input)
		if err != nil || v.True() != c.want || !v.Defined() {
			t.Errorf("%s: %t, %v", c.name, v.True(), err)
		}
	}
}

// Undefined, false, and values that are no boolean are told apart, and only true is true.
func TestValues(t *testing.T) {
	const module = `package policy
yes := true
no := false
text := "true"
one := 1
object := {"allowed": true, "n": 1.5, "list": [null, "a"]}
set := {"b", "a"}
undefined if input.x == "x"
`
	p := compile(
		t,
		module,
		policy.Options{Queries: []string{"data.policy.yes", "data.policy.no", "data.policy.text", "data.policy.one",
			"data.policy.object", "data.policy.set", "data.policy.undefined", "data.policy.missing", "data.elsewhere.allow"}},
	)
	for query, want := range map[string]string{"yes": "true", "no": "false", "text": `"true"`, "one": "1",
		"object": `{"allowed":true,"list":[null,"a"],"n":1.5}`, "set": `["a","b"]`, "undefined": "", "missing": ""} {
		v, err := p.Eval(t.Context(), "data.policy."+query, policy.Input{Input: map[string]any{"x": 1}})
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if v.True() != (query == "yes") || v.Defined() != (want != "") {
			t.Errorf("%s: true %t, defined %t", query, v.True(), v.Defined())
		}
		if b, ok := v.Bool(); ok != (query == "yes" || query == "no") || b != (query == "yes") {
			t.Errorf("%s: Bool %t, %t", query, b, ok)
		}
		got, err := v.JSON()
		if want == "" {
			if !errors.Is(err, policy.ErrUndefined) {
				t.Errorf("%s: %v, %v", query, got, err)
			}
			continue
		}
		if out, err := json.Marshal(got); err != nil || string(out) != want {
			t.Errorf("%s: %s, %v, want %s", query, out, err, want)
		}
	}
	elsewhere := policy.Input{Data: map[string]any{"elsewhere": map[string]any{"allow": true}}}
	if v, err := p.Eval(t.Context(), "data.elsewhere.allow", elsewhere); err != nil || !v.True() {
		t.Errorf("a base document: %v", err)
	}
}

func TestOnlyPreparedQueries(t *testing.T) {
	p := compile(t, "package policy\nallow := true", forAllow())
	if v, err := p.Eval(t.Context(), "data.policy.other", policy.Input{}); err == nil || v.Defined() {
		t.Error("an unprepared query is answered")
	}
	for _, query := range []string{"", "x", "data", "data[0]", "data.policy[x]", "input.allow", "data.policy.allow == true",
		"true; data.policy.allow",
		"data.policy.allow with input as {}"} {
		if _, err := policy.Compile(t.Context(), "package policy", policy.Options{Queries: []string{query}}); err == nil ||
			!strings.Contains(err.Error(), "want the name of a rule") {
			t.Errorf("%q: %v", query, err)
		}
	}
}

// appraisal sets up the policy, the reference values and the claims of a good SNP guest.
func appraisal(t testing.TB) (*policy.Policy, context.Context, map[string]any) {
	t.Helper()
	type snapshotKey struct{}
	p := compile(t, text(t, "appraisal.rego"), policy.Options{
		Queries: []string{"data.policy.trust_claims", "data.policy.extensions"},
		Builtins: []policy.Builtin{
			{Name: "query_reference_value", Fn: func(ctx context.Context, id string) (any, bool) {
				snapshot, _ := ctx.Value(snapshotKey{}).(map[string]policy.Document)
				document, found := snapshot[id]
				return document, found
			}},
		},
	})
	snapshot := map[string]policy.Document{}
	for name, value := range map[string]any{
		"snp_launch_measurement": []any{"aa", "bb"},
		"snp_bootloader":         []any{10},
		"snp_microcode":          []any{84},
		"snp_snp_svn":            []any{23},
		"snp_tee_svn":            []any{0},
		"snp_smt_enabled":        true,
		"snp_tsme_enabled":       false,
		"snp_guest_abi_major":    0,
		"snp_guest_abi_minor":    31,
		"snp_single_socket":      false, "snp_smt_allowed": true, "init_data": []any{"cc"},
	} {
		document, err := policy.NewDocument(value)
		if err != nil {
			t.Fatal(err)
		}
		snapshot[name] = document
	}
	evidence := map[string]any{
		"snp": map[string]any{
			"measurement":             "bb",
			"reported_tcb_bootloader": 10,
			"reported_tcb_microcode":  84,
			"reported_tcb_snp":        23,
			"reported_tcb_tee":        0,
			"platform_smt_enabled":    true,
			"platform_tsme_enabled":   false,
			"policy_abi_major":        0,
			"policy_abi_minor":        31,
			"policy_single_socket":    false,
			"policy_smt_allowed":      true,
			"policy_debug_allowed":    false,
			"policy_migrate_ma":       false,
		},
		"report_data": strings.Repeat("0", 128), "init_data": "cc",
		"init_data_claims": map[string]any{
			"agent_policy_claims": map[string]any{"containers": []any{map[string]any{"OCI": map[string]any{
				"Annotations": map[string]any{"io.kubernetes.cri.image-name": "registry.example/app@sha256:aa"},
				"Process":     map[string]any{"User": map[string]any{"UID": 1000}}}}}},
		},
	}
	return p, context.WithValue(t.Context(), snapshotKey{}, snapshot), evidence
}

func evalJSON(t *testing.T, p *policy.Policy, ctx context.Context, query string, input any) string {
	t.Helper()
	v, err := p.Eval(ctx, query, policy.Input{Input: input})
	if err != nil {
		t.Fatal(err)
	}
	value, err := v.JSON()
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestAppraisal(t *testing.T) {
	p, ctx, evidence := appraisal(t)
	const vector = `{"configuration":%d,"executables":%d,"file-system":0,"hardware":%d,"instance-identity":0,` +
		`"runtime-opaque":0,"sourced-data":0,"storage-opaque":0}`
	if got, want := evalJSON(t, p, ctx, "data.policy.trust_claims", evidence), fmt.Sprintf(vector, 2, 3, 2); got != want {
		t.Errorf("a good guest: %s, want %s", got, want)
	}
	if got := evalJSON(t, p, ctx, "data.policy.extensions", evidence); !strings.Contains(
		got,
		`"container_images":["registry.example/app@sha256:aa"]`,
	) {
		t.Errorf("extensions: %s", got)
	}
	// Without reference values everything is null, in which nothing is contained.
	if got, want := evalJSON(t, p, t.Context(), "data.policy.trust_claims", evidence), fmt.Sprintf(vector, 36, 33, 97); got != want {
		t.Errorf("without reference values: %s, want %s", got, want)
	}
	evidence["snp"].(map[string]any)["measurement"] = "dd"
	if got, want := evalJSON(t, p, ctx, "data.policy.trust_claims", evidence), fmt.Sprintf(vector, 2, 33, 2); got != want {
		t.Errorf("another measurement: %s, want %s", got, want)
	}
}

func TestBuiltins(t *testing.T) {
	const module = "package policy\nvalue := lookup(input)\nis_null if lookup(input) == null"
	p := compile(
		t,
		module,
		policy.Options{
			Queries: []string{"data.policy.value", "data.policy.is_null"},
			Builtins: []policy.Builtin{{Name: "lookup",
				Fn: func(_ context.Context, id string) (any, bool) {
					switch id {
					case "missing":
						return nil, false
					case "panics":
						panic("at " + id)
					case "unspeakable":
						return func() {}, true
					}
					return map[string]any{"id": id}, true
				}}},
		},
	)
	if got := evalJSON(t, p, t.Context(), "data.policy.value", "a"); got != `{"id":"a"}` {
		t.Errorf("a: %s", got)
	}
	if got := evalJSON(t, p, t.Context(), "data.policy.is_null", "missing"); got != "true" {
		t.Errorf("missing: %s", got)
	}
	if v, err := p.Eval(t.Context(), "data.policy.value", policy.Input{Input: "panics"}); err == nil || v.Defined() {
		t.Errorf("a panic: %v", err)
	}
	for _, input := range []any{"unspeakable", 1} {
		if v, err := p.Eval(t.Context(), "data.policy.value", policy.Input{Input: input}); v.Defined() {
			t.Errorf("%v: defined, %v", input, err)
		}
	}
}

func TestLanguages(t *testing.T) {
	for name, module := range map[string]string{
		"v1":                    "package policy\nallow if input.x == 1",
		"v1 with import":        "package policy\nimport rego.v1\nallow if input.x == 1",
		"v0":                    "package policy\nallow { input.x == 1 }",
		"v0 with keywords":      "package policy\nimport future.keywords.in\nimport future.keywords.if\nallow if { input.x in [1] }",
		"v0 with old functions": "package policy\nallow { re_match(`^1$`, format_int(input.x, 10)) }",
	} {
		p := compile(t, module, forAllow())
		for x, want := range map[int]bool{1: true, 2: false} {
			if v, err := p.Eval(t.Context(), allow, policy.Input{Input: map[string]any{"x": x}}); err != nil ||
				v.True() != want {
				t.Errorf("%s: x is %d: %t, %v", name, x, v.True(), err)
			}
		}
	}
}

func TestForeignPolicy(t *testing.T) {
	const create, exec = "data.agent_policy.CreateContainerRequest", "data.agent_policy.ExecProcessRequest"
	options := policy.Options{Queries: []string{create, exec}}
	if _, err := policy.Compile(t.Context(), text(t, "agent-v0.rego"), options); err == nil {
		t.Error("a reference to a member that a constant does not have compiles")
	}
	options.SkipTypeCheck = true
	p := compile(t, text(t, "agent-v0.rego"), options)
	for _, c := range []struct {
		query string
		input map[string]any
		want  bool
	}{
		{create, map[string]any{"image": "registry.example/app@sha256:aa", "mounts": []any{"/proc"}}, true},
		{create, map[string]any{"image": "registry.example/app@sha256:aa", "mounts": []any{"/host"}}, false},
		{exec, map[string]any{"command": "sh"}, false},
	} {
		if v, err := p.Eval(t.Context(), c.query, policy.Input{Input: c.input}); err != nil || v.True() != c.want {
			t.Errorf("%s %v: %t, %v", c.query, c.input, v.True(), err)
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for module, want := range map[string]string{
		"package policy\nallow if {\n  x y\n}":                         "line 3, column 5: unexpected identifier token",
		"package policy\n\nallow { input.x = }":                        "line 3, column",
		"package policy\nallow if unknown(1)":                          "line 2, column 10: undefined function unknown",
		"package policy\nimport rego.v1\nallow { true }":               "line 3, column 1: `if` keyword is required",
		"package policy\nallow if count(1) > 0":                        "line 2, column 10: count: invalid argument(s)",
		"package policy\na if b\nb if a":                               "line 2, column 1: rule data.policy.a is recursive",
		"":                                                             "empty module",
		"# nothing but words":                                          "empty module",
		"allow := true":                                                "line 1, column 1: package expected",
		"package policy\n" + strings.Repeat("allow if f(1)\n", 20):     "and 6 more",
		"package policy\nimport rego.v2\nallow if true":                "`rego.v2` is not supported",
		strings.Repeat("#", policy.MaxModuleSize) + "\npackage policy": "at most 2097152 are allowed",
	} {
		_, err := policy.Compile(t.Context(), module, forAllow())
		if err == nil || !strings.HasPrefix(err.Error(), "compiling the policy: ") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want an error with %q", module, err, want)
		}
	}
	p := compile(t, "package policy\nallow := 1 if input.x\nallow := 2 if input.x", forAllow())
	if v, err := p.Eval(t.Context(), allow, policy.Input{Input: map[string]any{"x": true}}); err == nil ||
		v.Defined() ||
		!strings.Contains(err.Error(), "line 3, column 1") {
		t.Errorf("two values: %v", err)
	}
}

// A policy is the same function everywhere and always: what reaches out, or differs from call to call, is not there.
func TestAttackPolicyReachesOut(t *testing.T) {
	for _, call := range []string{`http.send({"method": "get", "url": "http://127.0.0.1"})`,
		`net.lookup_ip_addr("localhost")`, "opa.runtime()",
		`rand.intn("x", 10)`, `uuid.rfc4122("x")`, "time.now_ns()", `io.jwt.decode("a.b.c")`, `crypto.x509.parse_certificates("")`,
		`crypto.parse_private_keys("")`, `json.match_schema({}, {"$ref": "http://127.0.0.1"})`, `trace("x")`,
		`rego.parse_module("x", "package y")`,
		`providers.aws.sign_req({}, {}, 1)`, `graphql.is_valid("", "")`, `strings.render_template("{{.}}", {})`} {
		name, _, _ := strings.Cut(call, "(")
		t.Run(name, func(t *testing.T) {
			for _, module := range []string{"package policy\nallow if " + call, "package policy\nallow { " + call + " }"} {
				if _, err := policy.Compile(t.Context(), module, forAllow()); err == nil ||
					!strings.Contains(err.Error(), "undefined function") {
					t.Errorf("%s: %v", module, err)
				}
			}
		})
	}
}

// What is allowed is written down, so that a new version of the engine shows what it brings.
func TestBuiltinsAllowed(t *testing.T) {
	want := strings.Fields(text(t, "builtins.txt"))
	if got := policy.AllowedBuiltins(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("allowed builtins differ from testdata/builtins.txt:\n%s", strings.Join(got, "\n"))
	}
}

func TestClock(t *testing.T) {
	const module = "package policy\nallow if time.now_ns() < 1800000000000000000"
	now := time.Unix(1_700_000_000, 0)
	p := compile(t, module, policy.Options{Queries: []string{allow}, Clock: func() time.Time { return now }})
	for at, want := range map[int64]bool{1_700_000_000: true, 1_900_000_000: false} {
		now = time.Unix(at, 0)
		if v, err := p.Eval(t.Context(), allow, policy.Input{}); err != nil || v.True() != want {
			t.Errorf("at %d: %t, %v", at, v.True(), err)
		}
	}
}

const runaway = `package policy
allow if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	some c in numbers.range(1, 100000)
	a + b + c == 0
}
`

func TestAttackRunawayPolicy(t *testing.T) {
	options := forAllow()
	options.Timeout = time.Millisecond
	v, err := compile(t, runaway, options).Eval(t.Context(), allow, policy.Input{})
	if !errors.Is(err, context.DeadlineExceeded) || v.Defined() {
		t.Errorf("%t, %v", v.Defined(), err)
	}
}

func TestCancelledEvaluationHasNoValue(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v, err := compile(t, "package policy\nallow := true", forAllow()).Eval(ctx, allow, policy.Input{})
	if !errors.Is(err, context.Canceled) || v.Defined() {
		t.Errorf("%t, %v", v.Defined(), err)
	}
	if _, err := policy.Compile(ctx, "package policy", policy.Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Data cannot stand in for the policy's own rules.
func TestAttackDataOverridesPolicy(t *testing.T) {
	p := compile(t, "package policy\nallow if input.x == 1", forAllow())
	v, err := p.Eval(t.Context(), allow, policy.Input{Data: map[string]any{"policy": map[string]any{"allow": true}}})
	if err == nil || v.Defined() {
		t.Errorf("%t, %v", v.Defined(), err)
	}
}

func TestDataDocuments(t *testing.T) {
	const module = `package policy
element := data.list[1]
member := data.object.a.b
whole := data.object
computed := data.list[input.i]
absent := data.list[7]
`
	queries := []string{"element", "member", "whole", "computed", "absent"}
	options := policy.Options{}
	for _, query := range queries {
		options.Queries = append(options.Queries, "data.policy."+query)
	}
	p := compile(t, module, options)
	list, err := policy.NewDocument([]any{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	in := policy.Input{
		Input: map[string]any{"i": 0},
		Data:  map[string]any{"list": list, "object": map[string]any{"a": map[string]any{"b": 1}}},
	}
	for query, want := range map[string]string{"element": `"b"`, "member": "1", "whole": `{"a":{"b":1}}`, "computed": `"a"`, "absent": ""} {
		v, err := p.Eval(t.Context(), "data.policy."+query, in)
		if err != nil || v.Defined() != (want != "") {
			t.Errorf("%s: defined %t, %v", query, v.Defined(), err)
		}
		if !v.Defined() {
			continue
		}
		if got, err := v.JSON(); err != nil {
			t.Error(err)
		} else if out, err := json.Marshal(got); err != nil || string(out) != want {
			t.Errorf("%s: %s, %v, want %s", query, out, err, want)
		}
	}
	empty := compile(t, "package policy", forAllow())
	if v, err := empty.Eval(t.Context(), allow, in); err != nil || v.Defined() {
		t.Errorf("a policy without rules: %v", err)
	}
	for name, bad := range map[string]policy.Input{"input": {Input: func() {}}, "data": {Data: map[string]any{"x": func() {}}}} {
		if _, err := p.Eval(t.Context(), "data.policy.element", bad); err == nil ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("a function as %s: %v", name, err)
		}
	}
}

// Evaluations at the same time see their own input, data and snapshot, and nobody else's.
func TestConcurrentEvaluations(t *testing.T) {
	type key struct{}
	const module = "package policy\nanswer := [input.i, data.request.i, own(\"i\")]"
	p := compile(
		t,
		module,
		policy.Options{
			Queries: []string{"data.policy.answer"},
			Timeout: time.Minute,
			Builtins: []policy.Builtin{{Name: "own",
				Fn: func(ctx context.Context, _ string) (any, bool) { return ctx.Value(key{}), true }}},
		},
	)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ctx := context.WithValue(t.Context(), key{}, i)
			for range 100 {
				v, err := p.Eval(ctx, "data.policy.answer", policy.Input{Input: map[string]any{"i": i},
					Data: map[string]any{"request": map[string]any{"i": i}}})
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := v.JSON(); err != nil || fmt.Sprint(got) != fmt.Sprintf("[%d %d %d]", i, i, i) {
					t.Errorf("%d: %v, %v", i, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestReads(t *testing.T) {
	const unknown = "-"
	for module, want := range map[string]string{
		"package policy\nallow if input.a.b == 1":                                                 "a.b",
		"package policy\nallow if { input.a == 1; input.a == 2; input.b[\"c d\"] }":               "a b.c d",
		"package policy\nallow if input.a[0].b":                                                   "a",
		"package policy\nallow if some x in input.a.b":                                            "a.b",
		"package policy\nallow if input.a[input.b]":                                               "a b",
		"package policy\nallow if data.x[input.b].c":                                              "b",
		"package policy\nimport input.a as x\nallow if x.b == 1":                                  "a.b",
		"package policy\nallow if { x := input.a; x.b == 1 }":                                     "a",
		"package policy\nallow if { f(input.a) }\nf(x) if x.b == input.c":                         "a c",
		"package policy\ndefault allow := false\nallow if { false } else if input.d.e":            "d.e",
		"package policy\nother := [x | x := input.a[_]]\nallow := {y: z | z := input.b[y]}":       "a b",
		"package policy\nallow if data.policy.q with input.a as input.b\nq if input.a.c":          "a a.c b",
		"package policy\nallow if every x in input.a { x == input.b }":                            "a b",
		"package policy\nallow if not input.a":                                                    "a",
		"package policy\nallow if sprintf(\"%v\", [input.a.b]) == \"1\"":                          "a.b",
		"package policy\nallow if true":                                                           "",
		"package policy\nallow { input.a.b }":                                                     "a.b",
		"package policy\nallow if input == 1":                                                     unknown,
		"package policy\nallow if { x := input; x.a }":                                            unknown,
		"package policy\nimport input as x\nallow if x.a":                                         "a",
		"package policy\nallow if input[data.x]":                                                  unknown,
		"package policy\nallow if { some name; input[name] }":                                     unknown,
		"package policy\nallow if walk(input, [_, 1])":                                            unknown,
		"package policy\nallow if f(input)\nf(x) if x.a":                                          unknown,
		"package policy\nallow if q with input as {\"a\": 1}\nq if input.a":                       unknown,
		"package policy\nallow if object.get(input, \"a\", 1) == 1":                               unknown,
		"package policy\nallow if count([1 | input]) > 0":                                         unknown,
		"package policy\nallow if {\"a\": input}.a.b":                                             unknown,
		"package policy\nunreached if input[\"a\"][input.b[0]] == input[concat(\"\", [input.c])]": unknown,
	} {
		paths, ok := compile(t, module, forAllow()).Reads()
		var list []string
		for _, path := range paths {
			list = append(list, strings.Join(path, "."))
		}
		got := strings.Join(list, " ")
		if !ok {
			got = unknown
		}
		if got != want {
			t.Errorf("%s: reads %q, want %q", module, got, want)
		}
	}
}

func TestDigest(t *testing.T) {
	p := compile(t, "package policy\n", policy.Options{})
	sum := sha256.Sum256([]byte("package policy\n"))
	if p.Digest() != hex.EncodeToString(sum[:]) {
		t.Errorf("digest %s", p.Digest())
	}
}

func FuzzCompile(f *testing.F) {
	for _, name := range []string{"release.rego", "appraisal.rego", "agent-v0.rego"} {
		f.Add(text(f, name), `{"x":1}`)
	}
	f.Fuzz(func(t *testing.T, module, input string) {
		p, err := policy.Compile(
			t.Context(),
			module,
			policy.Options{Queries: []string{allow}, Timeout: 10 * time.Millisecond},
		)
		if err != nil {
			return
		}
		var in any
		if json.Unmarshal([]byte(input), &in) != nil {
			in = input
		}
		v, err := p.Eval(t.Context(), allow, policy.Input{Input: in})
		if err != nil && v.Defined() {
			t.Fatal("a value beside an error")
		}
	})
}

func BenchmarkRelease(b *testing.B) {
	p := compile(b, text(b, "release.rego"), forAllow())
	document, err := policy.NewDocument(claims())
	if err != nil {
		b.Fatal(err)
	}
	for name, input := range map[string]any{"parsed": document, "map": claims()} {
		in := policy.Input{Input: input, Data: request("default", "db", "password")}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v, err := p.Eval(b.Context(), allow, in); err != nil || !v.True() {
					b.Fatal(v, err)
				}
			}
		})
	}
}

func BenchmarkAppraisal(b *testing.B) {
	p, ctx, evidence := appraisal(b)
	for _, query := range []string{"data.policy.trust_claims", "data.policy.extensions"} {
		b.Run(strings.TrimPrefix(query, "data.policy."), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Eval(ctx, query, policy.Input{Input: evidence}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	module := text(b, "appraisal.rego")
	for b.Loop() {
		compile(b, module, policy.Options{Queries: []string{"data.policy.trust_claims"},
			Builtins: []policy.Builtin{{Name: "query_reference_value"}}})
	}
}
