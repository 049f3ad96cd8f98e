// SPDX-License-Identifier: Apache-2.0

package guestos

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The command line is part of every launch measurement. Whoever changes the golden one changes the reference values of
// every owner: say so in the release notes.
func TestCmdlineGolden(t *testing.T) {
	img := &Image{}
	if err := img.parse(testManifest(t, nil)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Cmdline{
		"cmdline-hardware.golden":      {},
		"cmdline-simulated-snp.golden": {TEE: SimulatedSNP},
	} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := img.Cmdline(c); got != strings.TrimSpace(string(want)) {
			t.Errorf("%s: the command line is\n%s\nwant\n%s", name, got, want)
		}
	}
}

// The names in a manifest are read by tools; a change of them is a new ManifestVersion.
func TestManifestGolden(t *testing.T) {
	got, err := json.MarshalIndent(Manifest{
		Version: ManifestVersion, BuiltAt: 1_790_000_000, Kernel: "6.12.0-test",
		Verity:    Verity{RootHash: "aa", Salt: "bb", DataBlocks: 7},
		Artifacts: []Artifact{{Name: KernelName, Size: 1, SHA256: "cc"}},
		Modules:   []string{"virtio_blk"},
		Packages: []Package{{
			Name: "tool", Version: "1", Architecture: "amd64", Source: "tool (1)", Suite: "bookworm", SHA256: "dd",
			Files: []string{"usr/bin/tool"},
		}},
		Programs: []Program{{
			Path: "/init", Main: "example.org/init", Go: "go1.0", SHA256: "ee",
			Modules: []GoModule{{Path: "example.org/mod", Version: "v1.0.0", Sum: "h1:ff"}},
		}},
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/manifest.golden.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.TrimSpace(string(want)) {
		t.Errorf("the manifest is\n%s\nwant\n%s", got, want)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, ErrNoImage) || !strings.Contains(err.Error(), "make image") {
		t.Errorf("no image: %v", err)
	}
	contents := map[string]string{
		KernelName: "kernel", InitrdName: "initrd", RootfsName: "root", FirmwareName: "firmware",
	}
	for name, content := range contents {
		write(t, filepath.Join(dir, name), content)
	}
	write(t, filepath.Join(dir, ManifestName), string(testManifest(t, contents)))
	img, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Verify(); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if img.Kernel != filepath.Join(dir, KernelName) || img.Manifest.Kernel != "6.12.0-test" {
		t.Errorf("loaded %+v", img)
	}

	write(t, img.Rootfs, "toor") // the same size
	if img, err = Load(dir); err != nil {
		t.Fatalf("Load reads no content: %v", err)
	}
	if err := img.Verify(); err == nil || !strings.Contains(err.Error(), RootfsName) {
		t.Errorf("Verify of a changed root image: %v", err)
	}
	write(t, img.Rootfs, "longer root")
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("Load of a longer root image: %v", err)
	}
	if err := os.Remove(img.Rootfs); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load without a root image: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	change := func(f func(m *Manifest)) []byte {
		var m Manifest
		if err := json.Unmarshal(testManifest(t, nil), &m); err != nil {
			t.Fatal(err)
		}
		f(&m)
		return marshal(t, m)
	}
	for name, text := range map[string][]byte{
		"empty":              nil,
		"not JSON":           []byte("manifest"),
		"too long":           bytes.Repeat([]byte(" "), maxManifest+1),
		"version":            change(func(m *Manifest) { m.Version++ }),
		"artifact twice":     change(func(m *Manifest) { m.Artifacts[1] = m.Artifacts[0] }),
		"artifact too few":   change(func(m *Manifest) { m.Artifacts = m.Artifacts[1:] }),
		"artifact elsewhere": change(func(m *Manifest) { m.Artifacts[0].Name = "../vmlinuz" }),
		"root hash":          change(func(m *Manifest) { m.Verity.RootHash = "00" }),
		"salt":               change(func(m *Manifest) { m.Verity.Salt = "00 init=/bin/sh" }),
		"no data":            change(func(m *Manifest) { m.Verity.DataBlocks = 0 }),
	} {
		if err := (&Image{}).parse(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(testManifest(f, nil))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var img Image
		if img.parse(text) != nil {
			return
		}
		// Whatever a manifest says, it puts no other word on the command line.
		if n, want := len(strings.Fields(img.Cmdline(Cmdline{}))), len(parameters)+1; n != want {
			t.Errorf("the command line has %d words, want %d: %q", n, want, img.Cmdline(Cmdline{}))
		}
	})
}

// testManifest is the manifest of an image whose artifacts have the given contents.
func testManifest(t testing.TB, contents map[string]string) []byte {
	t.Helper()
	m := Manifest{
		Version: ManifestVersion,
		BuiltAt: 1_790_000_000,
		Kernel:  "6.12.0-test",
		Verity: Verity{
			RootHash: strings.Repeat("0123456789abcdef", 4), Salt: strings.Repeat("ab", 32), DataBlocks: 1000,
		},
	}
	for _, name := range []string{FirmwareName, InitrdName, RootfsName, KernelName} {
		sum := sha256.Sum256([]byte(contents[name]))
		m.Artifacts = append(m.Artifacts, Artifact{
			Name: name, Size: int64(len(contents[name])), SHA256: hex.EncodeToString(sum[:]),
		})
	}
	return marshal(t, m)
}

func marshal(t testing.TB, m Manifest) []byte {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
