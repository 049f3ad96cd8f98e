// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
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
	c.AddCommand(newAuditVerify(o))
	return c
}

// auditPage is how many records are fetched at a time.
const auditPage = 1000

func newAuditVerify(o *owner) *cobra.Command {
	var head string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Fetch the whole audit trail and check that its chain of hashes holds",
		Long: `Each record carries the hash of the one before, so none can be changed, removed or put in between without all later hashes changing. What a chain cannot
show is that its end was cut off, or that all of it was written anew: keep the last hash that is printed, and give it with --head the next time.`,
		Args: cobra.NoArgs,
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, _ []string) error {
			chain := auditChain{known: head}
			for {
				records, err := a.Audit(c.Context(), chain.records, auditPage)
				if err != nil {
					return err
				}
				if len(records) == 0 {
					break
				}
				for _, r := range records {
					if err := chain.add(r); err != nil {
						return err
					}
				}
			}
			if head != "" && !chain.seen {
				return fmt.Errorf("the audit trail has no record with hash %s any more: it was cut off or written anew", head)
			}
			fmt.Fprintf(c.OutOrStdout(), "%d records, the chain holds; last hash %s\n", chain.records, dash(chain.last))
			return nil
		}),
	}
	c.Flags().StringVar(&head, "head", "", "a hash that an earlier verification printed: it must still be in the chain")
	return c
}

// auditChain checks records one after the other.
type auditChain struct {
	records int64
	last    string // hash of the last record
	known   string // hash that must occur
	seen    bool
}

func (c *auditChain) add(r kbs.AuditRecord) error {
	hash := r.Hash
	r.Hash = ""
	// The bytes that the hash covers: the record as JSON, members in the order of the type, the hash itself empty.
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("checking audit record %d: %w", r.ID, err)
	}
	switch want := fmt.Sprintf("%x", sha256.Sum256(text)); {
	case r.ID != c.records+1:
		return fmt.Errorf("the audit trail is broken: record %d follows record %d", r.ID, c.records)
	case r.Prev != c.last:
		return fmt.Errorf("the audit trail is broken at record %d: it follows hash %.12s, but the record before has %.12s", r.ID, r.Prev, c.last)
	case hash != want:
		return fmt.Errorf("the audit trail is broken at record %d: its hash is %.12s, its content has %.12s", r.ID, hash, want)
	}
	c.records, c.last = r.ID, hash
	c.seen = c.seen || hash == c.known
	return nil
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
