// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/internal/cli/demo"
)

func newDemo() *cobra.Command {
	var (
		h       host
		options demo.Options
	)
	c := &cobra.Command{
		Use:   "demo",
		Short: "Tell the whole story on this machine: a pod, its secret, and a host that wants it too",
		Long: `demo starts a trustee and a registry on loopback, plays the owner who puts a secret in and says who may have it, runs a pod that gets it, and then plays the
host: nine attempts to get the secret too, each refused, and each with a twin that differs in one thing and succeeds. It exits with 0 only if all came as
expected, and leaves nothing running.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if options.Image, err = h.image(); err != nil {
				return err
			}
			if options.Nacre, err = os.Executable(); err != nil {
				return err
			}
			options.Trustee = filepath.Join(filepath.Dir(options.Nacre), "nacre-trustee")
			if _, err := os.Stat(options.Trustee); err != nil {
				return fmt.Errorf("%w: the demo needs nacre-trustee beside nacre; `make build` makes both", err)
			}
			if options.Dir == "" {
				dir, err := stateDir()
				if err != nil {
					return err
				}
				options.Dir = filepath.Join(dir, "demo")
			}
			if options.CacheDir, err = cacheDir(); err != nil {
				return err
			}
			options.Out = c.OutOrStdout()
			if err := demo.Run(c.Context(), options); errors.Is(err, demo.ErrFailed) {
				return &exitError{1, err}
			} else if err != nil {
				return err
			}
			return nil
		},
	}
	h.flags(c)
	f := c.Flags()
	f.StringVar(&options.Dir, "dir", "", "the demo's own folder (else below $XDG_STATE_HOME/nacre)")
	f.StringVar(&options.Busybox, "busybox", "/usr/bin/busybox", "the static busybox that the demo's container image is made of")
	f.BoolVar(&options.JSON, "json", false, "print one JSON document: each step, who refused, by which code and audit record")
	return c
}
