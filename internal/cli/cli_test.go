// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/kbs"
)

func TestLinesArePrefixed(t *testing.T) {
	for _, c := range []struct {
		writes []string
		want   string
	}{
		{[]string{"a\n"}, "c | a\n"},
		{[]string{"a\nb\n"}, "c | a\nc | b\n"},
		{[]string{"a", "b", "\nc"}, "c | ab\nc | c"},
		{[]string{"\n\n"}, "c | \nc | \n"},
		{[]string{"", "a\n", ""}, "c | a\n"},
	} {
		var out bytes.Buffer
		l := &lines{to: &out, prefix: "c | ", began: func() {}}
		for _, w := range c.writes {
			if n, err := l.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("Write(%q) = %d, %v", w, n, err)
			}
		}
		if out.String() != c.want {
			t.Errorf("%q became %q, want %q", c.writes, out.String(), c.want)
		}
	}
}

func TestAnnotate(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"none":         {"kind: Pod # a\nmetadata:\n  name: a\n", "kind: Pod # a\nmetadata:\n  name: a\n  annotations:\n    k: v\n"},
		"null":         {"kind: Pod\nmetadata:\n  annotations:\n", "kind: Pod\nmetadata:\n  annotations:\n    k: v\n"},
		"others":       {"kind: Pod\nmetadata:\n  annotations:\n    x: y # z\n", "kind: Pod\nmetadata:\n  annotations:\n    x: y # z\n    k: v\n"},
		"there":        {"kind: Pod\nmetadata:\n  annotations:\n    k: old\n    x: y\n", "kind: Pod\nmetadata:\n  annotations:\n    k: v\n    x: y\n"},
		"flow":         {"{kind: Pod, metadata: {name: a}}\n", "{kind: Pod, metadata: {name: a, annotations: {k: v}}}\n"},
		"documents":    {"kind: Secret\n---\nkind: Pod\n---\n# nothing\n", "kind: Secret\n---\nkind: Pod\nmetadata:\n  annotations:\n    k: v\n\n# nothing\n"},
		"items":        {"kind: List\nitems:\n  - kind: Secret\n  - kind: Pod\n", "kind: List\nitems:\n  - kind: Secret\n  - kind: Pod\n    metadata:\n      annotations:\n        k: v\n"},
		"two pods":     {"kind: Pod\n---\nkind: Pod\n", ""},
		"no pod":       {"kind: Secret\n", ""},
		"text behind":  {"kind: Pod\n---\ntext\n", ""},
		"no metadata":  {"kind: Pod\n", "kind: Pod\nmetadata:\n  annotations:\n    k: v\n"},
		"list":         {"- a\n", ""},
		"empty":        {"", ""},
		"not YAML":     {"a: [", ""},
		"text instead": {"kind: Pod\nmetadata: text\n", ""},
	} {
		got, err := annotate([]byte(c.in), "k", "v")
		if (err != nil) != (c.want == "") || string(got) != c.want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// chained makes n records as a trustee does.
func chained(t *testing.T, n int) []kbs.AuditRecord {
	t.Helper()
	var records []kbs.AuditRecord
	prev := ""
	for i := range n {
		r := kbs.AuditRecord{ID: int64(i + 1), Time: time.Unix(int64(i), 5).UTC(), Event: "release", Detail: "<why> & so", Prev: prev}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Hash = fmt.Sprintf("%x", sha256.Sum256(text))
		prev = r.Hash
		records = append(records, r)
	}
	return records
}

func TestAuditChain(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r []kbs.AuditRecord) []kbs.AuditRecord
		want   string
	}{
		"whole":        {func(r []kbs.AuditRecord) []kbs.AuditRecord { return r }, ""},
		"changed":      {func(r []kbs.AuditRecord) []kbs.AuditRecord { r[1].Decision = "refused"; return r }, "record 2: its hash"},
		"changed hash": {func(r []kbs.AuditRecord) []kbs.AuditRecord { r[1].Hash = r[0].Hash; return r }, "record 2: its hash"},
		"removed":      {func(r []kbs.AuditRecord) []kbs.AuditRecord { return append(r[:1], r[2:]...) }, "record 3 follows record 1"},
		"removed and renumbered": {func(r []kbs.AuditRecord) []kbs.AuditRecord {
			r = append(r[:1], r[2:]...)
			r[1].ID = 2
			return r
		}, "record 2: it follows hash"},
		"first removed": {func(r []kbs.AuditRecord) []kbs.AuditRecord { return r[1:] }, "record 2 follows record 0"},
	} {
		chain := auditChain{}
		var err error
		for _, r := range c.change(chained(t, 4)) {
			if err = chain.add(r); err != nil {
				break
			}
		}
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
