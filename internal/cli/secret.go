// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/kbs"
)

// maxSecret caps a secret that is put, in bytes: what a guest can get in one answer.
const maxSecret = 1 << 20

func newSecret(o *owner) *cobra.Command {
	group := &cobra.Command{
		Use:   "secret",
		Short: "Put secrets into the trustee, list and delete them",
		Long: `Secrets have paths of three segments, repository/type/tag, such as default/db/password. Their values are sealed in the trustee; nobody can
read one back through this command. A guest gets one when the release policy says so: see "nacre policy".`,
	}
	var file string
	put := &cobra.Command{
		Use:     "put PATH",
		Short:   "Put a secret, read from standard input or a file (never from the command line, which others can see)",
		Example: "  nacre secret put default/db/password < password.txt",
		Args:    cobra.ExactArgs(1),
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, args []string) error {
			in := c.InOrStdin()
			if file != "" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			value, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
			if err != nil {
				return fmt.Errorf("reading the secret: %w", err)
			}
			if len(value) == 0 {
				return errors.New("the secret is empty: give it on standard input, or name a file with --file")
			}
			if len(value) > maxSecret {
				return fmt.Errorf("the secret is longer than %d bytes, more than a guest can get in one answer", maxSecret)
			}
			if err := a.PutResource(c.Context(), args[0], value); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d bytes sealed\n", args[0], len(value))
			return nil
		}),
	}
	put.Flags().StringVar(&file, "file", "", "read the value from this file")

	var asJSON bool
	list := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the secrets' paths and sizes",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, args []string) error {
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			list, err := a.Resources(c.Context(), prefix)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PATH\tBYTES\tUPDATED")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%d\t%s\n", r.Path, r.Size, r.Updated.Local().Format(time.DateTime))
			}
			return w.Flush()
		}),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	remove := &cobra.Command{
		Use:   "delete PATH",
		Short: "Delete a secret",
		Args:  cobra.ExactArgs(1),
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, args []string) error {
			if err := a.DeleteResource(c.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: deleted\n", args[0])
			return nil
		}),
	}
	group.AddCommand(put, list, remove, newSeal(o), newUnseal())
	return group
}
