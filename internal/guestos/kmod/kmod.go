// SPDX-License-Identifier: Apache-2.0

// Package kmod finds the kernel modules that a set of wanted modules needs, and the order in which to load them.
//
// A kernel package ships no modules.dep (depmod writes it on installation), so dependencies are read from where
// depmod reads them: the .modinfo section of the modules themselves. The package trusts the modules' bytes as it
// trusts the package that they come from; it loads nothing.
package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ulikunitz/xz"
)

// MaxModule is the largest uncompressed module accepted, in bytes.
const MaxModule = 16 << 20

// ErrNotFound is returned by Tree.Closure for a module that the kernel neither ships nor has built in.
var ErrNotFound = errors.New("the kernel has no such module")

// Module is one loadable kernel module.
type Module struct {
	Name string // canonical: underscores, no suffix
	Path string // in the package, as given to Add
	Data []byte // uncompressed ELF, with its signature if it has one
}

// Tree is the set of modules of one kernel.
type Tree struct {
	files   map[string]file // by canonical name
	builtin map[string]bool
}

type file struct {
	path string
	data []byte // as stored, perhaps compressed
}

// NewTree makes a tree. builtin is the content of the kernel's modules.builtin: one path a line.
func NewTree(builtin []byte) *Tree {
	t := &Tree{files: make(map[string]file), builtin: make(map[string]bool)}
	for line := range strings.Lines(string(builtin)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			t.builtin[name] = true
		}
	}
	return t
}

// Add adds the module file at p (….ko or ….ko.xz); it ignores other files.
func (t *Tree) Add(p string, data []byte) {
	if name, ok := moduleName(p); ok {
		t.files[name] = file{path: p, data: data}
	}
}

// Len returns the number of loadable modules in the tree.
func (t *Tree) Len() int { return len(t.files) }

// Closure returns the wanted modules and all that they depend on, each after its dependencies and otherwise in the
// order asked for. Modules that are built into the kernel are left out.
func (t *Tree) Closure(want []string) ([]Module, error) {
	var order []Module
	state := make(map[string]int) // 1: being visited, 2: in order
	var visit func(name, from string) error
	visit = func(name, from string) error {
		name = canonical(name)
		if state[name] == 2 || t.builtin[name] {
			return nil
		}
		if state[name] == 1 {
			return fmt.Errorf("kernel modules %s and %s depend on each other", name, from)
		}
		state[name] = 1
		f, ok := t.files[name]
		if !ok {
			return fmt.Errorf("module %q wanted by %s: %w", name, from, ErrNotFound)
		}
		data, err := uncompressed(f)
		if err != nil {
			return fmt.Errorf("module %s: %w", f.path, err)
		}
		deps, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", f.path, err)
		}
		for _, d := range deps {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		order = append(order, Module{Name: name, Path: f.path, Data: data})
		return nil
	}
	for _, w := range want {
		if err := visit(w, "the guest image"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName returns the canonical name of the module in the file p.
func moduleName(p string) (string, bool) {
	base := strings.TrimSuffix(path.Base(p), ".xz")
	name, ok := strings.CutSuffix(base, ".ko")
	return canonical(name), ok && name != ""
}

// canonical spells a module's name as the kernel does: file names mix "-" and "_" freely.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func uncompressed(f file) ([]byte, error) {
	if !strings.HasSuffix(f.path, ".xz") {
		return f.data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(f.data))
	if err != nil {
		return nil, fmt.Errorf("uncompress: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxModule+1))
	if err != nil {
		return nil, fmt.Errorf("uncompress: %w", err)
	}
	if len(data) > MaxModule {
		return nil, fmt.Errorf("uncompress: more than %d bytes", MaxModule)
	}
	return data, nil
}

// dependencies reads a module's own list of the modules whose symbols it uses. Soft dependencies are not followed:
// they name what may help, and the image's list of modules names what is wanted.
func dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	var deps []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		list, ok := strings.CutPrefix(entry, "depends=")
		if !ok || list == "" {
			continue
		}
		deps = append(deps, strings.Split(list, ",")...)
	}
	return deps, nil
}

// A signed module ends in the signature, a 12-byte description of it, whose last four bytes are the signature's
// length in big-endian order, and a marker (Linux scripts/sign-file.c).
const (
	signatureMarker = "~Module signature appended~\n"
	signatureInfo   = 12
)

// Unsigned returns the module without its signature.
func Unsigned(module []byte) []byte {
	body, ok := bytes.CutSuffix(module, []byte(signatureMarker))
	if !ok || len(body) < signatureInfo {
		return module
	}
	length := uint64(binary.BigEndian.Uint32(body[len(body)-4:]))
	body = body[:len(body)-signatureInfo]
	if length > uint64(len(body)) {
		return module
	}
	return body[:uint64(len(body))-length]
}
