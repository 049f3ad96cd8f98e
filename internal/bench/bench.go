// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/guestos"
)

// Options say what is measured, and with what.
type Options struct {
	// Dir is the benchmark's own folder. What an earlier run left in it is removed.
	Dir string
	// Trustee, Floor and Nacre are the programs.
	Trustee, Floor, Nacre string
	// Platform signs the evidence of guests that are not started.
	Platform *signer.Platform
	// InitData makes the init-data of a pod: it names the trustee, by URL and certificate, and allows the manifest's
	// containers.
	InitData func(trusteeURL string, cert []byte, manifest string) ([]byte, error)

	// Image is what guests boot, and PodImage the reference of a busybox image under which they find it. QEMU and
	// CacheDir are sandbox.Config's. RunArgs are the arguments, beside the manifest, that make `nacre run` use the
	// same.
	Image          *guestos.Image
	PodImage       string
	QEMU, CacheDir string
	RunArgs        []string

	// Requests is how many attestations a round has; other loads follow from it. Rounds is how many rounds there
	// are: rows are medians.
	Requests, Rounds int
	// Only, when set, leaves out the other side's part.
	Only Side
	// Scale adds what takes a store of a million resources: minutes, and a gigabyte of disk.
	Scale bool
	// Log is told what is going on, a line at a time.
	Log io.Writer
}

// Side is whose part is measured.
type Side string

// The sides.
const (
	Trustee Side = "trustee"
	Guest   Side = "guest" // with the image and the programs
)

// Defaults of Options.
const (
	DefaultRequests = 1000
	DefaultRounds   = 5
)

// Report is what was measured.
type Report struct {
	// Machine is a line that names what it was measured on.
	Machine string
	Results []Result
}

// bench is a run under way.
type bench struct {
	Options
	cert  certificate
	accel string // what executes guests, once one was started
}

// Names of stages that several parts use.
const (
	splitDefault = "split"
	splitPadded  = "split-400"
	paddedSuffix = ", 400-line policy"
)

// Run measures everything. It leaves no process behind.
func Run(ctx context.Context, o Options) (*Report, error) {
	b := &bench{Options: o}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	r := &Report{}
	scale := b.scale
	if !o.Scale {
		scale = func(context.Context) ([]Result, error) { return nil, nil }
	}
	for _, part := range []struct {
		side    Side
		measure func(context.Context) ([]Result, error)
	}{
		{Trustee, b.requests},
		{Trustee, b.processors},
		{Trustee, func(ctx context.Context) ([]Result, error) { return b.split(ctx, splitDefault, "", false) }},
		{Trustee, func(ctx context.Context) ([]Result, error) { return b.split(ctx, splitPadded, paddedSuffix, true) }},
		{Trustee, b.policies},
		{Trustee, scale},
		{Guest, b.guests},
		{Guest, b.sizes},
	} {
		if o.Only != "" && o.Only != part.side {
			continue
		}
		rows, err := part.measure(ctx)
		if err != nil {
			return nil, err
		}
		r.Results = append(r.Results, rows...)
	}
	r.Machine = machineLine(b.accel)
	return r, nil
}

func (b *bench) prepare() (err error) {
	if b.Dir, err = filepath.Abs(b.Dir); err != nil {
		return err
	}
	if err := os.RemoveAll(b.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return err
	}
	b.cert, err = newCertificate(b.Dir)
	return err
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.Log, format+"\n", args...)
}
