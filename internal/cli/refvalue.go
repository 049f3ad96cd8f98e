// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
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
snp_launch_measurement, init_data, and the firmware levels snp_bootloader, snp_tee_svn, snp_snp_svn and snp_microcode
(on Turin snp_fmc too). "nacre measure" predicts the first two.`,
	}
	var (
		keep bool
		from string
	)
	register := &cobra.Command{
		Use:   "register (NAME VALUE... | --from PREDICTION.json)",
		Short: "Register lists of acceptable values",
		Long: `Register a list of acceptable values under a name; it replaces the list before, or extends it with --add. A value that is an integer or a boolean is
registered as such, everything else as a string. With --from, register all that "nacre measure --json" predicted; "-" is standard input.`,
		Example: `  nacre refvalue register snp_launch_measurement 5d0a…
  nacre refvalue register snp_bootloader 9 10
  nacre measure pod.yaml --json | nacre refvalue register --add --from -`,
		Args: func(_ *cobra.Command, args []string) error {
			if (from == "") == (len(args) < 2) {
				return errors.New("want a name and its values, or --from and nothing else")
			}
			return nil
		},
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, args []string) error {
			lists := map[string][]any{}
			if from != "" {
				var err error
				if lists, err = predicted(c.InOrStdin(), from); err != nil {
					return err
				}
			} else {
				for _, text := range args[1:] {
					lists[args[0]] = append(lists[args[0]], referenceValue(text))
				}
			}
			if keep {
				if err := extend(c.Context(), a, lists); err != nil {
					return err
				}
			}
			values := map[string]any{}
			for name, list := range lists {
				values[name] = list
			}
			if err := a.RegisterReferenceValue(c.Context(), values); err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(lists)) {
				fmt.Fprintf(c.OutOrStdout(), "%s: %d acceptable\n", name, len(lists[name]))
			}
			return nil
		}),
	}
	register.Flags().BoolVar(&keep, "add", false, "extend the lists that are registered")
	register.Flags().StringVar(&from, "from", "", "register the reference values of this prediction (nacre measure --json)")

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

// predicted reads the lists of a prediction.
func predicted(in io.Reader, path string) (map[string][]any, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	d := json.NewDecoder(io.LimitReader(in, 1<<20))
	d.UseNumber()
	var p prediction
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("reading the prediction: %w; it is what `nacre measure --json` prints", err)
	}
	if len(p.ReferenceValues) == 0 {
		return nil, errors.New("the prediction holds no reference_values; it is what `nacre measure --json` prints")
	}
	return p.ReferenceValues, nil
}

// extend puts what is registered under the lists' names before what they hold, without repetitions.
func extend(ctx context.Context, a *kbs.Admin, lists map[string][]any) error {
	registered, err := a.ReferenceValues(ctx)
	if err != nil {
		return err
	}
	for _, r := range registered {
		added, ok := lists[r.Name]
		if !ok {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(r.Value))
		d.UseNumber()
		var list []any
		if err := d.Decode(&list); err != nil {
			return fmt.Errorf("%s is not a list, so nothing can be added to it: %w", r.Name, err)
		}
		for _, v := range added {
			if !slices.ContainsFunc(list, func(have any) bool { return fmt.Sprint(have) == fmt.Sprint(v) }) {
				list = append(list, v)
			}
		}
		lists[r.Name] = list
	}
	return nil
}
