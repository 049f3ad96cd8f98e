// SPDX-License-Identifier: Apache-2.0

package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestWriter(t *testing.T) {
	archive := func() []byte {
		var b bytes.Buffer
		w := NewWriter(&b)
		err := errors.Join(
			w.Dir("dev", 0o755),
			w.CharDevice("dev/console", 0o600, 5, 1),
			w.File("init", 0o755, []byte("hello")),
			w.Symlink("bin", "usr/bin"),
			w.Close(),
		)
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	first := archive()
	if !bytes.Equal(first, archive()) {
		t.Error("two archives of the same entries differ")
	}
	var got []string
	for _, e := range list(t, first) {
		got = append(got, fmt.Sprintf("%s %o %d:%d %q", e.name, e.field[1], e.field[9], e.field[10], e.data))
	}
	want := []string{
		`dev 40755 0:0 ""`, `dev/console 20600 5:1 ""`, `init 100755 0:0 "hello"`, `bin 120777 0:0 "usr/bin"`,
		`TRAILER!!! 0 0:0 ""`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("entries:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWriterRefusesNames(t *testing.T) {
	for _, name := range []string{"", "/init", "a\x00b", strings.Repeat("a", maxName+1)} {
		if err := NewWriter(&bytes.Buffer{}).File(name, 0o644, nil); err == nil {
			t.Errorf("accepted %.20q", name)
		}
	}
}

func TestWriterKeepsError(t *testing.T) {
	w := NewWriter(failing{})
	if w.Dir("a", 0o755) == nil || w.Dir("b", 0o755) == nil || w.Close() == nil {
		t.Error("an error of the underlying writer is lost")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

type entry struct {
	name  string
	field [13]uint64
	data  []byte
}

// list reads an archive as the kernel's description of the format says.
func list(t *testing.T, b []byte) []entry {
	t.Helper()
	var entries []entry
	for at := 0; ; {
		if string(b[at:at+6]) != "070701" {
			t.Fatalf("no magic number at %d", at)
		}
		var e entry
		for i := range e.field {
			v, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			e.field[i] = v
		}
		nameEnd := at + 110 + int(e.field[11])
		e.name = string(b[at+110 : nameEnd-1])
		data := (nameEnd + 3) / 4 * 4
		e.data = b[data : data+int(e.field[6])]
		entries = append(entries, e)
		if e.name == trailer {
			return entries
		}
		at = (data + int(e.field[6]) + 3) / 4 * 4
	}
}
