// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/kbs"
)

func newRefvalue(o *owner) *cobra.Command {
	group := &cobra.Command{
		Use:   "refvalue",
		Short: "Register the reference values that evidence is appraised against",
		Long: `A reference value has a name that the appraisal policy asks for, and a value, mostly a list of what is acceptable. For SEV-SNP the default policy asks for
snp_launch_measurement, init_data, and the firmware levels snp_bootloader, snp_tee_svn, snp_snp_svn and snp_microcode. "nacre measure" predicts the first two.`,
	}
	var keep bool
	register := &cobra.Command{
		Use:   "register NAME VALUE...",
		Short: "Register a list of acceptable values",
		Long: `Register a list of acceptable values under a name; it replaces the list before, or extends it with --add. A value that is an integer or a boolean is
registered as such, everything else as a string.`,
		Example: `  nacre refvalue register snp_launch_measurement 5d0a…
  nacre refvalue register snp_bootloader 9 10`,
		Args: cobra.MinimumNArgs(2),
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, args []string) error {
			name := args[0]
			var values []any
			if keep {
				list, err := a.ReferenceValues(c.Context())
				if err != nil {
					return err
				}
				for _, v := range list {
					if v.Name != name {
						continue
					}
					if err := json.Unmarshal(v.Value, &values); err != nil {
						return fmt.Errorf("%s is not a list, so nothing can be added to it: %w", name, err)
					}
				}
			}
			for _, text := range args[1:] {
				values = append(values, referenceValue(text))
			}
			if err := a.RegisterReferenceValue(c.Context(), map[string]any{name: values}); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d acceptable\n", name, len(values))
			return nil
		}),
	}
	register.Flags().BoolVar(&keep, "add", false, "extend the list that is registered")

	var asJSON bool
	list := &cobra.Command{
		Use:   "list",
		Short: "List the reference values",
		Args:  cobra.NoArgs,
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, _ []string) error {
			values, err := a.ReferenceValues(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), values)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tEXPIRES\tVALUE")
			for _, v := range values {
				fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, v.Expiration.Local().Format(time.DateOnly), v.Value)
			}
			return w.Flush()
		}),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	remove := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a reference value; evidence that needs it is no longer affirming",
		Args:  cobra.ExactArgs(1),
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, args []string) error {
			if err := a.DeleteReferenceValue(c.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: deleted\n", args[0])
			return nil
		}),
	}
	group.AddCommand(register, list, remove)
	return group
}

// referenceValue is a value as it is registered: integers and booleans as such, since claims are compared by type, else a string. Digests
// are strings whatever their digits are, because they are longer than any integer.
func referenceValue(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	if text == "true" || text == "false" {
		return text == "true"
	}
	return text
}
