// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/guestos/apt"
	"github.com/nacre-project/nacre/internal/guestos/verity"
)

type config struct {
	out     string
	cache   string
	guest   string
	policy  string
	refresh bool
	log     func(format string, args ...any)
}

// wants are the Debian packages that the image is made of. The kernel of bookworm itself cannot attest, and the
// firmware of bookworm and trixie has no SEV hash table.
var wants = []apt.Want{
	{Name: "linux-image-cloud-amd64", Suite: "bookworm-backports", Latest: "linux-image-6."},
	{Name: "ovmf-amdsev", Suite: "testing"},
	{Name: "cryptsetup-bin", Suite: "bookworm", Closure: true},
	{Name: "ca-certificates", Suite: "bookworm"},
	{Name: "base-files", Suite: "bookworm"}, // only for the texts of common licences
}

// build makes the image in a new directory and then puts it in the place of the old one, so that c.out is always
// either absent or complete.
func build(ctx context.Context, c config) (err error) {
	archive, err := apt.Open(filepath.Join(c.cache, "apt"), c.log)
	if err != nil {
		return err
	}
	debs, err := archive.Fetch(ctx, wants, c.refresh)
	if err != nil {
		return fmt.Errorf("fetch Debian packages: %w", err)
	}
	c.log("unpacking %d packages", len(debs))
	tree, err := unpack(archive, debs)
	if err != nil {
		return err
	}
	kernel, err := findKernel(tree)
	if err != nil {
		return err
	}
	firmware, err := tree.take("usr/share/ovmf/OVMF.amdsev.fd")
	if err != nil {
		return err
	}
	c.log("building the Go programs")
	programs, err := buildPrograms(ctx, c)
	if err != nil {
		return err
	}
	builtAt, err := newestInput(tree)
	if err != nil {
		return err
	}

	stage := c.out + ".new"
	if err := os.RemoveAll(stage); err != nil {
		return fmt.Errorf("clear what an earlier build left: %w", err)
	}
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(stage)
		}
	}()

	c.log("writing the initial RAM file system")
	initrd, err := initramfs(programs.init.data, kernel.modules)
	if err != nil {
		return err
	}
	c.log("writing the root image")
	root, err := rootfs(tree, programs, c.policy, builtAt)
	if err != nil {
		return err
	}
	rootfsPath := filepath.Join(stage, guestos.RootfsName)
	params, err := root.write(rootfsPath, builtAt)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		guestos.KernelName: kernel.image, guestos.InitrdName: initrd, guestos.FirmwareName: firmware.data,
	} {
		if err := os.WriteFile(filepath.Join(stage, name), data, 0o644); err != nil {
			return err
		}
	}

	manifest, err := describe(stage, kernel, params, builtAt, tree, programs)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(stage, guestos.ManifestName), manifest); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(stage, guestos.SBOMName), sbom(manifest)); err != nil {
		return err
	}
	if err := writeLicenses(ctx, filepath.Join(stage, guestos.LicensesName), tree, manifest); err != nil {
		return err
	}
	if err := replaceDir(stage, c.out); err != nil {
		return err
	}
	for _, a := range manifest.Artifacts {
		c.log("%-20s %10.1f KiB  sha256:%s", a.Name, float64(a.Size)/1024, a.SHA256[:16])
	}
	return nil
}

// newestInput is the time that the guest takes as the earliest possible one: SOURCE_DATE_EPOCH if it is set
// (https://reproducible-builds.org/specs/source-date-epoch/), or else that of the newest packaged file.
func newestInput(tree *tree) (int64, error) {
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		t, err := strconv.ParseInt(s, 10, 64)
		if err != nil || t < 0 {
			return 0, fmt.Errorf("SOURCE_DATE_EPOCH is %q, want seconds since 1970", s)
		}
		return t, nil
	}
	var newest time.Time
	for _, f := range tree.files {
		if f.modified.After(newest) {
			newest = f.modified
		}
	}
	return newest.Unix(), nil
}

// describe writes down what the image is made of.
func describe(dir string, k *kernel, p verity.Params, builtAt int64, t *tree, progs *programs) (*guestos.Manifest, error) {
	m := &guestos.Manifest{
		Version: guestos.ManifestVersion,
		BuiltAt: builtAt,
		Kernel:  k.release,
		Verity: guestos.Verity{
			RootHash: hex.EncodeToString(p.RootHash[:]), Salt: hex.EncodeToString(p.Salt), DataBlocks: p.DataBlocks,
		},
		Packages: append(t.used(), progs.host...),
		Programs: progs.described(),
	}
	for _, group := range k.modules {
		for _, mod := range group {
			m.Modules = append(m.Modules, mod.Name)
		}
	}
	slices.SortFunc(m.Packages, func(a, b guestos.Package) int { return strings.Compare(a.Name, b.Name) })
	for _, name := range []string{guestos.FirmwareName, guestos.InitrdName, guestos.RootfsName, guestos.KernelName} {
		a, err := artifact(dir, name)
		if err != nil {
			return nil, err
		}
		m.Artifacts = append(m.Artifacts, a)
	}
	return m, nil
}

func artifact(dir, name string) (guestos.Artifact, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return guestos.Artifact{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return guestos.Artifact{}, fmt.Errorf("hash %s: %w", name, err)
	}
	return guestos.Artifact{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// replaceDir moves the directory fresh to the place of old.
func replaceDir(fresh, old string) error {
	aside := old + ".old"
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(old, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, old); err != nil {
		return err
	}
	return os.RemoveAll(aside)
}
