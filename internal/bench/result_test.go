// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rows = []Result{
	New("attest request", 1250, 1000, "µs"),
	New("guest memory", 7.125, 0, "MiB"),
	New("latency", 12.34, 10, "ms"),
}

const table = `| what           | figure   | floor   | ratio |
|---             |---       |---      |---    |
| attest request | 1250 µs  | 1000 µs | 1.25  |
| guest memory   | 7.12 MiB |         |       |
| latency        | 12.3 ms  | 10.0 ms | 1.23  |
`

func TestTable(t *testing.T) {
	if got := Table(rows); got != table {
		t.Errorf("got\n%s\nwant\n%s", got, table)
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := Write(path, rows); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	for i, row := range list {
		if len(row) != 5 || row["name"] != rows[i].Name || row["value"] != rows[i].Value || row["unit"] != rows[i].Unit ||
			row["floor"] != rows[i].Floor || row["ratio"] != rows[i].Ratio {
			t.Errorf("row %d is %v", i, row)
		}
	}
	if len(list) != len(rows) {
		t.Errorf("%d rows", len(list))
	}
}

func TestInsert(t *testing.T) {
	const machine = "Measured on something."
	filled := "# Title\n" + tableBegin + machine + "\n\n" + table + tableEnd + "the rest\n"
	for name, c := range map[string]struct {
		before, after string
		ok            bool
	}{
		"an empty place":   {"# Title\n" + tableBegin + tableEnd + "the rest\n", filled, true},
		"an older table":   {"# Title\n" + tableBegin + "| old |\n" + tableEnd + "the rest\n", filled, true},
		"the same table":   {filled, filled, true},
		"no place":         {"# Title\n", "# Title\n", false},
		"no end":           {tableBegin + "x\n", tableBegin + "x\n", false},
		"the end first":    {tableEnd + tableBegin, tableEnd + tableBegin, false},
		"an empty file":    {"", "", false},
		"a mark in a line": {"x" + strings.TrimSpace(tableBegin) + "y", "x" + strings.TrimSpace(tableBegin) + "y", false},
		"text before only": {"a\n" + tableBegin + tableEnd, "a\n" + tableBegin + machine + "\n\n" + table + tableEnd, true},
	} {
		path := filepath.Join(t.TempDir(), "README.md")
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Insert(path, machine, rows)
		after, readErr := os.ReadFile(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if (err == nil) != c.ok || string(after) != c.after {
			t.Errorf("%s: %v\n%s", name, err, after)
		}
	}
}
