// SPDX-License-Identifier: Apache-2.0

package release

import (
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/policy/templates"
)

// What was allowed once is remembered; each case asks for something that was not.
func TestAttackRememberedDecision(t *testing.T) {
	clock := now
	compile := func(r Record) *Policy {
		p, err := Compile(t.Context(), r, func() time.Time { return clock })
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	inForce := compile(Record{Text: affirming(t)})
	token := affirmed().token(t)
	for range 2 {
		if err := inForce.Decide(t.Context(), token, wanted); err != nil {
			t.Fatal(err)
		}
	}
	if !token.allowed.has(inForce, wanted) {
		t.Error("a decision of the shipped template was not remembered")
	}
	for name, r := range map[string]Request{
		"another resource":            {Plugin: "resource", Path: []string{"db", "password", "2"}},
		"another plugin":              {Plugin: "other", Path: []string{"db", "password", "1"}},
		"the same with a query":       {Plugin: "resource", Path: []string{"db", "password", "1"}, Query: map[string]string{"a": "b"}},
		"the same in fewer segments":  {Plugin: "resource", Path: []string{"db", "password\x011"}},
		"the same, cut elsewhere":     {Plugin: "resource", Path: []string{"d", "bpassword", "1"}},
		"the plugin as a segment":     {Path: []string{"resource", "db", "password", "1"}},
		"nothing, and a query":        {Query: map[string]string{"": ""}},
		"the first segment in plugin": {Plugin: "resource\x02db", Path: []string{"password", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := inForce.Decide(t.Context(), token, r); err == nil {
				t.Error("released")
			}
		})
	}
	t.Run("after the policy was replaced", func(t *testing.T) {
		if err := compile(Record{Text: templates.DenyAll()}).Decide(t.Context(), token, wanted); err == nil {
			t.Error("released")
		}
	})
	t.Run("with another token", func(t *testing.T) {
		other := affirmed()
		other.initData = strings.Repeat("ab", 32)
		if err := inForce.Decide(t.Context(), other.token(t), wanted); err == nil {
			t.Error("released")
		}
	})
	t.Run("when its time is over", func(t *testing.T) {
		limited := compile(Record{Text: strings.Replace(affirming(t), "allow if {",
			"allow if {\n\ttime.now_ns() < 1800000001000000000", 1)})
		token := affirmed().token(t)
		if err := limited.Decide(t.Context(), token, wanted); err != nil {
			t.Fatal(err)
		}
		clock = clock.Add(time.Minute)
		if err := limited.Decide(t.Context(), token, wanted); err == nil {
			t.Error("released")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	var m memory
	p := &Policy{}
	for i := range 10 * maxRemembered {
		m.add(p, Request{Path: []string{strings.Repeat("x", i)}})
	}
	if len(m.allowed) > maxRemembered {
		t.Errorf("%d requests are remembered", len(m.allowed))
	}
}

func FuzzKeysOfRequests(f *testing.F) {
	f.Add("resource", "a/b/c", "resource", "a/b/c")
	f.Add("a", "b", "", "a/b")
	f.Fuzz(func(t *testing.T, pluginA, pathA, pluginB, pathB string) {
		a := Request{Plugin: pluginA, Path: strings.Split(pathA, "/")}
		b := Request{Plugin: pluginB, Path: strings.Split(pathB, "/")}
		if same := pluginA == pluginB && pathA == pathB; (a.key() == b.key()) != same {
			t.Errorf("%+v and %+v: keys %q and %q", a, b, a.key(), b.key())
		}
	})
}
