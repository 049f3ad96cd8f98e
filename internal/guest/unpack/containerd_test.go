// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"
)

// node is what there is at a path: all that a program in the container could tell apart, but for access times and inode numbers.
type node struct {
	mode     uint32 // with the type
	uid, gid uint32
	mtime    string
	rdev     uint64
	content  string // of a file its digest, or a link's target
	xattrs   string
	links    string // the paths of the same file, in this tree
}

// snapshot reads a tree; the root is not in it.
func snapshot(t testing.TB, root string) map[string]node {
	t.Helper()
	nodes, inodes := map[string]node{}, map[uint64][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		n := node{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano), rdev: st.Rdev}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n.content = fmt.Sprintf("%d bytes, %x", len(text), sha256.Sum256(text))
		case unix.S_IFLNK:
			if n.content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if n.xattrs, err = listXattrs(path); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			inodes[st.Ino] = append(inodes[st.Ino], name)
		}
		nodes[name] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range inodes {
		slices.Sort(names)
		for _, name := range names {
			n := nodes[name]
			n.links = strings.Join(names, " ")
			nodes[name] = n
		}
	}
	return nodes
}

func listXattrs(path string) (string, error) {
	buf, value := make([]byte, 64<<10), make([]byte, 64<<10)
	size, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	var all []string
	for _, name := range strings.Split(strings.TrimRight(string(buf[:size]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		all = append(all, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

const opaqueMark = OpaqueXattr + `="y"`

// stack lays layers over each other, bottom first, as overlayfs does (Linux, Documentation/filesystems/overlayfs.rst).
func stack(layers ...map[string]node) map[string]node {
	merged := map[string]node{}
	below := func(path string) {
		maps.DeleteFunc(merged, func(name string, _ node) bool { return strings.HasPrefix(name, path+"/") })
	}
	for i, layer := range layers {
		for _, path := range slices.Sorted(maps.Keys(layer)) {
			n := layer[path]
			n.links = fmt.Sprint(i, n.links)
			old, there := merged[path]
			isDir := n.mode&unix.S_IFMT == unix.S_IFDIR
			if !isDir || n.xattrs == opaqueMark || there && old.mode&unix.S_IFMT != unix.S_IFDIR {
				// What this layer itself holds below comes later: names are sorted.
				below(path)
			}
			if isDir && strings.Contains(n.xattrs, opaqueMark) {
				n.xattrs = strings.TrimSpace(strings.Replace(n.xattrs, opaqueMark, "", 1))
			}
			if n.mode&unix.S_IFMT == unix.S_IFCHR && n.rdev == 0 {
				delete(merged, path)
				continue
			}
			merged[path] = n
		}
	}
	files := map[string][]string{} // of those links, the ones that are left
	for _, path := range slices.Sorted(maps.Keys(merged)) {
		if n := merged[path]; n.mode&unix.S_IFMT != unix.S_IFDIR {
			files[n.links] = append(files[n.links], path)
		}
	}
	for path, n := range merged {
		n.links = strings.Join(files[n.links], " ")
		merged[path] = n
	}
	return merged
}

// applied lets containerd apply the layers one after the other to one directory.
func applied(t testing.TB, layers [][]byte) (map[string]node, error) {
	t.Helper()
	root := t.TempDir()
	for i, layer := range layers {
		if _, err := archive.Apply(t.Context(), root, bytes.NewReader(layer)); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return snapshot(t, root), nil
}

// extracted extracts each layer into a directory of its own, and stacks them.
func extracted(t testing.TB, layers [][]byte) (map[string]node, error) {
	t.Helper()
	var trees []map[string]node
	for i, layer := range layers {
		dir := t.TempDir()
		root, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Extract(root, bytes.NewReader(layer), Limits{})
		root.Close()
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		trees = append(trees, snapshot(t, dir))
	}
	return stack(trees...), nil
}

// differences lists what is not equal, one line each.
func differences(ours, theirs map[string]node) []string {
	names := slices.Collect(maps.Keys(ours))
	for name := range theirs {
		if _, ok := ours[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var lines []string
	for _, name := range names {
		a, hasA := ours[name]
		b, hasB := theirs[name]
		switch {
		case !hasA:
			lines = append(lines, fmt.Sprintf("%q: containerd has it: %+v", name, b))
		case !hasB:
			lines = append(lines, fmt.Sprintf("%q: we have it: %+v", name, a))
		case a != b:
			lines = append(lines, fmt.Sprintf("%q: %+v; containerd: %+v", name, a, b))
		}
	}
	return lines
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the comparison with containerd gives files away and makes devices, which takes root")
	}
	mask := unix.Umask(0) // as in the sandbox
	t.Cleanup(func() { unix.Umask(mask) })
}

// TestAgainstContainerd is the one table of what containerd's unpacking (v2.4) and ours do not have in common. A case
// without a reason must come out equal; one with a reason must not, so that the table stays true.
func TestAgainstContainerd(t *testing.T) {
	needsRoot(t)
	changed := func(e entry, change func(h *tar.Header)) entry { change(&e.Header); return e }
	later := func(h *tar.Header) { h.ModTime = h.ModTime.Add(time.Hour + 123456789) }
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	tests := []struct {
		name   string
		layers [][]entry
		reason string // why the results differ; "" when they do not
	}{
		{"files, links, modes, owners", [][]entry{{
			dir("etc"), file("etc/a", "1"), symlink("etc/l", "/etc/a"), hardLink("etc/h", "etc/a"), special(tar.TypeFifo, "p", 0, 0),
			changed(file("su", "x"), func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o6755, 7, 4294967294 }),
			changed(dir("tmp"), func(h *tar.Header) { h.Mode, h.Uid = 0o1777, 9 }),
			changed(symlink("l", "nowhere"), func(h *tar.Header) { h.Uid, h.Gid = 3, 4 }),
		}}, ""},
		{"times", [][]entry{
			{dir("d"), file("d/a", "1"), changed(symlink("l", "x"), later)},
			{changed(dir("d"), later), changed(file("d/b", "2"), later)},
			{changed(dir("d"), func(h *tar.Header) { h.ModTime = time.Unix(0, 0) })},
		}, ""},
		{"file capabilities and user attributes", [][]entry{{xattrs(file("ping", "x"), "security.capability", capability, "user.a", "b")}}, ""},
		{"whiteouts", [][]entry{
			{dir("d"), file("d/a", "1"), file("d/b", "1"), file("c", "1"), dir("e"), file("e/f", "1"), symlink("l", "d")},
			{dir("d"), file("d/.wh.a", ""), file(".wh.c", ""), file(".wh.e", ""), file(".wh.l", ""), file(".wh.never", "")},
		}, ""},
		{"opaque directories", [][]entry{
			{dir("d"), file("d/a", "1"), dir("d/e"), file("d/e/f", "1"), dir("o")},
			{dir("d"), file("d/.wh..wh..opq", ""), file("d/new", "2"), dir("d/e"), file("d/e/g", "2")},
			{dir("d"), file("d/late", "3")},
		}, ""},
		{"a marker after what it must leave", [][]entry{
			{dir("d"), file("d/a", "1"), dir("d/e"), file("d/e/f", "1")},
			{dir("d"), file("d/new", "2"), file("d/.wh..wh..opq", "")},
		}, ""},
		{"replaced by another kind", [][]entry{
			{file("a", "1"), dir("b"), file("b/x", "1"), symlink("c", "a"), dir("d"), file("d/x", "1")},
			{dir("a"), file("a/x", "2"), file("b", "2"), dir("c"), symlink("d", "b")},
			{symlink("a", "b"), dir("b"), file("c", "3"), dir("d"), file("d/y", "3")},
		}, ""},
		{"back after a whiteout", [][]entry{
			{dir("d"), file("d/a", "1")}, {file(".wh.d", "")}, {dir("d"), file("d/b", "3")},
		}, ""},
		{"gone and back in one layer", [][]entry{
			{dir("d"), file("d/a", "1"), file("f", "1")}, {file(".wh.d", ""), dir("d"), file("d/b", "2"), file(".wh.f", ""), file("f", "2")},
		}, ""},
		{"a later entry of one name", [][]entry{{file("a", "1"), file("a", "2"), symlink("b", "x"), file("b", "3"), dir("c"), file("c", "4")}}, ""},
		{"names that are no UTF-8", [][]entry{{file("caf\xe9\n\x01", "x"), dir("\xff"), symlink("\xff/l", "\xfe")}}, ""},
		{"absolute names and links", [][]entry{{file("/a", "1"), hardLink("/b", "/a"), hardLink("c", "/b")}}, ""},
		{"through links within the layer", [][]entry{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", "y")}}, ""},
		{"through a link that is absolute", [][]entry{{dir("run"), dir("var"), symlink("var/run", "/run"), file("var/run/x", "y")}}, ""},
		{"a hard link to a symbolic link", [][]entry{{symlink("a", "/nowhere"), hardLink("b", "a")}}, ""},
		{"a comment for the whole archive", [][]entry{{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "c"}}},
			file("a", "1")}}, ""},
		{"an empty layer", [][]entry{{file("a", "1")}, nil}, ""},
		{"the same layer twice", [][]entry{{dir("a"), file("a/b", "1")}, {dir("a"), file("a/b", "1")}}, ""},

		{"devices", [][]entry{{special(tar.TypeChar, "null", 1, 3), special(tar.TypeBlock, "sda", 8, 0)}},
			"a container's devices are its runtime's business, and the unpacker may not make any"},
		{"attributes of the kernel's own", [][]entry{{xattrs(file("a", "1"), "security.x", "y")}},
			"an attribute that takes privilege to write is not an image's to write"},
		{"attributes of overlayfs", [][]entry{{xattrs(dir("a"), "user.overlay.opaque", "y")}},
			"they would change what the layers below show"},
		{"a whiteout in overlayfs's own form", [][]entry{{file("a", "1")}, {special(tar.TypeChar, "a", 0, 0)}},
			"it is a whiteout to overlayfs, and a device to containerd until a mount makes it one"},
		{"directories that are not listed", [][]entry{{changed(dir("d"), func(h *tar.Header) { h.Mode = 0o700 }), file("d/a", "1")}, {file("d/b", "2")}},
			"layers are unpacked apart, and nothing says what the one below has"},
		{"a whiteout of what the layer itself holds", [][]entry{{file("a", "1"), file(".wh.a", "")}},
			"whiteouts hide lower layers only (OCI image-spec, layer.md); containerd goes by the order"},
		{"a hard link across layers", [][]entry{{file("a", "1")}, {hardLink("b", "a")}},
			"refused: layers are unpacked apart, and builders put the file into the layer"},
		{"a hard link with an owner of its own", [][]entry{{file("a", "1"), changed(hardLink("b", "a"), func(h *tar.Header) { h.Uid = 1 })}},
			"a link's header has no say over another entry's file"},
		{"a full directory that becomes a file", [][]entry{{dir("a"), file("a/b", "1"), file("a", "2")}},
			"refused: no honest tool writes it, and removing trees is work for nothing"},
		{"two dots in a name", [][]entry{{file("../a", "1")}}, "refused: no honest tool writes it"},
		{"a name below a file", [][]entry{{file("a", "1"), file("a/b", "2")}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var layers [][]byte
			for _, entries := range tt.layers {
				layers = append(layers, tarball(t, entries...))
			}
			ours, err := extracted(t, layers)
			theirs, theirErr := applied(t, layers)
			lines := differences(ours, theirs)
			if (err != nil) != (theirErr != nil) {
				lines = append(lines, fmt.Sprintf("ours: %v; containerd: %v", err, theirErr))
			}
			if (len(lines) > 0) != (tt.reason != "") {
				t.Errorf("reason %q, differences:\n%s", tt.reason, strings.Join(lines, "\n"))
			}
		})
	}
}

// TestGeneratedAgainstContainerd compares images of several layers as builders write them: directories listed before what is
// in them, each name once, whiteouts of what is below.
func TestGeneratedAgainstContainerd(t *testing.T) {
	needsRoot(t)
	rounds := 60
	if testing.Short() {
		rounds = 20
	}
	for seed := range rounds {
		g := &generator{Rand: rand.New(rand.NewPCG(uint64(seed), 1)), visible: map[string]bool{}}
		var layers [][]byte
		for range 2 + g.IntN(4) {
			layers = append(layers, tarball(t, g.layer()...))
		}
		ours, err := extracted(t, layers)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		theirs, err := applied(t, layers)
		if err != nil {
			t.Fatalf("seed %d: containerd: %v", seed, err)
		}
		if lines := differences(ours, theirs); len(lines) > 0 {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(lines, "\n"))
		}
	}
}

// generator makes layers, and keeps track of what is visible after them.
type generator struct {
	*rand.Rand
	visible map[string]bool // path: it is a directory
}

// layer makes one layer. Names are few, so that layers meet.
func (g *generator) layer() []entry {
	var entries []entry
	here := map[string]bool{} // path: it is a directory
	var files []string
	add := func(path string, e entry, isDir bool) {
		entries = append(entries, e)
		here[path] = isDir
		maps.DeleteFunc(g.visible, func(name string, _ bool) bool { return !isDir && strings.HasPrefix(name, path+"/") })
		g.visible[path] = isDir
	}
	for range 4 + g.IntN(16) {
		var parts []string
		for range 1 + g.IntN(3) {
			parts = append(parts, string(rune('a'+g.IntN(4))))
		}
		blocked := false
		for i := 1; i < len(parts); i++ { // its parents first
			parent := strings.Join(parts[:i], "/")
			if isDir, ok := here[parent]; ok {
				blocked = blocked || !isDir
			} else if !blocked {
				add(parent, g.meta(dir(parent)), true)
			}
		}
		path := strings.Join(parts, "/")
		if _, ok := here[path]; ok || blocked {
			continue
		}
		above, base := split(path)
		switch g.IntN(8) {
		case 0, 1:
			add(path, g.meta(dir(path)), true)
			if g.IntN(3) == 0 {
				entries = append(entries, file(path+"/"+opaqueMarker, ""))
				maps.DeleteFunc(g.visible, func(name string, _ bool) bool {
					_, mine := here[name]
					return strings.HasPrefix(name, path+"/") && !mine
				})
			}
		case 2:
			add(path, g.meta(symlink(path, []string{"a", "/b/c", "../../x", "\xff"}[g.IntN(4)])), false)
		case 3:
			if len(files) > 0 {
				target := files[g.IntN(len(files))]
				for _, e := range entries {
					if e.Name == target { // links repeat their target's header, as tar does
						link := e
						link.content, link.Name, link.Linkname, link.Typeflag, link.Size, link.PAXRecords = "", path, target, tar.TypeLink, 0, nil
						add(path, link, false)
						break
					}
				}
			}
		case 4:
			if _, ok := g.visible[path]; ok {
				name := whiteoutPrefix + base
				if above != "" {
					name = above + "/" + name
				}
				entries = append(entries, file(name, ""))
				here[path] = false
				maps.DeleteFunc(g.visible, func(name string, _ bool) bool { return name == path || strings.HasPrefix(name, path+"/") })
			}
		case 5:
			e := special(tar.TypeFifo, path, 0, 0)
			add(path, g.meta(e), false)
		default:
			content := strings.Repeat(fmt.Sprint(g.IntN(100)), g.IntN(3000))
			e := g.meta(file(path, content))
			if g.IntN(4) == 0 {
				e = xattrs(e, "user.x", fmt.Sprint(g.IntN(9)))
			}
			add(path, e, false)
			files = append(files, path)
		}
	}
	return entries
}

func (g *generator) meta(e entry) entry {
	e.Uid, e.Gid = g.IntN(5), g.IntN(70000)
	if e.Typeflag != tar.TypeSymlink {
		e.Mode = int64(g.IntN(0o1000))
	}
	if e.Typeflag == tar.TypeReg || e.Typeflag == tar.TypeDir {
		e.Mode |= int64(g.IntN(8)) << 9
	}
	e.ModTime = time.Unix(int64(g.IntN(2_000_000_000)), int64(g.IntN(2))*int64(g.IntN(1e9)))
	e.Format = tar.FormatPAX
	return e
}
