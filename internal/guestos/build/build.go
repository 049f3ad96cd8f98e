// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
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

	"golang.org/x/sync/errgroup"

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
	env     []string // for the go command, besides this process's
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

// build makes the image, unless the one that is there was made from the same inputs.
func build(ctx context.Context, c config) error {
	archive, err := apt.Open(filepath.Join(c.cache, "apt"), c.log)
	if err != nil {
		return err
	}
	var debs []apt.Package
	var progs *programs
	work, workCtx := errgroup.WithContext(ctx)
	work.Go(func() (err error) {
		if debs, err = archive.Fetch(workCtx, wants, c.refresh); err != nil {
			return fmt.Errorf("fetch Debian packages: %w", err)
		}
		return nil
	})
	work.Go(func() (err error) {
		c.log("building the Go programs")
		progs, err = buildPrograms(workCtx, c)
		return err
	})
	if err := work.Wait(); err != nil {
		return err
	}
	key, err := inputKey(c, debs, progs)
	if err != nil {
		return err
	}
	last := filepath.Join(c.cache, "last-build")
	if record, err := buildRecord(c.out, key); err == nil && upToDate(last, c.out, record) {
		c.log("%s is up to date", c.out)
		return nil
	}
	if err := makeImage(ctx, c, archive, debs, progs); err != nil {
		return err
	}
	record, err := buildRecord(c.out, key)
	if err != nil {
		return err
	}
	return os.WriteFile(last, record, 0o644)
}

// buildRecord says from which inputs the image in a directory was made.
func buildRecord(out, key string) ([]byte, error) {
	manifest, err := os.ReadFile(filepath.Join(out, guestos.ManifestName))
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "inputs %s\nmanifest %x\n", key, sha256.Sum256(manifest)), nil
}

// inputKey identifies the inputs of an image, of which this program is one.
func inputKey(c config, debs []apt.Package, progs *programs) (string, error) {
	h := sha256.New()
	for _, p := range debs {
		fmt.Fprintf(h, "deb %s %s\n", p.Name, p.SHA256)
	}
	for _, p := range progs.described() {
		fmt.Fprintf(h, "program %s %s\n", p.Path, p.SHA256)
	}
	for _, p := range progs.host {
		fmt.Fprintf(h, "host %s %s\n", p.Name, p.Version)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, name := range []string{c.policy, self} {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "file %x\n", sha256.Sum256(data))
	}
	fmt.Fprintf(h, "epoch %s\n", os.Getenv(epochVariable))
	return hex.EncodeToString(h.Sum(nil)), nil
}

func upToDate(last, out string, record []byte) bool {
	if before, err := os.ReadFile(last); err != nil || !bytes.Equal(before, record) {
		return false
	}
	image, err := guestos.Load(out)
	return err == nil && image.Verify() == nil
}

// makeImage makes the image in a new directory and then puts it in the place of the old one, so that c.out is always
// either absent or complete.
func makeImage(ctx context.Context, c config, archive *apt.Archive, debs []apt.Package, progs *programs) (err error) {
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
	c.log("writing the image")
	initrd, err := initramfs(progs.init.data, kernel.modules)
	if err != nil {
		return err
	}
	root, err := rootfs(tree, progs, c.policy, builtAt)
	if err != nil {
		return err
	}
	params, err := root.write(filepath.Join(stage, guestos.RootfsName), builtAt)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		guestos.KernelName: kernel.image, guestos.InitrdName: initrd, guestos.FirmwareName: firmware.data,
		guestos.ConfigName: kernel.config,
	} {
		if err := os.WriteFile(filepath.Join(stage, name), data, 0o644); err != nil {
			return err
		}
	}
	manifest, err := describe(stage, kernel, params, builtAt, tree, progs)
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
		c.log("%-14s %7.1f MiB  sha256:%s", a.Name, float64(a.Size)/(1<<20), a.SHA256)
	}
	return nil
}

// epochVariable overrides the time of the newest input (https://reproducible-builds.org/specs/source-date-epoch/).
const epochVariable = "SOURCE_DATE_EPOCH"

// newestInput is the time that the guest takes as the earliest possible one: that of the newest packaged file.
func newestInput(tree *tree) (int64, error) {
	if s := os.Getenv(epochVariable); s != "" {
		t, err := strconv.ParseInt(s, 10, 64)
		if err != nil || t <= 0 {
			return 0, fmt.Errorf("%s is %q, want seconds since 1970", epochVariable, s)
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
func describe(
	dir string, k *kernel, p verity.Params, builtAt int64, t *tree, progs *programs,
) (*guestos.Manifest, error) {
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
	var text bytes.Buffer
	if err := encode(&text, v); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

// encode writes JSON for people, too.
func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
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
