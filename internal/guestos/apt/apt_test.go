// SPDX-License-Identifier: Apache-2.0

package apt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const index = `Package: libexample
Source: example (1:2.0-1)
Version: 1:2.0-1+b1
Architecture: amd64
Depends: libc6 (>= 2.36),
 libother
Size: 1234
SHA256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
Description: an example
 with: a second line

Package: tool
Version: 3
Architecture: all
Size: 5
SHA256: ff23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
`

func TestRecords(t *testing.T) {
	records := parseRecords(index)
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	var got []Package
	for _, r := range records {
		p, err := r.pkg("bookworm")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	want := []Package{
		{
			Name: "libexample", Version: "1:2.0-1+b1", Architecture: "amd64", Source: "example (1:2.0-1)", Suite: "bookworm",
			SHA256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 1234,
		},
		{
			Name: "tool", Version: "3", Architecture: "all", Source: "tool (3)", Suite: "bookworm",
			SHA256: "ff23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 5,
		},
	}
	if !slices.Equal(got, want) {
		t.Errorf("packages %+v, want %+v", got, want)
	}
	if file := got[0].File(); file != "libexample_1%3a2.0-1+b1_amd64.deb" {
		t.Errorf("file name %q", file)
	}
}

func TestRecordRefused(t *testing.T) {
	for name, change := range map[string][2]string{
		"no name":     {"Package: tool", "Pack: tool"},
		"no version":  {"Version: 3\n", ""},
		"path":        {"Package: tool", "Package: ../../tool"},
		"no size":     {"Size: 5\n", ""},
		"zero size":   {"Size: 5", "Size: 0"},
		"huge size":   {"Size: 5", "Size: 99999999999"},
		"no hash":     {"SHA256: ff", "MD5: ff"},
		"short hash":  {"SHA256: ff", "SHA256: "},
		"hash in hex": {"SHA256: ff", "SHA256: gg"},
	} {
		text := strings.Replace(index[strings.Index(index, "Package: tool"):], change[0], change[1], 1)
		if p, err := parseRecords(text)[0].pkg("bookworm"); err == nil {
			t.Errorf("%s: accepted as %+v", name, p)
		}
	}
}

// What is in the cache with the right hash is used without asking anybody; what was changed there is not.
func TestFetchFromCache(t *testing.T) {
	a, err := Open(t.TempDir(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("a package")
	sum := sha256.Sum256(content)
	p := Package{
		Name: "tool", Version: "3", Architecture: "all", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)),
	}
	wants := []Want{{Name: "tool", Suite: "bookworm"}}
	text, err := json.Marshal(selection{wants, []Package{p}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, "selection.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Path(p), content, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir()) // no apt to be found
	got, err := a.Fetch(context.Background(), wants, false)
	if err != nil || !slices.Equal(got, []Package{p}) {
		t.Errorf("Fetch: %+v, %v", got, err)
	}
	for name, change := range map[string]func() error{
		"other wants":     func() error { wants[0].Suite = "testing"; return nil },
		"changed package": func() error { return os.WriteFile(a.Path(p), []byte("b package"), 0o644) },
		"longer package":  func() error { return os.WriteFile(a.Path(p), append(content, 0), 0o644) },
		"no package":      func() error { return os.Remove(a.Path(p)) },
	} {
		if err := os.WriteFile(a.Path(p), content, 0o644); err != nil {
			t.Fatal(err)
		}
		wants[0].Suite = "bookworm"
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Fetch(context.Background(), wants, false); err == nil || !strings.Contains(err.Error(), "apt-get") {
			t.Errorf("%s: %v, want an error about apt-get", name, err)
		}
	}
}
