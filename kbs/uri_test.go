// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseResourceURI(t *testing.T) {
	for _, c := range []struct{ in, canonical, path string }{
		{"kbs:///default/key/1", "kbs:///default/key/1", "/kbs/v0/resource/default/key/1"},
		{"kbs+resource:///default/key/1", "kbs:///default/key/1", "/kbs/v0/resource/default/key/1"},
		{"kbs://broker.example:8080/a/b/c", "kbs:///a/b/c", "/kbs/v0/resource/a/b/c"},
		{"kbs://[::1]:80/a", "kbs:///a", "/kbs/v0/resource/a"},
		{"kbs+nebula-ca:///credential?name=n&ip=10.0.0.1%2F8", "kbs+nebula-ca:///credential?ip=10.0.0.1%2F8&name=n",
			"/kbs/v0/nebula-ca/credential?ip=10.0.0.1%2F8&name=n"},
		{"kbs:///a/b.c/d-e_F?", "kbs:///a/b.c/d-e_F", "/kbs/v0/resource/a/b.c/d-e_F"},
	} {
		u, err := ParseResourceURI(c.in)
		if err != nil || u.String() != c.canonical || u.RequestPath() != c.path {
			t.Errorf("%s: %s, %s, %v", c.in, u, u.RequestPath(), err)
			continue
		}
		if back, err := ParseResourceURI(u.String()); err != nil || back.String() != u.String() {
			t.Errorf("%s came back as %s, %v", u, back, err)
		}
	}
	if u := (ResourceURI{Path: []string{"a"}}); u.String() != "kbs:///a" || u.RequestPath() != "/kbs/v0/resource/a" {
		t.Errorf("without a plugin: %s, %s", u, u.RequestPath())
	}
}

func TestParseResourceURIRefuses(t *testing.T) {
	for in, phrase := range map[string]string{
		"":                  "scheme must be kbs or kbs+<plugin>",
		"default/key/1":     "scheme must be kbs or kbs+<plugin>",
		"http:///a/b/c":     "scheme must be kbs or kbs+<plugin>",
		"KBS:///a/b/c":      "scheme must be kbs or kbs+<plugin>",
		"kbsx:///a":         "scheme must be kbs or kbs+<plugin>",
		"kbs:/a/b/c":        "scheme must be kbs or kbs+<plugin>",
		"kbs+:///a/b/c":     "scheme kbs+ requires a plugin name",
		"kbs+../admin:///a": "is not a plugin name",
		"kbs+a/b:///c":      "is not a plugin name",
		"kbs+.a:///c":       "is not a plugin name",
		"kbs://":            "no path",
		"kbs:///":           "no path",
		"kbs://host":        "no path",
		"kbs:////a/b":       "segment",
		"kbs:///a//b":       "segment",
		"kbs:///a/b/":       "segment",
		"kbs:///a/./b":      "segment",
		"kbs:///a/../b":     "segment",
		"kbs:///a/.b":       "segment",
		"kbs:///a/%2e%2e/b": "segment",
		"kbs:///a/b c":      "segment",
		"kbs:///a/b\x00":    "segment",
		"kbs:///a/ü":        "segment",
		"kbs:///a#b":        "fragment",
		"kbs:///a?b=1#c":    "fragment",
		"kbs:///a?b=1&b=2":  "2 values",
		"kbs:///a?=1":       "values, want one",
		"kbs:///a?%zz":      "escape",
		"kbs://user@host/a": "is not a host",
		"kbs://ho st/a":     "is not a host",
		"kbs:///" + strings.Repeat("a/", 40) + "a":          "segments",
		"kbs:///" + strings.Repeat("a", maxURILength):       "characters",
		"kbs:///a?" + strings.Repeat("ä=1&", 500):           "characters",
		"kbs:///a?b=" + strings.Repeat("ä", maxURILength/3): "characters",
	} {
		u, err := ParseResourceURI(in)
		if err == nil || !strings.Contains(err.Error(), phrase) {
			t.Errorf("%s: %s, %v, want an error with %q in it", clip(in), u, err, phrase)
		}
	}
}

func TestValidPath(t *testing.T) {
	for _, good := range []string{"default/key/1", "a/b/c.d-e_f", "-/_/0..x"} {
		if err := ValidPath(strings.Split(good, "/")); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a", "a/b", "a/b/c/d", "/b/c", "a//c", "a/b/", "a/b/.", "a/b/.c", "a/b/c d", "a/b/ü", "a/b/c%2fd",
		"a/b/" + strings.Repeat("c", maxURILength), "a/b\\c/d", "a/b/c\n"} {
		if err := ValidPath(strings.Split(bad, "/")); err == nil {
			t.Errorf("%q: accepted", clip(bad))
		}
	}
}

// Two dots would lead a broker that keeps resources in files out of their directory.
func TestAttackPathTraversal(t *testing.T) {
	if err := ValidPath([]string{"default", "..", "key"}); err == nil {
		t.Error("accepted")
	}
	if _, err := ParseResourceURI("kbs:///default/../../admin"); err == nil {
		t.Error("accepted in a URI")
	}
}

// A slash in a segment would name another resource than the one that the policy was asked about.
func TestAttackSlashInSegment(t *testing.T) {
	if err := ValidPath([]string{"default", "a/b", "key"}); err == nil {
		t.Error("accepted")
	}
}

func FuzzResourceURI(f *testing.F) {
	for _, seed := range []string{"kbs:///default/key/1", "kbs+nebula-ca://h:1/c?a=b&c=d%20e", "kbs:///a/../b", "kbs+:///"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := ParseResourceURI(in)
		if err != nil {
			return
		}
		back, err := ParseResourceURI(u.String())
		if err != nil || back.String() != u.String() || !reflect.DeepEqual(back.Path, u.Path) {
			t.Fatalf("%q is written %q, which is %+v, %v", in, u, back, err)
		}
		if path := u.RequestPath(); strings.Contains(path, "/../") || strings.Contains(path, "//") {
			t.Fatalf("%q is asked for at %q", in, path)
		}
	})
}
