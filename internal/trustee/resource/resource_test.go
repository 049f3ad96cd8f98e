// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/internal/trustee/store"
)

func open(t *testing.T) Stored {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(dir, "data"),
		KeyFile: filepath.Join(dir, "key")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return Stored{s}
}

func (p Stored) change(t *testing.T, r Request) error {
	t.Helper()
	a, err := p.Handle(t.Context(), r)
	if err != nil {
		return err
	}
	return p.Store.Update(t.Context(), a.Change)
}

func TestSetGetDelete(t *testing.T) {
	p := open(t)
	path := []string{"repo", "type", "tag"}
	get := Request{Method: "GET", Path: path}
	if _, err := p.Handle(t.Context(), get); !errors.Is(err, ErrNotFound) {
		t.Errorf("before it was set: %v", err)
	}
	for _, value := range []string{"one", "two", ""} {
		if err := p.change(t, Request{Method: "POST", Path: path, Body: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		if a, err := p.Handle(t.Context(), get); err != nil || string(a.Body.Reveal()) != value || a.Change != nil {
			t.Errorf("after it was set to %q: %v", value, err)
		}
	}
	if list, err := p.List(t.Context(), "repo/", "", 10); err != nil || len(list) != 1 ||
		list[0].Path != "repo/type/tag" || list[0].Size != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := p.change(t, Request{Method: "DELETE", Path: path}); err != nil {
		t.Fatal(err)
	}
	if err := p.change(t, Request{Method: "DELETE", Path: path}); !errors.Is(err, ErrNotFound) {
		t.Errorf("second deletion: %v", err)
	}
	large := Request{Method: "POST", Path: path, Body: make([]byte, MaxSize+1)}
	if err := p.change(t, large); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestAccess(t *testing.T) {
	want := map[string]Access{"GET": Release, "POST": Admin, "DELETE": Admin, "PUT": Nobody, "HEAD": Nobody,
		"": Nobody, "get": Nobody}
	for method, access := range want {
		if got := (Stored{}).Access(method, []string{"a", "b", "c"}); got != access {
			t.Errorf("%s: %v, want %v", method, got, access)
		}
	}
}

func TestAttackPaths(t *testing.T) {
	p := open(t)
	for _, path := range [][]string{
		nil, {"one"}, {"a", "b"}, {"a", "b", "c", "d"}, {"a", "b", ""}, {"", "b", "c"}, {"..", "b", "c"},
		{".", "b", "c"}, {"a/b", "c", "d"},
		{"a", "b", ".hidden"}, {"a", "b", "c%2f"}, {"a", "b", "c\x00"}, {"a", "b", "ä"},
		{"a", "b", strings.Repeat("c", 5000)},
	} {
		t.Run(strings.Join(path, "+")[:min(20, len(strings.Join(path, "+")))], func(t *testing.T) {
			for _, method := range []string{Get, Post, Delete} {
				if _, err := p.Handle(t.Context(), Request{Method: method, Path: path}); !errors.Is(err, ErrPath) {
					t.Errorf("%s: %v", method, err)
				}
			}
		})
	}
}

func FuzzKeysAreInjective(f *testing.F) {
	f.Add("a/b/c", "a/b/c")
	f.Add("a//b", "a/b/")
	f.Fuzz(func(t *testing.T, one, two string) {
		p, q := strings.Split(one, "/"), strings.Split(two, "/")
		k, err := Key(p)
		if err != nil {
			return
		}
		l, err := Key(q)
		if err != nil {
			return
		}
		if (k == l) != (one == two) {
			t.Errorf("%q and %q: keys %q and %q", one, two, k, l)
		}
	})
}
