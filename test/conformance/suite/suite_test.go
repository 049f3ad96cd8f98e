// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
)

func TestVerdicts(t *testing.T) {
	cases := []Case{
		{Name: "a/passes", Level: Must, Run: func(context.Context, *Probe) {}},
		{Name: "a/fails", Level: Must, Run: func(_ context.Context, p *Probe) {
			p.Differsf("first")
			p.Check(true, "not recorded")
			p.Fatalf("then %d", 2)
			p.Failf("never")
		}},
		{Name: "a/should", Level: Should, Run: func(_ context.Context, p *Probe) { p.Check(false, "weak") }},
		{Name: "a/differs", Level: Must, Run: func(_ context.Context, p *Probe) { p.Differsf("stricter") }},
		{Name: "b/skips", Level: Must, Run: func(_ context.Context, p *Probe) {
			p.Differsf("first")
			p.Skipf("nothing to ask with")
		}},
		{Name: "b/fails before it skips", Level: Must, Run: func(_ context.Context, p *Probe) {
			p.Failf("bad")
			p.Skipf("the rest")
		}},
	}
	results := Run(t.Context(), cases, "", nil)
	for i, want := range []Verdict{Pass, Fail, Fail, Differs, Skip, Fail} {
		if results[i].Verdict != want {
			t.Errorf("%s: %s %v, want %s", results[i].Name, results[i].Verdict, results[i].Notes, want)
		}
	}
	if notes := results[1].Notes; len(notes) != 1 || notes[0] != "then 2" {
		t.Errorf("notes %q", notes)
	}
	if n, strict := Failures(results, false), Failures(results, true); n != 2 || strict != 3 {
		t.Errorf("%d failures count, %d in strict mode", n, strict)
	}
	if n := len(Run(t.Context(), cases, "b/", nil)); n != 2 {
		t.Errorf("%d cases of b", n)
	}
	var table, text strings.Builder
	if err := WriteTable(&table, results); err != nil || !strings.Contains(table.String(), "6 cases: 1 pass, 1 differ, 3 fail, 1 skipped") {
		t.Errorf("%v\n%s", err, table.String())
	}
	var parsed struct {
		Results []Result `json:"results"`
		Fail    int      `json:"fail"`
	}
	if err := WriteJSON(&text, results); err != nil || json.Unmarshal([]byte(text.String()), &parsed) != nil ||
		len(parsed.Results) != 6 || parsed.Fail != 3 {
		t.Errorf("%v\n%s", err, text.String())
	}
}
