// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Soak kills a trustee at random moments, under load, and looks at what is left of it: that nothing it acknowledged is
// lost, that its store and its audit trail agree, and that it released nothing that a policy in force denied. A model
// (package model) judges what the clients saw.
//
//	go run ./test/soak kill  [--rounds 200] [--seed N] [--dir D]   kill -9 of the process
//	go run ./test/soak power [--rounds 15]  [--seed N] [--dir D]   power loss of a virtual machine
//
// A trustee that is killed leaves what it wrote in the kernel, which lives on; so `kill` shows that transactions are
// whole, and `power` that they are on the disk. The seed chooses the moments and what the clients do; what the trustee
// makes of it depends on the machine too, so a seed does not repeat a run exactly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nacre-project/nacre/attest/simtee/signer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// command runs one of the two.
func command(ctx context.Context, args []string, out io.Writer) error {
	usage := errors.New("want `soak kill` or `soak power`, then flags (--help lists them)")
	if len(args) == 0 {
		return usage
	}
	flags := flag.NewFlagSet("soak "+args[0], flag.ContinueOnError)
	rounds := map[string]int{"kill": 200, "power": 15}[args[0]]
	if rounds == 0 {
		return usage
	}
	flags.IntVar(&rounds, "rounds", rounds, "how often the trustee is killed")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "chooses the moments, and what clients do")
	dir := flags.String("dir", "", "keep everything in this `directory` (default: a temporary one, removed if all is well)")
	program := flags.String("trustee", "", "the nacre-trustee `program` (default: built from this tree)")
	lying := false
	if args[0] == "power" {
		flags.BoolVar(&lying, "unsafe-ignore-flush", false,
			"let the disk lie about what it has stored; the trustee must then lose something, and that must be seen")
	}
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 || rounds < 1 {
		return usage
	}
	r := run{rounds: rounds, seed: *seed, dir: *dir, program: *program, out: out}
	if args[0] == "kill" {
		return r.in(func(dir string) error { return r.kill(ctx, dir) })
	}
	return r.in(func(dir string) error { return r.power(ctx, dir, lying) })
}

// run is what was asked for.
type run struct {
	rounds       int
	seed         uint64
	dir, program string
	platform     *signer.Platform // the guests' machine; nil: one of its own
	out          io.Writer
}

// in runs something in the directory that was named, or in a temporary one, which is kept if it fails.
func (r run) in(do func(dir string) error) error {
	fmt.Fprintf(r.out, "seed %d\n", r.seed)
	if r.dir != "" {
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return err
		}
		return do(r.dir)
	}
	dir, err := os.MkdirTemp("", "nacre-soak-")
	if err != nil {
		return err
	}
	if err := do(dir); err != nil {
		return fmt.Errorf("%w\nwhat is left is in %s", err, dir)
	}
	return os.RemoveAll(dir)
}

// build builds a program of this tree, static, unless there is one.
func (r run) build(ctx context.Context, dir, pkg string) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/nacre-project/nacre/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, text)
	}
	return out, nil
}

// trustee is the program that is killed.
func (r run) trustee(ctx context.Context, dir string) (string, error) {
	if r.program != "" {
		return filepath.Abs(r.program)
	}
	return r.build(ctx, dir, "cmd/nacre-trustee")
}

// kill kills a process.
func (r run) kill(ctx context.Context, dir string) error {
	program, err := r.trustee(ctx, dir)
	if err != nil {
		return err
	}
	platform, i, err := r.prepare(dir)
	if err != nil {
		return err
	}
	return r.soak(ctx, newProcess(program, dir, i, r.seed), i, platform, pace{load: 800 * time.Millisecond, strike: 8})
}

// prepare makes the machine that the guests run on, unless there is one, and what the trustee is given.
func (r run) prepare(dir string) (platform *signer.Platform, i identity, err error) {
	if platform = r.platform; platform == nil {
		if platform, err = signer.Open(filepath.Join(dir, "platform")); err != nil {
			return nil, identity{}, err
		}
	}
	i, err = newIdentity(filepath.Join(dir, "identity"), platform)
	return platform, i, err
}

func (r run) soak(ctx context.Context, at place, i identity, platform *signer.Platform, p pace) error {
	s := &soak{place: at, pace: p, rounds: r.rounds, random: rand.New(rand.NewPCG(r.seed, 0)), out: r.out}
	if err := s.prepare(i, platform); err != nil {
		return err
	}
	return s.run(ctx)
}
