// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dmverity "github.com/containerd/go-dmverity/pkg/verity"
	"github.com/erofs/go-erofs"

	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/guestos/verity"
)

// root is the content of the root image, by path without a leading slash. Missing parents are made with mode 0755.
type root map[string]node

type node struct {
	mode fs.FileMode // with the type bits of a directory or symbolic link
	data []byte      // content, or the target of a link
}

// libraryDirs are where the dynamic linker of Debian looks, under their merged names.
var libraryDirs = []string{"usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"}

// tools are Debian's programs in the root image, with libraries that they load without naming them in their headers:
// glibc loads libgcc_s when a thread of cryptsetup's key derivation ends.
var tools = []string{"usr/sbin/cryptsetup", "usr/lib/x86_64-linux-gnu/libgcc_s.so.1"}

// rootfs collects what the guest runs from.
func rootfs(t *tree, p *programs, policy string, builtAt int64) (root, error) {
	r := root{}
	for _, dir := range []string{"dev", "proc", "sys", "run", "var", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"} {
		r.dir(dir, 0o755)
	}
	r.dir("tmp", 0o777|fs.ModeSticky)
	r.dir("root", 0o700)
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		r.link(dir, "usr/"+dir)
	}
	// Where the guest keeps what changes: its name servers are not known when the image is made.
	r.link("etc/resolv.conf", "../run/resolv.conf")
	r.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
	r.file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
	r.file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")
	r.file("etc/os-release", 0o644, "NAME=\"Nacre guest\"\nID=nacre\n")

	r.file(p.guest.path[1:], 0o755, string(p.guest.data))
	r.file(p.runc.path[1:], 0o755, string(p.runc.data))
	for _, tool := range tools {
		if err := r.program(t, tool); err != nil {
			return nil, err
		}
	}
	certificates, err := caBundle(t)
	if err != nil {
		return nil, err
	}
	r.file("etc/ssl/certs/ca-certificates.crt", 0o644, string(certificates))

	rego, err := os.ReadFile(policy)
	if err != nil {
		return nil, fmt.Errorf("read the agent policy for pods without init-data: %w", err)
	}
	r.file("etc/nacre/default-policy.rego", 0o644, string(rego))
	about, err := json.Marshal(struct {
		BuiltAt int64 `json:"built_at"`
		Version int   `json:"version"`
	}{builtAt, guestos.ManifestVersion})
	if err != nil {
		return nil, err
	}
	r.file("etc/nacre/image.json", 0o644, string(about)+"\n")
	return r, nil
}

func (r root) dir(name string, mode fs.FileMode) { r[name] = node{mode: fs.ModeDir | mode} }
func (r root) link(name, target string) {
	r[name] = node{mode: fs.ModeSymlink | 0o777, data: []byte(target)}
}
func (r root) file(name string, m fs.FileMode, s string) { r[name] = node{mode: m, data: []byte(s)} }

