// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dmverity "github.com/containerd/go-dmverity/pkg/verity"
	"github.com/erofs/go-erofs"

	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/guestos/deb"
	"github.com/nacre-project/nacre/internal/guestos/kmod"
	"github.com/nacre-project/nacre/internal/guestos/verity"
)

func testTree(t *testing.T, headers ...tar.Header) *tree {
	t.Helper()
	tr := &tree{files: make(map[string]*file), taken: make(map[string]map[string]bool)}
	for _, h := range headers {
		content := "content of " + h.Name
		if err := tr.add("pkg", deb.Entry{Path: h.Name, Header: &h}, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestTreeFollowsLinks(t *testing.T) {
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
	}
	tr := testTree(t,
		tar.Header{Name: "lib/x/libreal.so.1.2", Typeflag: tar.TypeReg},
		link("lib/x/libreal.so.1", "libreal.so.1.2"),
		link("usr/bin/absolute", "/lib/x/libreal.so.1"),
		link("usr/share/doc/alias", "real"),
		tar.Header{Name: "usr/share/doc/real/copyright", Typeflag: tar.TypeReg},
		tar.Header{Name: "usr/hard", Typeflag: tar.TypeLink, Linkname: "./lib/x/libreal.so.1.2"},
		link("loop/a", "b"), link("loop/b", "a"), link("out", "../../../etc/passwd"),
	)
	for name, want := range map[string]string{
		"lib/x/libreal.so.1":            "lib/x/libreal.so.1.2",
		"usr/lib/x/libreal.so.1":        "lib/x/libreal.so.1.2",
		"usr/bin/absolute":              "lib/x/libreal.so.1.2",
		"usr/hard":                      "lib/x/libreal.so.1.2",
		"usr/share/doc/alias/copyright": "usr/share/doc/real/copyright",
	} {
		f, err := tr.take(name)
		if err != nil || string(f.data) != "content of "+want {
			t.Errorf("%s: %v, want the content of %s", name, err, want)
		}
	}
	for _, name := range []string{"loop/a", "out", "absent", "usr/share/doc/real"} {
		if f, err := tr.take(name); err == nil {
			t.Errorf("%s: found %q", name, f.data)
		}
	}
	err := tr.add("pkg", deb.Entry{
		Path: "usr/dangling", Header: &tar.Header{Typeflag: tar.TypeLink, Linkname: "usr/absent"},
	}, nil)
	if err == nil {
		t.Error("a hard link to nothing is accepted")
	}
}

func TestKernelConfig(t *testing.T) {
	config := []byte("# a comment\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=\"y\"\n# CONFIG_E is not set\n")
	missing := missingOptions(config, []string{"A", "B", "C", "D", "E", "F"})
	if want := []string{"C", "D", "E", "F"}; !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
	for _, option := range []string{"SEV_GUEST", "TDX_GUEST_DRIVER", "TSM_REPORTS"} {
		if !slices.Contains(requiredConfig, option) {
			t.Errorf("a kernel without %s would be accepted", option)
		}
	}
}

func TestInitramfsIsReproducible(t *testing.T) {
	groups := [][]loadable{
		{{kmod.Module{Name: "a", Data: []byte("module a")}, true}},
		{{kmod.Module{Name: "b", Data: bytes.Repeat([]byte("module b"), 100_000)}, false}},
	}
	first, err := initramfs([]byte("init"), groups)
	if err != nil {
		t.Fatal(err)
	}
	second, err := initramfs([]byte("init"), groups)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two archives of the same files differ")
	}
}

func TestRootImage(t *testing.T) {
	const builtAt = 1_790_000_000
	makeRoot := func() root {
		r := root{}
		r.dir("tmp", 0o777|fs.ModeSticky)
		r.dir("root", 0o700)
		r.link("sbin", "usr/sbin")
		r.file("usr/sbin/guest", 0o755, strings.Repeat("program ", 10_000))
		r.file("etc/empty", 0o600, "")
		return r
	}
	image := func() (string, verity.Params) {
		path := filepath.Join(t.TempDir(), "root.img")
		p, err := makeRoot().write(path, builtAt)
		if err != nil {
			t.Fatal(err)
		}
		return path, p
	}
	first, params := image()
	second, again := image()
	a, b := read(t, first), read(t, second)
	if !bytes.Equal(a, b) || params.String() != again.String() {
		t.Error("two root images of the same files differ")
	}

	img, err := erofs.Open(bytes.NewReader(a[:params.DataBlocks*verity.BlockSize]))
	if err != nil {
		t.Fatal(err)
	}
	// As in stat(2): go-erofs hands the mode of the inode through in the low bits.
	for name, want := range map[string]uint32{
		".": 0o40755, "tmp": 0o41777, "root": 0o40700, "usr/sbin": 0o40755, "usr/sbin/guest": 0o100755, "etc/empty": 0o100600,
	} {
		info, err := fs.Stat(img, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := uint32(info.Mode() & 0o177777); got != want || info.ModTime().Unix() != builtAt {
			t.Errorf("%s: mode %#o of %v, want %#o of %v", name, got, info.ModTime().Unix(), want, builtAt)
		}
	}
	if data, err := fs.ReadFile(img, "usr/sbin/guest"); err != nil || len(data) != 80_000 {
		t.Errorf("read back %d bytes: %v", len(data), err)
	}

	if err := verifyRoot(first, params); err != nil {
		t.Errorf("the hash tree does not fit: %v", err)
	}
	a[len(a)/2] ^= 1
	if err := os.WriteFile(first, a, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := verifyRoot(first, params); err == nil {
		t.Error("a changed root image still fits its root hash")
	}
}

// verifyRoot reads a whole root image as dm-verity would.
func verifyRoot(path string, p verity.Params) error {
	params := dmverity.DefaultParams()
	params.NoSuperblock = true
	params.DataBlockSize, params.HashBlockSize = verity.BlockSize, verity.BlockSize
	params.DataBlocks = p.DataBlocks
	params.HashAreaOffset = p.DataBlocks * verity.BlockSize
	params.Salt, params.SaltSize = p.Salt, uint16(len(p.Salt))
	return dmverity.Verify(&params, path, path, p.RootHash[:])
}

func TestCompareDirs(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := writeFile(filepath.Join(dir, "sub", "same"), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := compareDirs(a, b); err != nil {
		t.Errorf("equal directories: %v", err)
	}
	if err := errors.Join(
		writeFile(filepath.Join(a, "differs"), []byte("a")), writeFile(filepath.Join(b, "differs"), []byte("b")),
		writeFile(filepath.Join(b, "added"), nil),
	); err != nil {
		t.Fatal(err)
	}
	err := compareDirs(a, b)
	if err == nil || !strings.Contains(err.Error(), "differs") || !strings.Contains(err.Error(), "added") {
		t.Errorf("different directories: %v", err)
	}
}

func TestReplaceDir(t *testing.T) {
	dir := t.TempDir()
	out, stage := filepath.Join(dir, "image"), filepath.Join(dir, "image.new")
	for _, content := range []string{"first", "second"} {
		if err := writeFile(filepath.Join(stage, "file"), []byte(content)); err != nil {
			t.Fatal(err)
		}
		if err := replaceDir(stage, out); err != nil {
			t.Fatal(err)
		}
		if got := string(read(t, filepath.Join(out, "file"))); got != content {
			t.Errorf("the image has %q, want %q", got, content)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSBOMGolden(t *testing.T) {
	sum := strings.Repeat("ab", sha256.Size)
	var got bytes.Buffer
	if err := encode(&got, sbom(&guestos.Manifest{
		BuiltAt: 1_790_000_000, Verity: guestos.Verity{RootHash: strings.Repeat("cd", sha256.Size)},
		Artifacts: []guestos.Artifact{{Name: "rootfs.img", Size: 1, SHA256: sum}},
		Packages: []guestos.Package{
			{Name: "libexample", Version: "1:2.0-1+b1", Architecture: "amd64", Source: "example (1:2.0-1)", SHA256: sum},
			{Name: "libc6-dev", Version: "2", Architecture: "amd64", Source: "glibc (2)", Suite: guestos.SuiteHost},
		},
		Programs: []guestos.Program{
			{Path: "/init", Main: "example.org/init", Go: "go1.0", SHA256: sum, Modules: []guestos.GoModule{
				{Path: "example.org/Mod", Version: "v1.0.0"},
			}},
			{Path: "/usr/bin/x", Main: "example.org/x", Go: "go1.0", SHA256: sum, Modules: []guestos.GoModule{
				{Path: "example.org/Mod", Version: "v1.0.0"}, {Path: "example.org/Mod", Version: "v2.0.0+incompatible"},
			}},
		},
	})); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/sbom.golden.json"
	if want := read(t, golden); !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the bill of materials is not %s:\n%s", golden, got.Bytes())
	}
}

func TestEscapeModule(t *testing.T) {
	if got := escapeModule("github.com/BurntSushi/toml@v1.0.0-RC"); got != "github.com/!burnt!sushi/toml@v1.0.0-!r!c" {
		t.Errorf("escaped %q", got)
	}
}

// The image that `make image` built has what a guest needs, and no more than it may weigh.
func TestBuiltImage(t *testing.T) {
	dir := os.Getenv("NACRE_IMAGE_DIR")
	if dir == "" {
		t.Skip("NACRE_IMAGE_DIR names no guest image; `make test` builds one and sets it")
	}
	img, err := guestos.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Verify(); err != nil {
		t.Error(err)
	}
	m := img.Manifest
	if missing := missingOptions(read(t, filepath.Join(dir, guestos.ConfigName)), requiredConfig); len(missing) > 0 {
		t.Errorf("kernel %s is built without %v", m.Kernel, missing)
	}
	const maxRoot = 80 << 20
	if size := int64(len(read(t, img.Rootfs))); size > maxRoot {
		t.Errorf("the root image has %d bytes, at most %d are wanted", size, maxRoot)
	}
	for _, module := range []string{
		"virtio_blk", "virtio_net", "dm_verity", "erofs", "overlay", "vmw_vsock_virtio_transport", "tsm", "sev_guest",
		"tdx_guest",
	} {
		if !slices.Contains(m.Modules, module) {
			t.Errorf("the guest does not load %s", module)
		}
	}
	for _, p := range m.Packages {
		raw, err := hex.DecodeString(p.SHA256)
		if p.Version == "" || len(p.Files) == 0 || p.Suite != guestos.SuiteHost && (err != nil || len(raw) != sha256.Size) {
			t.Errorf("package %+v is not described", p)
		}
		read(t, filepath.Join(dir, guestos.LicensesName, "debian", p.Name, "copyright"))
	}
	for _, p := range m.Programs {
		if p.Main == "" || p.Go == "" || len(p.Modules) == 0 {
			t.Errorf("program %+v is not described", p)
		}
	}

	params, err := verity.Parse(m.Verity.RootHash + "," + m.Verity.Salt + ",1")
	if err != nil {
		t.Fatal(err)
	}
	params.DataBlocks = m.Verity.DataBlocks
	if err := verifyRoot(img.Rootfs, params); err != nil {
		t.Error(err)
	}
	f, err := os.Open(img.Rootfs)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rootFS, err := erofs.Open(io.NewSectionReader(f, 0, int64(params.DataBlocks)*verity.BlockSize))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"usr/sbin/nacre-guest", "usr/bin/runc", "usr/sbin/cryptsetup", "usr/lib64/ld-linux-x86-64.so.2",
		"usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
		"etc/ssl/certs/ca-certificates.crt", "etc/nacre/default-policy.rego", "etc/nacre/image.json",
		"dev", "proc", "sys", "run", "tmp", "var", "root",
	} {
		if _, err := fs.Stat(rootFS, name); err != nil {
			t.Errorf("/%s: %v", name, err)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
