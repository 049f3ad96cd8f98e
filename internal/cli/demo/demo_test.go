// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"strings"
	"testing"
)

func TestAnswersAsTheProbePrintsThem(t *testing.T) {
	output := "== ask " + password + "\nHTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nwhat\n== answered " + password + "\n" +
		"== ask " + adminPassword + "\nHTTP/1.0 403 Forbidden\r\n\r\n" + `{"code":"policy_denied","message":"no","request_id":"r1"}` + "\n"
	if _, complete, err := answers(output); complete || err != nil {
		t.Fatalf("half of the output: complete %t, error %v", complete, err)
	}
	found, complete, err := answers(output + "== answered " + adminPassword + "\n")
	if err != nil || !complete {
		t.Fatalf("complete %t, error %v", complete, err)
	}
	if r, err := found[password].refusal(); err != nil || r != (refusal{}) {
		t.Errorf("the released one: %+v, %v", r, err)
	}
	r, err := found[adminPassword].refusal()
	if want := (refusal{By: "trustee", Code: "policy_denied", Text: "no", RequestID: "r1"}); err != nil || r != want {
		t.Errorf("the refused one: %+v, %v, want %+v", r, err, want)
	}
}

func TestRefusalsByTheGuestHaveItsRequestIDs(t *testing.T) {
	a := answer{503, []byte(`{"code":"no_broker","message":"none","request_id":"guest-ABC"}`)}
	r, err := a.refusal()
	if want := (refusal{By: "guest", Code: "no_broker", Text: "none"}); err != nil || r != want {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	if _, err := (answer{500, []byte("oops")}).refusal(); err == nil {
		t.Error("an answer without an error document was taken for a refusal")
	}
}

// A step passes only if it is refused by the party, for the reason and with the record that the table names.
func TestStepsAreComparedWithTheTable(t *testing.T) {
	g, err := golden()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		step Step
		ok   bool
	}{
		"as expected":         {Step{Name: "unnamed-resource", RefusedBy: "trustee", Code: "policy_denied", AuditID: 7}, true},
		"not audited":         {Step{Name: "unnamed-resource", RefusedBy: "trustee", Code: "policy_denied"}, false},
		"for another reason":  {Step{Name: "unnamed-resource", RefusedBy: "trustee", Code: "token_expired", AuditID: 7}, false},
		"by another party":    {Step{Name: "unnamed-resource", RefusedBy: "guest", Code: "policy_denied", AuditID: 7}, false},
		"not refused":         {Step{Name: "unnamed-resource"}, false},
		"refused by surprise": {Step{Name: "owner-puts-secret", RefusedBy: "trustee", Code: "not_admin"}, false},
		"unknown":             {Step{Name: "no-such-step"}, false},
	} {
		c.step.Passed = true
		if c.step.check(g); c.step.Passed != c.ok {
			t.Errorf("%s: passed is %t: %s", name, c.step.Passed, c.step.Detail)
		}
	}
}

func TestPrefixedPrintsWholeLines(t *testing.T) {
	var out strings.Builder
	p := &prefixed{out: &lines{w: &out}, prefix: "> "}
	for _, part := range []string{"a", "b\nc", "\r\n", "d"} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if got := out.String(); got != "> ab\n> c\n" {
		t.Errorf("printed %q", got)
	}
}
