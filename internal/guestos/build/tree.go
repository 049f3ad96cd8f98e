// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/guestos/apt"
	"github.com/nacre-project/nacre/internal/guestos/deb"
)

// maxFile is the largest file taken from a package, in bytes.
const maxFile = 64 << 20

// tree is the files of all fetched packages, in memory, under the names that they have in the guest (merged /usr).
type tree struct {
	files    map[string]*file
	packages []apt.Package
	taken    map[string]map[string]bool // package → original paths of what was taken from it
}

// file is a regular file or a symbolic link of a package.
type file struct {
	pkg      string
	original string // path in the package
	perm     uint32
	data     []byte
	link     string // target; "" for a regular file
	modified time.Time
}

// unpack reads the packages.
func unpack(archive *apt.Archive, packages []apt.Package) (*tree, error) {
	t := &tree{files: make(map[string]*file), packages: packages, taken: make(map[string]map[string]bool)}
	for _, p := range packages {
		f, err := os.Open(archive.Path(p))
		if err != nil {
			return nil, err
		}
		err = deb.Walk(bufio.NewReaderSize(f, 1<<20), func(e deb.Entry, content io.Reader) error {
			return t.add(p.Name, e, content)
		})
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", p.File(), err)
		}
	}
	return t, nil
}

func (t *tree) add(pkg string, e deb.Entry, content io.Reader) error {
	f := &file{pkg: pkg, original: e.Path, perm: uint32(e.Header.Mode & 0o777), modified: e.Header.ModTime}
	switch e.Header.Typeflag {
	case tar.TypeReg:
		data, err := io.ReadAll(io.LimitReader(content, maxFile+1))
		if err != nil {
			return fmt.Errorf("read %s: %w", e.Path, err)
		}
		if len(data) > maxFile {
			return fmt.Errorf("%s has more than %d bytes", e.Path, maxFile)
		}
		f.data = data
	case tar.TypeSymlink:
		f.link = e.Header.Linkname
	case tar.TypeLink:
		target, ok := t.files[merged(path.Clean(e.Header.Linkname))]
		if !ok {
			return fmt.Errorf("%s is a hard link to %s, which does not come before it", e.Path, e.Header.Linkname)
		}
		f.data = target.data
	default:
		return nil // directories are made as needed; packages of the image have no devices
	}
	t.files[merged(e.Path)] = f
	return nil
}

// merged maps the directories that a merged-/usr system has as links.
func merged(p string) string {
	for _, top := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
		if strings.HasPrefix(p, top) {
			return "usr/" + p
		}
	}
	return p
}

// take returns the regular file at p, following links, and notes that the image uses its package.
func (t *tree) take(p string) (*file, error) {
	f, err := t.peek(p)
	if err == nil {
		t.note(f)
	}
	return f, err
}

// peek returns the regular file at p, following links in every component of the path.
func (t *tree) peek(p string) (*file, error) {
	name := merged(p)
	for range maxLinks {
		at, f := t.firstLink(name)
		if f == nil {
			return nil, fmt.Errorf("no fetched package has a file %s: %w", name, os.ErrNotExist)
		}
		if f.link == "" {
			return f, nil
		}
		target := f.link
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(at), target)
		}
		name = merged(strings.TrimPrefix(path.Join(target, strings.TrimPrefix(name, at)), "/"))
	}
	return nil, fmt.Errorf("%s: more than %d symbolic links", p, maxLinks)
}

const maxLinks = 8

// firstLink returns the first component of name that is a symbolic link, or else the file at name itself.
func (t *tree) firstLink(name string) (string, *file) {
	for i, c := range name {
		if c == '/' {
			if f := t.files[name[:i]]; f != nil && f.link != "" {
				return name[:i], f
			}
		}
	}
	return name, t.files[name]
}

func (t *tree) note(f *file) {
	if t.taken[f.pkg] == nil {
		t.taken[f.pkg] = make(map[string]bool)
	}
	t.taken[f.pkg][f.original] = true
}

// below returns the names of all files under a directory, sorted.
func (t *tree) below(dir string) []string {
	var names []string
	for name := range t.files {
		if strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// used describes the packages that take took something from.
func (t *tree) used() []guestos.Package {
	var used []guestos.Package
	for _, p := range t.packages {
		if len(t.taken[p.Name]) == 0 {
			continue
		}
		var files []string
		for f := range t.taken[p.Name] {
			files = append(files, f)
		}
		slices.Sort(files)
		used = append(used, guestos.Package{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source, Suite: p.Suite,
			SHA256: p.SHA256, Files: files,
		})
	}
	return used
}
