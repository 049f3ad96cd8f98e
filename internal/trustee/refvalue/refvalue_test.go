// SPDX-License-Identifier: Apache-2.0

package refvalue

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/policy"
)

func sample(payload string) string {
	return `{"version":"0.1.0","type":"sample","payload":"` + base64.StdEncoding.EncodeToString([]byte(payload)) + `"}`
}

func TestParseMessage(t *testing.T) {
	for name, c := range map[string]struct{ text, wrong string }{
		"values":             {sample(`{"a":["x"],"b.c/d-e_f":1,"c":null}`), ""},
		"version defaults":   {strings.Replace(sample(`{"a":1}`), `"version":"0.1.0",`, "", 1), ""},
		"other version":      {strings.Replace(sample(`{"a":1}`), "0.1.0", "0.2.0", 1), "version"},
		"swid":               {strings.Replace(sample(`{"a":1}`), "sample", "swid", 1), "not supported"},
		"corim":              {strings.Replace(sample(`{"a":1}`), "sample", "corim", 1), "not supported"},
		"unknown type":       {strings.Replace(sample(`{"a":1}`), "sample", "Sample", 1), "not known"},
		"no type":            {`{"payload":"e30="}`, "not known"},
		"member twice":       {`{"type":"swid","type":"sample","payload":"e30="}`, "twice"},
		"not a string":       {`{"type":1}`, "not a string"},
		"not JSON":           {`{`, "not JSON"},
		"array":              {`[]`, "not a JSON object"},
		"trailing":           {sample(`{"a":1}`) + "{}", "follows"},
		"payload not base64": {`{"type":"sample","payload":"*"}`, "base64"},
		"payload unpadded":   {`{"type":"sample","payload":"e30"}`, "base64"},
		"payload not object": {sample(`[1]`), "not a JSON object"},
		"no values":          {sample(`{}`), "values"},
		"value twice":        {sample(`{"a":1,"a":2}`), "twice"},
		"empty name":         {sample(`{"":1}`), "name"},
		"name with @":        {sample(`{"a@b":1}`), "character"},
		"name with space":    {sample(`{"a b":1}`), "character"},
		"long name":          {sample(`{"` + strings.Repeat("a", MaxName+1) + `":1}`), "name"},
		"huge":               {strings.Repeat(" ", MaxMessage+1), "at most"},
	} {
		_, err := ParseMessage([]byte(c.text))
		if c.wrong == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.wrong != "" && (err == nil || !errors.Is(err, ErrMessage) || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: %v, want an error about %q", name, err, c.wrong)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(sample(`{"a":["x"],"b":{"c":1}}`)))
	f.Add([]byte(`{"type":"sample","payload":"e30="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMessage(text)
		if err != nil {
			return
		}
		for _, name := range m.Names() {
			if CheckName(name) != nil || !json.Valid(m.values[name]) {
				t.Errorf("accepted the value %q: %s", name, m.values[name])
			}
		}
	})
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func open(t *testing.T, o store.Options, c *clock) (*store.Store, *Registry) {
	t.Helper()
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r, err := Open(t.Context(), s, time.Hour, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func options(t *testing.T) store.Options {
	dir := t.TempDir()
	return store.Options{Dir: filepath.Join(dir, "data"), KeyFile: filepath.Join(dir, "key")}
}

// text reads a document back through a policy, which is what it is for.
func text(t *testing.T, d policy.Document) string {
	t.Helper()
	p, err := policy.Compile(t.Context(), "package p\nv := json.marshal(input)",
		policy.Options{Queries: []string{"data.p.v"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Eval(t.Context(), "data.p.v", policy.Input{Input: d})
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return s.(string)
}

func nothing(*store.Tx) error { return nil }

func register(t *testing.T, r *Registry, payload string) {
	t.Helper()
	m, err := ParseMessage([]byte(sample(payload)))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Register(t.Context(), m, nothing); err != nil {
		t.Fatal(err)
	}
}

func TestRegisterListDelete(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	o := options(t)
	s, r := open(t, o, c)
	register(t, r, `{"a":["1"],"b":2}`)
	before := r.Snapshot()
	c.t = c.t.Add(time.Minute)
	register(t, r, `{"a":["1","2"]}`)
	if v, ok := before.Lookup("a", c.t); !ok || text(t, v) != `["1"]` {
		t.Errorf("a snapshot changed: %v", v)
	}
	check := func(r *Registry) {
		t.Helper()
		if v, err := r.Get("a"); err != nil || string(v.Value) != `["1","2"]` || !v.Expires.Equal(c.t.Add(time.Hour)) {
			t.Errorf("a: %v, %v", v, err)
		}
		if v, ok := r.Snapshot().Lookup("b", c.t); !ok || text(t, v) != "2" {
			t.Errorf("b: %v, %v", v, ok)
		}
		names := []string{}
		for _, v := range r.List("", 10) {
			names = append(names, v.Name)
		}
		if !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("list: %v", names)
		}
		past, err := r.History(t.Context(), "a", 10)
		if err != nil || len(past) != 2 || string(past[0].Value) != `["1"]` || string(past[1].Value) != `["1","2"]` {
			t.Errorf("history: %v, %v", past, err)
		}
	}
	check(r)
	s.Close()
	_, r = open(t, o, c)
	check(r)
	if err := r.Delete(t.Context(), "a", nothing); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after deletion: %v", err)
	}
	if err := r.Delete(t.Context(), "a", nothing); !errors.Is(err, ErrNotFound) {
		t.Errorf("second deletion: %v", err)
	}
}

func TestAttackExpiredReferenceValue(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	_, r := open(t, options(t), c)
	register(t, r, `{"a":["1"]}`)
	c.t = c.t.Add(time.Hour - time.Second)
	if _, err := r.Get("a"); err != nil {
		t.Fatalf("before its end: %v", err)
	}
	c.t = c.t.Add(time.Second)
	if v, err := r.Get("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its end: %v, %v", v, err)
	}
	if v, ok := r.Snapshot().Lookup("a", c.t); ok {
		t.Errorf("an appraisal after its end gets %v", v)
	}
}

// When what belongs to the change fails, the audit record say, nothing changed.
func TestChangesAreWhole(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	_, r := open(t, options(t), c)
	register(t, r, `{"a":1}`)
	m, err := ParseMessage([]byte(sample(`{"a":2,"b":2}`)))
	if err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("no audit, no change")
	if err := r.Register(t.Context(), m, func(*store.Tx) error { return refusal }); !errors.Is(err, refusal) {
		t.Fatal(err)
	}
	if v, err := r.Get("a"); err != nil || string(v.Value) != "1" {
		t.Errorf("a: %v, %v", v, err)
	}
	if past, err := r.History(t.Context(), "a", 10); err != nil || len(past) != 1 {
		t.Errorf("history: %v, %v", past, err)
	}
	if err := r.Delete(t.Context(), "a", func(*store.Tx) error { return refusal }); !errors.Is(err, refusal) {
		t.Fatal(err)
	}
	if _, err := r.Get("a"); err != nil {
		t.Error(err)
	}
}

func TestManyValues(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	_, r := open(t, options(t), c)
	values := map[string]int{}
	for i := range 2000 {
		values[fmt.Sprint("v", i)] = i
	}
	payload, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	register(t, r, string(payload))
	for i := 0; i < 2000; i += 97 {
		if v, ok := r.Snapshot().Lookup(fmt.Sprint("v", i), c.t); !ok || text(t, v) != fmt.Sprint(i) {
			t.Fatalf("v%d: %v, %v", i, v, ok)
		}
	}
	if list := r.List("v1", 3); len(list) != 3 || list[0].Name != "v10" {
		t.Errorf("page: %v", list)
	}
}