// program adds an ELF file and, recursively, the libraries that it names.
func (r root) program(t *tree, name string) error {
	if _, ok := r[name]; ok {
		return nil
	}
	f, err := t.take(name)
	if err != nil {
		return err
	}
	r[name] = node{mode: fs.FileMode(f.perm), data: f.data}
	e, err := elf.NewFile(bytes.NewReader(f.data))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	libraries, err := e.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the libraries of %s: %w", name, err)
	}
	for _, lib := range libraries {
		p, err := findLibrary(t, lib)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", name, lib, err)
		}
		if err := r.program(t, p); err != nil {
			return err
		}
	}
	for _, seg := range e.Progs {
		if seg.Type != elf.PT_INTERP {
			continue
		}
		interp := make([]byte, seg.Filesz)
		if _, err := seg.ReadAt(interp, 0); err != nil {
			return fmt.Errorf("read the dynamic linker of %s: %w", name, err)
		}
		p := strings.TrimPrefix(string(bytes.TrimRight(interp, "\x00")), "/")
		if err := r.program(t, merged(p)); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(t *tree, name string) (string, error) {
	for _, dir := range libraryDirs {
		p := dir + "/" + name
		if _, ok := t.files[p]; ok {
			return p, nil
		}
	}
	return "", fmt.Errorf("no fetched package has it in %s", strings.Join(libraryDirs, ", "))
}

// caBundle concatenates Mozilla's certificate authorities.
func caBundle(t *tree) ([]byte, error) {
	var bundle bytes.Buffer
	for _, name := range t.below("usr/share/ca-certificates/mozilla") {
		if !strings.HasSuffix(name, ".crt") {
			continue
		}
		f, err := t.take(name)
		if err != nil {
			return nil, err
		}
		bundle.Write(bytes.TrimSpace(f.data))
		bundle.WriteByte('\n')
	}
	if bundle.Len() == 0 {
		return nil, errors.New("the package ca-certificates has no certificates")
	}
	return bundle.Bytes(), nil
}

// write makes the root image: an EROFS file system, directly followed by its dm-verity tree. The salt depends on the
// content alone; it keeps hash trees of different images apart, and need not be secret.
func (r root) write(file string, builtAt int64) (verity.Params, error) {
	var p verity.Params
	f, err := os.Create(file)
	if err != nil {
		return p, err
	}
	defer f.Close()
	if err := r.writeFileSystem(f, filepath.Dir(file), builtAt); err != nil {
		return p, fmt.Errorf("write the root file system: %w", err)
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return p, err
	}
	p.DataBlocks = uint64(size+verity.BlockSize-1) / verity.BlockSize
	if err := f.Truncate(int64(p.DataBlocks) * verity.BlockSize); err != nil {
		return p, err
	}
	if err := f.Close(); err != nil {
		return p, err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return p, err
	}
	salt := sha256.Sum256(content)
	p.Salt = salt[:]

	params := dmverity.DefaultParams()
	params.NoSuperblock = true // all parameters are on the measured command line
	params.DataBlockSize = verity.BlockSize
	params.HashBlockSize = verity.BlockSize
	params.DataBlocks = p.DataBlocks
	params.HashAreaOffset = p.DataBlocks * verity.BlockSize
	params.Salt = p.Salt
	params.SaltSize = uint16(len(p.Salt))
	hash, err := dmverity.Create(&params, file, file)
	if err != nil {
		return p, fmt.Errorf("make the hash tree of the root image: %w", err)
	}
	if copy(p.RootHash[:], hash) != len(p.RootHash) {
		return p, fmt.Errorf("the root hash has %d bytes, want %d", len(hash), len(p.RootHash))
	}
	return p, nil
}

func (r root) writeFileSystem(f *os.File, tmp string, builtAt int64) error {
	w := erofs.Create(f, erofs.WithBlockSize(verity.BlockSize), erofs.WithTempDir(tmp),
		erofs.WithBuildTime(uint64(builtAt), 0))
	r.addParents()
	names := make([]string, 0, len(r))
	for name := range r {
		names = append(names, name)
	}
	slices.Sort(names) // parents come before what is in them
	if err := w.Mkdir("/", 0o755); err != nil {
		return err
	}
	at := time.Unix(builtAt, 0)
	for _, name := range append([]string{""}, names...) {
		if err := addNode(w, "/"+name, r[name]); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		if err := w.Chtimes("/"+name, at, at); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return w.Close()
}

func addNode(w *erofs.Writer, name string, n node) error {
	switch {
	case name == "/":
		return nil
	case n.mode.IsDir():
		if err := w.Mkdir(name, n.mode.Perm()); err != nil {
			return err
		}
		return w.Chmod(name, n.mode)
	case n.mode&fs.ModeSymlink != 0:
		return w.Symlink(string(n.data), name)
	default:
		f, err := w.Create(name)
		if err != nil {
			return err
		}
		if _, err := f.Write(n.data); err != nil {
			return err
		}
		if err := f.Chmod(n.mode); err != nil {
			return err
		}
		return f.Close()
	}
}

func (r root) addParents() {
	for name := range r {
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if _, ok := r[d]; !ok {
				r.dir(d, 0o755)
			}
		}
	}
}
