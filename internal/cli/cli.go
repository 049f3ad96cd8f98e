// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package cli is the command that people type: nacre. Each file is one of its commands, thin over the library that does the work.
//
// It speaks for the owner of secrets (to a trustee, with the owner's key) and it runs pods on a host. On one machine the two meet in one
// program for convenience only: nothing that runs on the host side is trusted by what the owner's side registers, which is predicted from
// artifacts and never read back from a guest.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs the command and returns its exit status: a pod's own for `nacre run`, else 0, 1 for a failure, 2 for a wrong usage.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C ends what runs in good order; a second one ends the program.
	defer context.AfterFunc(ctx, stop)()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintln(stderr, "nacre:", exit.err)
		}
		return exit.status
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "nacre: interrupted")
		return 130
	default:
		fmt.Fprintln(stderr, "nacre:", err)
		return 1
	}
}

// exitError carries an exit status of its own; err may be nil, when all has been said.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "nacre",
		Short: "Run pods in confidential microVMs, and give them secrets that only they can open",
		Long: `nacre runs ordinary Kubernetes pods in confidential microVMs, and manages the trustee that gives them their secrets.

Begin with "nacre doctor" to see what this machine can do, or "nacre demo" to see all of it at work.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{2, fmt.Errorf("%w; see: %s --help", err, c.CommandPath())}
	})
	var o owner
	for _, c := range []*cobra.Command{newSecret(&o), newImage(&o), newPolicy(&o), newRefvalue(&o), newAudit(&o)} {
		o.flags(c)
		c.GroupID = "owner"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{newDemo(), newRun(), newMeasure(), newDoctor(&o), newBench(), newSimtee()} {
		c.GroupID = "host"
		root.AddCommand(c)
	}
	initData := newInitData(&o)
	initData.GroupID = "owner"
	root.AddCommand(initData)
	root.AddGroup(&cobra.Group{ID: "owner", Title: "For the owner of secrets:"},
		&cobra.Group{ID: "host", Title: "For the machine that runs pods:"})
	return root
}

// printJSON is how every --json answers: one document, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// xdg returns the user's folder of a kind: the variable's value, or else the default below the home directory. (XDG Base Directory
// Specification)
func xdg(variable, fallback string) (string, error) {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "nacre"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the home directory: %w; set %s", err, variable)
	}
	return filepath.Join(home, fallback, "nacre"), nil
}

func configDir() (string, error) { return xdg("XDG_CONFIG_HOME", ".config") }
func stateDir() (string, error)  { return xdg("XDG_STATE_HOME", ".local/state") }
func cacheDir() (string, error)  { return xdg("XDG_CACHE_HOME", ".cache") }
