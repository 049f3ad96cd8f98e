// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/internal/guest/unpack"
	"github.com/nacre-project/nacre/internal/guest/unpack/unpacktest"
)

func TestMain(m *testing.M) { unpacktest.Main(m) }

// mounted pulls an image through the real sandbox, on a tmpfs as in the guest, and mounts it.
func mounted(t *testing.T, image testImage) (rootfs, bundle string, p *Puller) {
	t.Helper()
	sandbox := unpacktest.Sandbox(t, unpack.Limits{})
	dir, err := os.MkdirTemp("/dev/shm", "nacre-pull-")
	if err != nil {
		t.Skipf("no directory on a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	reg := newRegistry(t, true)
	d, _ := reg.push(t, image)
	p = newPuller(t, reg, func(c *Config) { c.WorkDir, c.Unpack = dir, sandbox })
	pulled, err := p.Pull(t.Context(), reg.ref(d))
	if err != nil {
		t.Fatal(err)
	}
	bundle = filepath.Join(dir, "bundle")
	rootfs, err = p.Mount(pulled, bundle)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("this machine does not let us mount overlayfs: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Unmount(bundle); err != nil {
			t.Error(err)
		}
	})
	return rootfs, bundle, p
}

func TestMount(t *testing.T) {
	base := testLayer{archive: archive(t, "a", "1", "gone", "1", "d/", "", "d/hidden", "1", "d2/", "", "d2/x", "1"), compression: gzipped}
	rootfs, bundle, p := mounted(t, testImage{layers: []testLayer{
		base,
		{archive: archive(t, "a", "2", ".wh.gone", "", "d/", "", "d/.wh..wh..opq", "", "d/new", "2", ".wh.d2", ""), compression: zstandard},
		{archive: archive(t, "top", "3")},
	}})
	for name, want := range map[string]string{"a": "2", "top": "3", "d/new": "2"} {
		if got := content(t, filepath.Join(rootfs, name)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"gone", "d/hidden", "d2"} {
		if _, err := os.Lstat(filepath.Join(rootfs, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "written"), nil, 0o600); err != nil {
		t.Error(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(rootfs, &st); err != nil || st.Flags&unix.ST_NODEV == 0 {
		t.Errorf("device nodes would work: %v", err)
	}
	if err := p.Unmount(bundle); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(bundle); err != nil || len(left) != 0 {
		t.Errorf("left in the bundle: %v, %v", left, err)
	}
}

func TestMountManyLayers(t *testing.T) {
	var image testImage
	for i := range 130 {
		image.layers = append(image.layers, testLayer{archive: archive(t, fmt.Sprintf("file-%d", i), fmt.Sprint(i), "last", fmt.Sprint(i))})
	}
	image.layers = append(image.layers, image.layers[3]) // once more, on top
	rootfs, _, _ := mounted(t, image)
	names, err := os.ReadDir(rootfs)
	if err != nil || len(names) != 131 || content(t, filepath.Join(rootfs, "last")) != "3" {
		t.Errorf("%d names, last %s, %v", len(names), content(t, filepath.Join(rootfs, "last")), err)
	}
}

func TestMountImageWithoutLayers(t *testing.T) {
	rootfs, _, _ := mounted(t, testImage{})
	if names, err := os.ReadDir(rootfs); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestMountRootDirectory(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1711, Uid: 12, Gid: 34}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rootfs, _, _ := mounted(t, testImage{layers: []testLayer{{archive: buf.Bytes()}}})
	var st unix.Stat_t
	if err := unix.Stat(rootfs, &st); err != nil || st.Mode&0o7777 != 0o1711 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestMountFails(t *testing.T) {
	p, bundle := &Puller{}, t.TempDir()
	_, err := p.Mount(&Image{Reference: "x", Layers: []string{filepath.Join(bundle, strings.Repeat("x", 300))}}, bundle)
	if CodeOf(err) != CodeMountFailed {
		t.Error(err)
	}
}

func TestStack(t *testing.T) {
	if got := stack([]string{"a", "b", "a", "c"}); !slices.Equal(got, []string{"c", "a", "b"}) {
		t.Error(got)
	}
}
