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
)

// Options say what is measured, and with what.
type Options struct {
	// Dir is the benchmark's own folder. What an earlier run left in it is removed.
	Dir string
	// Trustee, Floor and Nacre are the programs.
	Trustee, Floor, Nacre string
	// Platform signs the evidence of guests that are not started.
	Platform *signer.Platform
	// InitData makes the init-data of a pod: it names the trustee, by URL and certificate, and allows the manifest's containers.
	InitData func(trusteeURL string, cert []byte, manifest string) ([]byte, error)

	// Requests is how many attestations a round has; other loads follow from it. Rounds is how many rounds there are: rows are medians.
	Requests, Rounds int
	// Log is told what is going on, a line at a time.
	Log io.Writer
}

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
	cert certificate
}

// Names of stages that several parts use.
const (
	splitDefault = "split"
	splitPadded  = "split-400"
)

// Run measures everything. It leaves no process behind.
func Run(ctx context.Context, o Options) (*Report, error) {
	b := &bench{Options: o}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	r := &Report{Machine: machine("")}
	for _, measure := range []func(context.Context) ([]Result, error){
		b.requests,
		b.processors,
		func(ctx context.Context) ([]Result, error) { return b.split(ctx, splitDefault, "", false) },
		func(ctx context.Context) ([]Result, error) {
			return b.split(ctx, splitPadded, ", 400-line policy", true)
		},
		b.policies,
	} {
		rows, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		r.Results = append(r.Results, rows...)
	}
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
