// SPDX-License-Identifier: Apache-2.0

// Command nacre-trustee is the key broker and verifier: it holds an owner's secrets, verifies the evidence of
// confidential guests, and releases a secret to those that the owner's policy names, encrypted to a key that only the
// guest has.
//
// It trusts AMD's roots, the roots that its configuration names, and the administrators whose public keys it has. It
// links no signer: the owner's private key is written to a file at the first start and forgotten, and simulated
// platforms are known by their public roots only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// gcPercent lets the heap grow to five times what lives in it before it is collected. What lives is some ten MiB, and
// a request's garbage is a quarter of one, so that collecting as often as Go does by default would be a tenth of all
// work.
const gcPercent = 400

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "nacre-trustee:", err)
		os.Exit(1)
	}
}

// run serves until the context ends, or does what else it is told to.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "config":
			return convertConfig(args[1:], stdout, stderr)
		case "import":
			return importStore(ctx, args[1:], getenv, stdout, stderr)
		}
	}
	s, err := load(args, getenv, stderr)
	if err != nil {
		return err
	}
	if s.Version {
		fmt.Fprintln(stdout, version())
		return nil
	}
	return serve(ctx, s, stdout, stderr)
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "nacre-trustee"
	}
	return "nacre-trustee " + info.Main.Version + " " + info.GoVersion
}
