// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// Options say how a store is taken over.
type Options struct {
	Replace bool // what is there already; without it, nothing is imported if anything is
	// UnsafeAnyInitData accepts a release policy that does not pin init-data.
	UnsafeAnyInitData bool
	Now               time.Time
}

// ErrThere is wrapped by what Import says of things that are there already.
var ErrThere = errors.New("there already")

// Import writes contents into this trustee's store, all of them or nothing, with an audit record of each.
func Import(ctx context.Context, s *store.Store, c *Contents, o Options) error {
	if err := check(ctx, c, o); err != nil {
		return err
	}
	if !o.Replace {
		if err := conflicts(ctx, s, c); err != nil {
			return err
		}
	}
	registry, err := refvalue.Open(ctx, s, 0, func() time.Time { return o.Now })
	if err != nil {
		return err
	}
	return registry.Import(ctx, c.Values, func(tx *store.Tx) error { return write(tx, c, o) })
}

// check refuses policies as the administrators' interface does.
func check(ctx context.Context, c *Contents, o Options) error {
	if c.ReleasePolicy != "" {
		if err := release.Check(ctx, record(c, o)); err != nil {
			return fmt.Errorf("the release policy of the store: %w", err)
		}
	}
	if c.AppraisalPolicy != "" {
		if _, err := appraisal.Compile(ctx, c.AppraisalPolicy); err != nil {
			return fmt.Errorf("the appraisal policy of the store: %w", err)
		}
	}
	return nil
}

func record(c *Contents, o Options) release.Record {
	return release.Record{Text: c.ReleasePolicy, UnsafeAnyInitData: o.UnsafeAnyInitData}
}

// place is where something of the contents comes to lie.
type place struct {
	namespace store.Namespace
	key       string
}

func (p place) String() string { return string(p.namespace) + "/" + p.key }

func (c *Contents) places() []place {
	var list []place
	for _, path := range slices.Sorted(maps.Keys(c.Resources)) {
		list = append(list, place{resources, path})
	}
	for _, v := range c.Values {
		list = append(list, place{values, v.Name})
	}
	if c.ReleasePolicy != "" {
		list = append(list, place{releasePolicies, releasePolicy})
	}
	if c.AppraisalPolicy != "" {
		list = append(list, place{appraisalPolicies, appraisal.PolicyID(attest.ClassCPU) + ".rego"})
	}
	return list
}

// shown is how many things that are there already are named.
const shown = 5

// conflicts says what is there already. Nobody else has the store open, so that it stays as it is until it is written.
func conflicts(ctx context.Context, s *store.Store, c *Contents) error {
	var there []string
	for _, p := range c.places() {
		switch _, err := s.Get(ctx, p.namespace, p.key); {
		case err == nil:
			there = append(there, p.String())
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
	}
	if len(there) == 0 {
		return nil
	}
	more := ""
	if len(there) > shown {
		more = fmt.Sprintf(" and %d more", len(there)-shown)
	}
	return fmt.Errorf("%w: %s%s; nothing was imported", ErrThere, strings.Join(there[:min(shown, len(there))], ", "), more)
}

func write(tx *store.Tx, c *Contents, o Options) error {
	for path, content := range c.Resources {
		if err := tx.Put(resources, path, content); err != nil {
			return err
		}
	}
	if c.ReleasePolicy != "" {
		text, err := record(c, o).Marshal()
		if err != nil {
			return err
		}
		if err := tx.Put(releasePolicies, releasePolicy, text); err != nil {
			return err
		}
	}
	if c.AppraisalPolicy != "" {
		key := appraisal.PolicyID(attest.ClassCPU) + ".rego"
		if err := tx.Put(appraisalPolicies, key, []byte(c.AppraisalPolicy)); err != nil {
			return err
		}
	}
	for _, p := range c.places() {
		r := audit.Record{Time: o.Now, Event: audit.EventAdmin, Decision: audit.Changed,
			Detail: "import " + p.String() + " from a LocalFs store, at the trustee's machine"}
		if p.namespace == resources {
			r.Resource = "kbs:///" + p.key
		}
		if err := audit.Append(tx, &r); err != nil {
			return err
		}
	}
	return nil
}
