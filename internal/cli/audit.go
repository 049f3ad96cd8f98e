// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/kbs"
)

func newAudit(o *owner) *cobra.Command {
	var (
		asJSON bool
		after  int64
		limit  int
	)
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show the audit trail: who, on what evidence, by which policy, released or refused, why",
		Args:  cobra.NoArgs,
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, _ []string) error {
			records, err := a.Audit(c.Context(), after, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), records)
			}
			return auditTable(c.OutOrStdout(), records)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, with every member of each record")
	c.Flags().Int64Var(&after, "after", 0, "only records after this one")
	c.Flags().IntVar(&limit, "limit", 200, "at most so many")
	return c
}

func auditTable(out io.Writer, records []kbs.AuditRecord) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTIME\tEVENT\tDECISION\tCODE\tEVIDENCE\tMEASUREMENT\tINIT-DATA\tRESOURCE\tPOLICY")
	for _, r := range records {
		evidence := r.TEE
		if r.Simulated {
			evidence += " (simulated)"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Time.Local().Format("15:04:05"), r.Event, r.Decision,
			dash(r.Code), dash(evidence), dash(short(r.Measurement)), dash(short(r.InitData)), dash(r.Resource), dash(r.Policy))
	}
	return w.Flush()
}

func short(hex string) string { return hex[:min(len(hex), 12)] }

func dash(s string) string { return cmp.Or(s, "-") }
