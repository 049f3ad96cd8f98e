// SPDX-License-Identifier: Apache-2.0

// Package guestos is the guest image as a thing to boot: where its files are, what they are made of, and the one
// composer of its kernel command line.
//
// It reads the image directory that the image builder (internal/guestos/build) wrote. It trusts that directory no
// more than its user does: a changed file gives another launch measurement or is refused by the guest. It starts
// nothing and measures nothing.
package guestos

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nacre-project/nacre/internal/guestos/verity"
)

// Names of the files in an image directory.
const (
	KernelName   = "vmlinuz"
	InitrdName   = "initrd.img"
	RootfsName   = "rootfs.img" // EROFS, then its dm-verity tree
	FirmwareName = "OVMF.amdsev.fd"
	ConfigName   = "kernel.config" // how the kernel was built; not used to boot
	ManifestName = "manifest.json"
	SBOMName     = "sbom.spdx.json"
	LicensesName = "licenses"
)

// SuiteHost is the Suite of a Package that was taken from the machine which built the image.
const SuiteHost = "host"

const maxManifest = 4 << 20 // bytes

// Image is a guest image on disk.
type Image struct {
	Dir      string
	Kernel   string // path of the Linux bzImage
	Initrd   string // path of the initial RAM file system
	Rootfs   string // path of the root image
	Firmware string // path of the firmware for SEV-SNP
	Manifest Manifest

	verity verity.Params
}

// ErrNoImage is returned by Load when there is no image.
var ErrNoImage = errors.New("no guest image")

// Load opens the image in dir. It checks that every artifact has the size that the manifest says; Verify compares
// their content.
func Load(dir string) (*Image, error) {
	f, err := os.Open(filepath.Join(dir, ManifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: build it with `make image`", ErrNoImage, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open the guest image: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	img := &Image{
		Dir:      dir,
		Kernel:   filepath.Join(dir, KernelName),
		Initrd:   filepath.Join(dir, InitrdName),
		Rootfs:   filepath.Join(dir, RootfsName),
		Firmware: filepath.Join(dir, FirmwareName),
	}
	if err := img.parse(text); err != nil {
		return nil, fmt.Errorf("%s: %w (build the image again with `make image`)", f.Name(), err)
	}
	for _, a := range img.Manifest.Artifacts {
		info, err := os.Stat(filepath.Join(dir, a.Name))
		if err != nil {
			return nil, fmt.Errorf("the guest image in %s is not complete (build it again with `make image`): %w", dir, err)
		}
		if info.Size() != a.Size {
			return nil, fmt.Errorf("%s has %d bytes, the manifest says %d: build the image again with `make image`",
				filepath.Join(dir, a.Name), info.Size(), a.Size)
		}
	}
	return img, nil
}

// parse reads the manifest.
func (i *Image) parse(text []byte) error {
	if len(text) > maxManifest {
		return fmt.Errorf("the manifest has more than %d bytes", maxManifest)
	}
	if err := json.Unmarshal(text, &i.Manifest); err != nil {
		return fmt.Errorf("read the manifest: %w", err)
	}
	m := &i.Manifest
	if m.Version != ManifestVersion {
		return fmt.Errorf("the manifest has version %d, want %d", m.Version, ManifestVersion)
	}
	want := map[string]bool{KernelName: true, InitrdName: true, RootfsName: true, FirmwareName: true}
	for _, a := range m.Artifacts {
		if !want[a.Name] {
			return fmt.Errorf("the manifest lists %q twice or without need", a.Name)
		}
		delete(want, a.Name)
	}
	for name := range want {
		return fmt.Errorf("the manifest does not list %s", name)
	}
	var err error
	v := m.Verity
	i.verity, err = verity.Parse(fmt.Sprintf("%s,%s,%d", v.RootHash, v.Salt, v.DataBlocks))
	return err
}

// Verify compares the content of every artifact with the manifest. It reads all of them, some 80 MB.
func (i *Image) Verify() error {
	for _, a := range i.Manifest.Artifacts {
		path := filepath.Join(i.Dir, a.Name)
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("verify the guest image: %w", err)
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("verify the guest image: read %s: %w", path, err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != a.SHA256 {
			return fmt.Errorf("%s has SHA-256 %s, the manifest says %s", path, got, a.SHA256)
		}
	}
	return nil
}
