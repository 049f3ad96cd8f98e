// SPDX-License-Identifier: Apache-2.0

package early

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/internal/guestos/verity"
)

func TestParseModuleList(t *testing.T) {
	got, err := parseModuleList([]byte("a.ko\n?b.ko\n\nc.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := [][]module{{{"a.ko", false}, {"b.ko", true}}, {{"c.ko", false}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parsed %v, want %v", got, want)
	}
	for name, list := range map[string]string{
		"path":       "../a.ko\n",
		"no name":    "?\n",
		"too many":   strings.Repeat("a.ko\n", maxModules+1),
		"other root": "a.ko\n/etc/passwd\n",
	} {
		if _, err := parseModuleList([]byte(list)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFindDrive(t *testing.T) {
	class := t.TempDir()
	drive := func(name, serial string) {
		if err := os.MkdirAll(filepath.Join(class, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, name, "serial"), []byte(serial), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	drive("vda", "nacre-root-2\n")
	drive("vdb", "")
	if got, err := findDrive(class, 0); err == nil || !strings.Contains(err.Error(), DriveName) {
		t.Errorf("no drive of ours: %q, %v", got, err)
	}
	drive("vdc", DriveName)
	if got, err := findDrive(class, 0); err != nil || got != "/dev/vdc" {
		t.Errorf("findDrive: %q, %v, want /dev/vdc", got, err)
	}
}

func TestCheckSize(t *testing.T) {
	file := filepath.Join(t.TempDir(), "size")
	for sectors, ok := range map[string]bool{"24\n": true, "16\n": false, "0\n": false, "x\n": false} {
		if err := os.WriteFile(file, []byte(sectors), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := checkSize(file, verity.Params{DataBlocks: 2}); (err == nil) != ok {
			t.Errorf("%q sectors for 2 blocks: %v, want ok %v", sectors, err, ok)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a\nnacre: refused\x1b[2J\u009b ü"); got != "a nacre: refused [2J  ü" {
		t.Errorf("oneLine: %q", got)
	}
}
