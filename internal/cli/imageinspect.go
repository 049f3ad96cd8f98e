// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/internal/cli/images"
)

func newImageInspect() *cobra.Command {
	var access registryAccess
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show an image's layers, and which keys open those that are encrypted",
		Long: `Inspect reads manifests, and no layers. IMAGE is a reference to a registry, or an OCI layout directory, as oci:DIR or oci:DIR:TAG. What it says about keys
is what the image says: it is not proved that such a key opens the layer.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			place, err := images.ParsePlace(args[0])
			if err != nil {
				return err
			}
			options, err := access.options(c.Context())
			if err != nil {
				return err
			}
			image, err := place.Open(c.Context(), options...)
			if err != nil {
				return err
			}
			report, err := images.Inspect(place, image)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), report)
			}
			return printImage(c.OutOrStdout(), report)
		},
	}
	access.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printImage(out io.Writer, r *images.Report) error {
	fmt.Fprintf(out, "%s\n  digest      %s\n  media type  %s\n", r.Reference, r.Digest, r.MediaType)
	for _, image := range r.Images {
		fmt.Fprintln(out)
		if image.Platform != "" {
			fmt.Fprintf(out, "%s  %s\n", printable(image.Platform), image.Digest)
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "LAYER\tMEDIA TYPE\tBYTES\tDIGEST\tKEY")
		for i, l := range image.Layers {
			key := "not encrypted"
			if l.Encrypted {
				key = l.Problem
			}
			var keys []string
			for _, k := range l.Keys {
				keys = append(keys, k.KeyID)
			}
			if len(keys) > 0 {
				key = strings.Join(keys, ", ")
			}
			fmt.Fprintf(w, "%d\t%s\t%d\t%.19s\t%s\n", i, printable(l.MediaType), l.Size, printable(l.Digest), printable(key))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// printable is foreign text for a terminal: somebody wrote it into a registry.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
