// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/internal/guestos"
)

// runcModule is the directory of the module that pins the OCI runtime.
const runcModule = "internal/guestos/runc"

// program is a built Go program.
type program struct {
	path string // in the guest
	data []byte
	info *buildinfo.BuildInfo
}

type programs struct {
	init, guest, runc program
	host              []guestos.Package // static libraries of this machine that are linked into runc
}

// reproducible are the flags that keep paths, version control state and build IDs out of a program.
var reproducible = []string{"-trimpath", "-buildvcs=false"}

const linkFlags = "-s -w -buildid="

// guestTags are the build tags of the guest, whatever the caller's are: without this one it refuses every policy that demands a
// signature (package internal/guest/signature).
var guestTags = []string{"-tags=containers_image_openpgp"}

func buildPrograms(ctx context.Context, c config) (*programs, error) {
	bin, err := filepath.Abs(filepath.Join(c.cache, "bin"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	p := &programs{}
	if p.host, err = hostLibraries(ctx); err != nil {
		return nil, err
	}
	static := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS="}
	cgo := []string{
		"CGO_ENABLED=1", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=",
		"CGO_CFLAGS=-g0 -O2", "CGO_LDFLAGS=-Wl,--build-id=none",
	}
	for _, b := range []struct {
		to      *program
		path    string
		dir     string
		env     []string
		flags   []string
		ld      string
		pkgPath string
	}{
		{&p.init, "/init", ".", static, nil, linkFlags, "./cmd/nacre-init"},
		{&p.guest, "/usr/sbin/nacre-guest", ".", static, guestTags, linkFlags, c.guest},
		{
			&p.runc, "/usr/bin/runc", runcModule, cgo, []string{"-tags=seccomp,netgo,osusergo,static_build"},
			linkFlags + " -linkmode external -extldflags '-static -Wl,--build-id=none'", "github.com/opencontainers/runc",
		},
	} {
		out := filepath.Join(bin, filepath.Base(b.path))
		args := slices.Concat([]string{"build"}, reproducible, b.flags, []string{"-ldflags=" + b.ld, "-o", out, b.pkgPath})
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = b.dir
		cmd.Env = slices.Concat(os.Environ(), b.env, c.env)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", b.pkgPath, err, text)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			return nil, err
		}
		info, err := buildinfo.Read(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("read the modules of %s: %w", b.pkgPath, err)
		}
		*b.to = program{path: b.path, data: data, info: info}
	}
	return p, nil
}

const installHint = "apt-get install gcc libc6-dev libseccomp-dev"

// hostLibraries describes the static libraries that runc is linked with. They come from the machine that builds, so
// that the manifest must name them.
func hostLibraries(ctx context.Context) ([]guestos.Package, error) {
	var list []guestos.Package
	for _, lib := range []struct{ name, file string }{
		{"libseccomp-dev", "libseccomp.a"},
		{"libc6-dev", "libc.a"},
	} {
		out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f",
			"${Version}\t${Architecture}\t${source:Package} (${source:Version})", lib.name).Output()
		f := strings.Split(string(out), "\t")
		if err != nil || len(f) != 3 {
			return nil, fmt.Errorf("the OCI runtime is linked with %s: install %s (%s)", lib.file, lib.name, installHint)
		}
		list = append(list, guestos.Package{
			Name: lib.name, Version: f[0], Architecture: f[1], Source: f[2], Suite: guestos.SuiteHost,
			Files: []string{"usr/lib/x86_64-linux-gnu/" + lib.file},
		})
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		return nil, fmt.Errorf("the OCI runtime needs a C compiler: install gcc (%s): %w", installHint, err)
	}
	return list, nil
}

// described lists the programs with the modules linked into them.
func (p *programs) described() []guestos.Program {
	var list []guestos.Program
	for _, prog := range []program{p.init, p.guest, p.runc} {
		sum := sha256.Sum256(prog.data)
		d := guestos.Program{
			Path: prog.path, Main: prog.info.Path, Go: prog.info.GoVersion, SHA256: hex.EncodeToString(sum[:]),
		}
		for _, m := range prog.info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			d.Modules = append(d.Modules, guestos.GoModule{Path: m.Path, Version: m.Version, Sum: m.Sum})
		}
		slices.SortFunc(d.Modules, func(a, b guestos.GoModule) int { return strings.Compare(a.Path, b.Path) })
		list = append(list, d)
	}
	return list
}
