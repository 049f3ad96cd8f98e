// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
)

func newSimtee() *cobra.Command {
	group := &cobra.Command{
		Use:   "simtee",
		Short: "The simulated platform, for machines without a TEE: it protects nothing",
	}
	var (
		h   host
		out string
	)
	root := &cobra.Command{
		Use:   "root",
		Short: "Print the root certificates that a trustee must be given before it takes this machine's simulated evidence",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			platform, err := h.platform()
			if err != nil {
				return err
			}
			text := simtee.FormatRoot(platform.Root())
			if out == "" {
				_, err = c.OutOrStdout().Write(text)
				return err
			}
			if err := os.WriteFile(out, text, 0o644); err != nil {
				return fmt.Errorf("writing the simulated root: %w", err)
			}
			fmt.Fprintf(c.ErrOrStderr(), "root %s written to %s\n", fingerprint(platform.Root()), out)
			return nil
		},
	}
	root.Flags().StringVar(&h.simteeDir, "simtee-dir", "", "the simulated platform's keys (else below $XDG_STATE_HOME/nacre; made if not there)")
	root.Flags().StringVar(&out, "out", "", "write to this file")
	group.AddCommand(root)
	return group
}

// fingerprint names a root for people.
func fingerprint(root snp.Root) string {
	return fmt.Sprintf("sha256:%.12x", sha256.Sum256(root.ARK.Raw))
}
