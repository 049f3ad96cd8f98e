// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// file, dir and the like build tar headers with the identity of the running user, so that most tests need no root.
func mine(h tar.Header) tar.Header {
	h.Uid, h.Gid = os.Getuid(), os.Getgid()
	h.ModTime = time.Unix(1700000000, 0)
	return h
}

type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{mine(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}), content}
}

func dir(name string) entry {
	return entry{Header: mine(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})}
}

func symlink(name, target string) entry {
	return entry{Header: mine(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})}
}

func hardLink(name, target string) entry {
	return entry{Header: mine(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644})}
}

func special(typeflag byte, name string, major, minor int64) entry {
	return entry{Header: mine(tar.Header{Typeflag: typeflag, Name: name, Mode: 0o644, Devmajor: major, Devminor: minor})}
}

func xattrs(e entry, records ...string) entry {
	e.PAXRecords = map[string]string{}
	for i := 0; i < len(records); i += 2 {
		e.PAXRecords[xattrRecord+records[i]] = records[i+1]
	}
	return e
}

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// extract unpacks without a sandbox into <temp>/layer, beside which lies <temp>/outside, the prey.
func extract(t testing.TB, stream []byte, limits Limits) (layer string, stats Stats, err error) {
	t.Helper()
	parent := t.TempDir()
	layer = filepath.Join(parent, "layer")
	for _, d := range []string{layer, filepath.Join(parent, "outside")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(parent, "outside", "prey"), []byte("intact"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	stats, err = Extract(root, bytes.NewReader(stream), limits)
	return layer, stats, err
}

// list returns the tree as lines "type path[ → target]", sorted.
func list(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("f %s %s", name, content))
		case unix.S_IFDIR:
			mark := ""
			if v := make([]byte, 8); getxattr(path, OpaqueXattr, v) == "y" {
				mark = " opaque"
			}
			lines = append(lines, "d "+name+mark)
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			lines = append(lines, "l "+name+" → "+target)
		case unix.S_IFIFO:
			lines = append(lines, "p "+name)
		case unix.S_IFCHR:
			lines = append(lines, fmt.Sprintf("c %s %d:%d", name, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		default:
			lines = append(lines, fmt.Sprintf("? %s %o", name, st.Mode))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func getxattr(path, name string, buf []byte) string {
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func want(t *testing.T, root string, lines ...string) {
	t.Helper()
	slices.Sort(lines)
	if got := list(t, root); !slices.Equal(got, lines) {
		t.Errorf("tree:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func TestExtract(t *testing.T) {
	tests := []struct {
		name    string
		entries []entry
		want    []string
	}{
		{"nothing", nil, nil},
		{"files, links, fifo", []entry{
			dir("./"), dir("etc/"), file("./etc/passwd", "root"), symlink("etc/abs", "/etc/passwd"), symlink("up", "../../outside"),
			hardLink("etc/again", "etc/passwd"), hardLink("etc/absolute", "/etc/passwd"), special(tar.TypeFifo, "run/pipe", 0, 0),
		}, []string{"d etc", "f etc/passwd root", "l etc/abs → /etc/passwd", "l up → ../../outside", "f etc/again root",
			"f etc/absolute root", "d run", "p run/pipe"}},
		{"directories that are not listed", []entry{file("a/b/c/d", "x")}, []string{"d a", "d a/b", "d a/b/c", "f a/b/c/d x"}},
		{"absolute names", []entry{file("/etc//motd", "hi")}, []string{"d etc", "f etc/motd hi"}},
		{"names that are no UTF-8", []entry{file("caf\xe9\n", "x")}, []string{"f caf\xe9\n x"}},
		{"later wins", []entry{file("a", "1"), file("a", "2"), symlink("b", "x"), file("b", "3"), dir("c"), file("c", "4"),
			file("d", "5"), dir("d")},
			[]string{"f a 2", "f b 3", "f c 4", "d d"}},
		{"through a relative link", []entry{dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", "y")},
			[]string{"d usr", "d usr/lib", "l lib → usr/lib", "f usr/lib/x y"}},
		{"through an absolute link, which stays inside", []entry{dir("run"), symlink("var/run", "/run"), file("var/run/x", "y")},
			[]string{"d run", "d var", "l var/run → /run", "f run/x y"}},
		{"whiteouts", []entry{file("a/.wh.b", ""), file(".wh.c", ""), dir("d"), file("d/.wh..wh..opq", ""), special(tar.TypeChar, "e", 0, 0)},
			[]string{"d a", "c a/b 0:0", "c c 0:0", "d d opaque", "c e 0:0"}},
		{"a whiteout hides lower layers only", []entry{file("a", "1"), file(".wh.a", ""), file(".wh.b", ""), file("b", "2"),
			dir("c"), file("c/x", "3"), file(".wh.c", ""), file(".wh.d", ""), dir("d"), file("d/x", "4")},
			[]string{"f a 1", "f b 2", "d c opaque", "f c/x 3", "d d opaque", "f d/x 4"}},
		{"AUFS's own files", []entry{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file("a", "1")}, []string{"f a 1"}},
		{"a hard link twice, and to itself", []entry{file("a", "1"), hardLink("b", "a"), hardLink("b", "a"), hardLink("a", "a")},
			[]string{"f a 1", "f b 1"}},
		{"a hard link to a link", []entry{symlink("a", "/nowhere"), hardLink("b", "a")}, []string{"l a → /nowhere", "l b → /nowhere"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			layer, _, err := extract(t, tarball(t, tt.entries...), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			want(t, layer, tt.want...)
		})
	}
}

func TestExtractMetadata(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving files away takes root")
	}
	then := time.Unix(1234567890, 0)
	setuid := file("su", "x")
	setuid.Mode, setuid.Uid, setuid.Gid, setuid.ModTime = 0o4755, 1234, 4294967294, then
	sticky := dir("tmp")
	sticky.Mode, sticky.Gid, sticky.ModTime = 0o3777, 7, then
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // VFS_CAP_REVISION_2, NET_BIND_SERVICE
	ping := xattrs(file("ping", "x"), "security.capability", capability, "user.mine", "1", "trusted.overlay.opaque", "y",
		"user.overlay.redirect", "/etc", "security.selinux", "z")
	link := symlink("l", "x")
	link.Uid, link.ModTime = 99, then
	root := dir("./")
	root.Mode, root.Uid = 0o711, 3
	layer, stats, err := extract(t, tarball(t, sticky, root, setuid, ping, link, file("tmp/x", "")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(layer, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := stat("su"); st.Mode&0o7777 != 0o4755 || st.Uid != 1234 || st.Gid != 4294967294 || st.Mtim.Sec != then.Unix() {
		t.Errorf("su: %+v", st)
	}
	if st := stat("tmp"); st.Mode&0o7777 != 0o3777 || st.Gid != 7 || st.Mtim.Sec != then.Unix() {
		t.Errorf("tmp: %+v", st)
	}
	if st := stat("l"); st.Uid != 99 || st.Mtim.Sec != then.Unix() {
		t.Errorf("l: %+v", st)
	}
	if st := stat(""); st.Mode&0o7777 != 0o711 || st.Uid != 3 {
		t.Errorf("root: %+v", st)
	}
	buf := make([]byte, 64)
	for name, value := range map[string]string{"security.capability": capability, "user.mine": "1", "trusted.overlay.opaque": "",
		"user.overlay.redirect": ""} {
		if got := getxattr(filepath.Join(layer, "ping"), name, buf); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
	if stats.XattrsSkipped != 3 {
		t.Errorf("%d attributes skipped, want 3", stats.XattrsSkipped)
	}
}

// Each attack deviates in one thing from a layer that unpacks.
func attack(t *testing.T, code Code, limits Limits, entries ...entry) {
	t.Helper()
	attackStream(t, code, limits, tarball(t, entries...))
}

func attackStream(t *testing.T, code Code, limits Limits, stream []byte) {
	t.Helper()
	layer, _, err := extract(t, stream, limits)
	if got := CodeOf(err); got != code {
		t.Errorf("code %q (%v), want %q", got, err, code)
	}
	prey, err := os.ReadFile(filepath.Join(filepath.Dir(layer), "outside", "prey"))
	if err != nil || string(prey) != "intact" {
		t.Errorf("the file outside: %q, %v", prey, err)
	}
	around, err := os.ReadDir(filepath.Dir(layer))
	if err != nil || len(around) != 2 {
		t.Errorf("beside the layer: %v, %v", around, err)
	}
	inside, err := os.ReadDir(filepath.Join(filepath.Dir(layer), "outside"))
	if err != nil || len(inside) != 1 {
		t.Errorf("in the directory outside: %v, %v", inside, err)
	}
}

// The stock guest's unpacking could be led out of the layer (GHSA-84rc-2q4r-45pc). These are the ways there are.
func TestAttackGHSA_84rc_2q4r_45pc_DotDot(t *testing.T) {
	attack(t, CodeEscape, Limits{}, file("a/../../outside/prey", "changed"))
}

func TestAttackGHSA_84rc_2q4r_45pc_ThroughSymlink(t *testing.T) {
	attack(t, CodeMalformed, Limits{}, symlink("a", "../outside"), file("a/prey", "changed"))
}

func TestAttackGHSA_84rc_2q4r_45pc_WhiteoutOfParent(t *testing.T) {
	attack(t, CodeEscape, Limits{}, file("a/.wh...", ""))
}

func TestAttackGHSA_84rc_2q4r_45pc_OverSymlink(t *testing.T) {
	parent := t.TempDir()
	prey := filepath.Join(parent, "prey")
	if err := os.WriteFile(prey, []byte("intact"), 0o644); err != nil {
		t.Fatal(err)
	}
	layer, _, err := extract(t, tarball(t, symlink("a", prey), file("a", "changed")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(prey); string(text) != "intact" {
		t.Errorf("the link's target was written to: %q", text)
	}
	want(t, layer, "f a changed")
}

func TestAttackGHSA_84rc_2q4r_45pc_HardLinkOut(t *testing.T) {
	attack(t, CodeMalformed, Limits{}, symlink("a", "../outside"), hardLink("b", "a/prey"))
}

func TestAttackTarHardLinkToDirectory(t *testing.T) {
	attack(t, CodeMalformed, Limits{}, dir("a"), hardLink("b", "a"))
}

func TestAttackTarDevice(t *testing.T) {
	disk, mem := special(tar.TypeBlock, "disk", 8, 0), special(tar.TypeChar, "mem", 1, 1)
	layer, stats, err := extract(t, tarball(t, disk, mem, file("a", "1")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, layer, "f a 1")
	if stats.DevicesSkipped != 2 {
		t.Errorf("%d devices skipped, want 2", stats.DevicesSkipped)
	}
}

func TestAttackTarOverlayXattr(t *testing.T) {
	layer, _, err := extract(t, tarball(t, xattrs(dir("a"), OpaqueXattr, "y")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, layer, "d a")
}

func TestAttackTarPrivilegedXattr(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may set the attribute, were it not left out")
	}
	names := []string{"trusted.overlay.opaque", "trusted.overlay.redirect", "security.ima"}
	for _, name := range names {
		layer, stats, err := extract(t, tarball(t, xattrs(dir("a"), name, "y")), Limits{})
		if got := getxattr(filepath.Join(layer, "a"), name, make([]byte, 8)); err != nil || got != "" || stats.XattrsSkipped != 1 {
			t.Errorf("%s = %q, %+v, %v", name, got, stats, err)
		}
	}
}

// Somebody changes the layer's directory while it is filled: a directory of it becomes a link that leads out, and back.
func TestAttackGHSA_84rc_2q4r_45pc_Race(t *testing.T) {
	parent := t.TempDir()
	layer, outside := filepath.Join(parent, "layer"), filepath.Join(parent, "outside")
	for _, d := range []string{layer, outside, filepath.Join(layer, "a")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(layer, "evil")); err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for i := range 200 {
		entries = append(entries, file(fmt.Sprintf("a/f%d", i), "x"), dir(fmt.Sprintf("a/d%d", i)), file(fmt.Sprintf("a/.wh.w%d", i), ""))
	}
	stream := tarball(t, entries...)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(layer, "a"), unix.AT_FDCWD, filepath.Join(layer, "evil"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 20 {
		root, err := os.Open(layer)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = Extract(root, bytes.NewReader(stream), Limits{}) // it may fail, in the layer
		root.Close()
	}
	close(stop)
	<-done
	if found, err := os.ReadDir(outside); err != nil || len(found) > 0 {
		t.Errorf("outside: %v, %v", found, err)
	}
}

func TestAttackTarTooManyBytes(t *testing.T) {
	attack(t, CodeTooLarge, Limits{Bytes: 99}, file("a", strings.Repeat("x", 50)), file("b", strings.Repeat("x", 50)))
}

func TestAttackTarFileTooLarge(t *testing.T) {
	attack(t, CodeTooLarge, Limits{FileBytes: 99}, file("a", strings.Repeat("x", 100)))
}

func TestAttackTarTooManyEntries(t *testing.T) {
	attack(t, CodeTooLarge, Limits{Entries: 2}, dir("a"), dir("b"), dir("c"))
}

// Headers that make no file are entries too, or an archive of nothing else would never end.
func TestAttackTarGlobalHeaders(t *testing.T) {
	comment := entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "c"}}}
	attack(t, CodeTooLarge, Limits{Entries: 2}, comment, comment, comment)
}

func TestAttackTarTooDeep(t *testing.T) {
	// Links let names of three components nest without end.
	entries := []entry{dir("a/b"), symlink("l0", "a/b")}
	for i := range 10 {
		deeper := fmt.Sprintf("l%d/a/b", i)
		entries = append(entries, dir(deeper), symlink(fmt.Sprintf("l%d", i+1), deeper))
	}
	attack(t, CodeTooLarge, Limits{Depth: 9}, entries...)
}

func TestAttackTarLongName(t *testing.T) {
	attack(t, CodeTooLarge, Limits{PathBytes: 200}, file(strings.Repeat("a/", 100)+"b", ""))
}

func TestAttackTarManyXattrs(t *testing.T) {
	attack(t, CodeTooLarge, Limits{Xattrs: 2}, xattrs(file("a", ""), "user.a", "", "x.b", "", "x.c", ""))
}

func TestAttackTarLargeXattr(t *testing.T) {
	attack(t, CodeTooLarge, Limits{XattrBytes: 9}, xattrs(file("a", ""), "x.b", "0123456789"))
}

func TestAttackTarNegativeOwner(t *testing.T) {
	e := file("a", "")
	e.Uid, e.Format = -1, tar.FormatGNU
	attack(t, CodeMalformed, Limits{}, e)
}

func TestHostileStreams(t *testing.T) {
	good := tarball(t, file("a", strings.Repeat("x", 5000)))
	sparse := sparseBomb(1 << 40)
	tests := []struct {
		name   string
		stream []byte
		code   Code
	}{
		{"no tar", []byte(strings.Repeat("no tar archive", 100)), CodeMalformed},
		{"cut in a file", good[:2000], CodeMalformed},
		{"cut in a header", good[:100], CodeMalformed},
		{"a checksum that is wrong", append([]byte{good[0] ^ 1}, good[1:]...), CodeMalformed},
		{"a sparse bomb", sparse, CodeTooLarge},
		{"a name below a whiteout", tarball(t, file(".wh.a/b", "")), CodeMalformed},
		{"a whiteout of nothing", tarball(t, file(".wh.", "")), CodeEscape},
		{"a name below a file", tarball(t, file("a", ""), file("a/b", "")), CodeMalformed},
		{"a name below a loop", tarball(t, symlink("a", "b"), symlink("b", "a"), file("a/b", "")), CodeMalformed},
		{"a name below a link to nowhere", tarball(t, symlink("a", "nowhere"), file("a/b", "")), CodeMalformed},
		{"a root that is a file", tarball(t, file(".", "")), CodeMalformed},
		{"a full directory that becomes a file", tarball(t, file("a/b", ""), file("a", "")), CodeMalformed},
		{"a hard link to what comes later", tarball(t, hardLink("b", "a"), file("a", "")), CodeMalformed},
		{"a hard link to a whiteout", tarball(t, file(".wh.a", ""), hardLink("b", "a")), CodeMalformed},
		{"a hard link to the root", tarball(t, hardLink("b", "/")), CodeMalformed},
		{"a hard link with dots", tarball(t, hardLink("b", "../outside/prey")), CodeEscape},
		{"a component of 256 bytes", tarball(t, file(strings.Repeat("a", 256), "")), CodeTooLarge},
		{"a giant extended header", paxStream("comment", strings.Repeat("x", 2<<20)), CodeMalformed},
		{"a giant attribute", paxStream("SCHILY.xattr.user.a", strings.Repeat("x", 1<<17)), CodeTooLarge},
		{"a name of 64 KiB", tarball(t, file(strings.Repeat("a/", 32<<10)+"b", "")), CodeTooLarge},
		{"a name of 64 KiB, as GNU writes it", tarball(t, gnu(file(strings.Repeat("a/", 32<<10)+"b", ""))), CodeTooLarge},
		{"a link to 64 KiB", tarball(t, symlink("a", strings.Repeat("a/", 32<<10))), CodeTooLarge},
		{"a hard link to 64 KiB", tarball(t, hardLink("a", strings.Repeat("a/", 32<<10))), CodeTooLarge},
		{"a negative size", paxStream("size", "-1"), CodeMalformed},
		{"a negative size, as GNU writes it", negativeSize(tarball(t, gnu(file("a", "")))), CodeMalformed},
		{"a size beyond all", paxStream("size", "9223372036854775807"), CodeTooLarge},
		{"a sparse file of negative parts", bytes.Replace(sparseBomb(1<<40), []byte("1\n1099511627776\n0\n"), []byte("1\n-09951162777\n99\n"), 1), CodeMalformed},
		{"a name with a NUL", paxStream("path", "a\x00b"), CodeMalformed},
		{"a link to nothing", tarball(t, symlink("a", "")), CodeMalformed},
		{"a file that is a directory below", tarball(t, dir("a"), file("a/b", ""), file("a/b/c", "")), CodeMalformed},
		{"a type that is not known", tarball(t, entry{Header: mine(tar.Header{Typeflag: 'V', Name: "label"})}), CodeUnsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { attackStream(t, tt.code, Limits{}, tt.stream) })
	}
}

func gnu(e entry) entry { e.Format = tar.FormatGNU; return e }

// paxStream is an archive of one empty file with an extended record that the writer would not write: key and value are put there
// in its place.
func paxStream(key, value string) []byte {
	record := func() string {
		for n := len(key) + len(value) + 3; ; n++ { // POSIX pax, "pax Extended Header": the length counts itself
			if text := fmt.Sprintf("%d %s=%s\n", n, key, value); len(text) == n {
				return text
			}
		}
	}()
	var extended, plain bytes.Buffer
	w := tar.NewWriter(&extended)
	h := mine(tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders/a", Size: int64(len(record)), Mode: 0o644, Format: tar.FormatUSTAR})
	_ = w.WriteHeader(&h)
	_, _ = w.Write([]byte(record))
	_ = w.Flush()
	header := extended.Bytes()
	header[156] = 'x' // typeflag
	checksum(header)
	w = tar.NewWriter(&plain)
	h = mine(tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644, Format: tar.FormatUSTAR})
	_ = w.WriteHeader(&h)
	_ = w.Close()
	return slices.Concat(header, plain.Bytes())
}

// negativeSize changes the first header's size to -1, base-256.
func negativeSize(stream []byte) []byte {
	copy(stream[124:136], bytes.Repeat([]byte{0xff}, 12))
	checksum(stream)
	return stream
}

// checksum makes the first header's good again (POSIX ustar, "chksum").
func checksum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header[:512] {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// sparseBomb is a GNU 1.0 sparse file of a few hundred bytes that claims size bytes of zeros.
func sparseBomb(size int64) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	sparseMap := fmt.Sprintf("1\n%d\n0\n", size)
	sparseMap += strings.Repeat("\x00", 512-len(sparseMap))
	h := mine(tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: 512, Mode: 0o644, Format: tar.FormatPAX})
	h.PAXRecords = map[string]string{"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.realsize": fmt.Sprint(size)}
	_ = w.WriteHeader(&h)
	_, _ = w.Write([]byte(sparseMap))
	_ = w.Close()
	// The writer refuses the names that the reader knows.
	return bytes.ReplaceAll(buf.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse"))
}

// What follows the archive's end belongs to the layer's digest, and must be read for it.
func TestReadsToTheEnd(t *testing.T) {
	r := bytes.NewReader(append(tarball(t, file("a", "")), make([]byte, 1<<20)...))
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Extract(root, r, Limits{}); err != nil || r.Len() != 0 {
		t.Errorf("%d bytes left, %v", r.Len(), err)
	}
}

func TestErrorText(t *testing.T) {
	err := error(&Error{Code: CodeFailed, Entry: "a\nb\x1b", Detail: "making a file", Err: errors.New("no")})
	if got, want := err.Error(), `layer_unpack_failed: entry "a\nb\x1b": making a file: no`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(tarball(f, dir("a"), file("a/b", "c"), symlink("l", "../x"), hardLink("h", "a/b"), special(tar.TypeFifo, "p", 0, 0)))
	f.Add(tarball(f, file("a/.wh.b", ""), file("a/.wh..wh..opq", ""), xattrs(file("x", ""), "user.a", "b")))
	f.Add(tarball(f, symlink("a", "/"), file("a/b", ""), symlink("a/c", ".."), file("a/c/d", "")))
	f.Add(sparseBomb(1 << 40))
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, stream []byte) {
		parent, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(parent)
		layer := filepath.Join(parent, "layer")
		if err := os.Mkdir(layer, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(layer)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, err = Extract(root, bytes.NewReader(stream), Limits{Bytes: 1 << 20, Entries: 200})
		if err != nil && CodeOf(err) == "" {
			t.Errorf("an error without a code: %v", err)
		}
		if around, _ := os.ReadDir(parent); len(around) != 1 {
			t.Errorf("beside the layer: %v", around)
		}
	})
}
