// SPDX-License-Identifier: Apache-2.0

// Package refvalue keeps the reference values that appraisal compares evidence with: what the owner says a launch
// measurement, a firmware version or an init-data digest should be.
//
// A value is registered under a flat name with a time at which it ends, which is enforced; what it was before is
// kept. Appraisal sees immutable snapshots, swapped when a change has reached stable storage.
//
// It trusts who calls it: authentication is the caller's. It does not say what a name means.
package refvalue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/policy"
)

const (
	current store.Namespace = "reference_value"
	history store.Namespace = "reference_value_history"
)

// DefaultLifetime is how long a value counts when nothing else was configured.
const DefaultLifetime = 365 * 24 * time.Hour

// ErrNotFound says that there is no value of that name, or that its time is over.
var ErrNotFound = errors.New("there is no such reference value")

// Value is one reference value.
type Value struct {
	Name    string          `json:"name"`
	Version string          `json:"version"`
	Expires time.Time       `json:"expiration"` // whole seconds
	Value   json.RawMessage `json:"value"`
}

// Past is what a name was set to at some time.
type Past struct {
	Time    time.Time       `json:"time"`
	Deleted bool            `json:"deleted,omitempty"`
	Expires time.Time       `json:"expiration,omitzero"`
	Value   json.RawMessage `json:"value,omitempty"`
}

// Registry holds the values in force. Its methods may be called at the same time.
type Registry struct {
	store    *store.Store
	now      func() time.Time
	lifetime time.Duration

	changing sync.Mutex // one change at a time, so that snapshots are swapped in the order of the commits
	snapshot atomic.Pointer[Snapshot]
}

// Open loads the values of a store. Zero lifetime means DefaultLifetime, nil now means time.Now.
func Open(ctx context.Context, s *store.Store, lifetime time.Duration, now func() time.Time) (*Registry, error) {
	r := &Registry{store: s, now: now, lifetime: lifetime}
	if r.now == nil {
		r.now = time.Now
	}
	if r.lifetime <= 0 {
		r.lifetime = DefaultLifetime
	}
	snapshot := &Snapshot{}
	const page = 1000
	for after := ""; ; {
		list, err := s.List(ctx, current, "", after, page)
		if err != nil {
			return nil, fmt.Errorf("load the reference values: %w", err)
		}
		for _, info := range list {
			name := info.Key
			e, err := load(ctx, s, name)
			if err != nil {
				return nil, fmt.Errorf("load the reference value %q: %w", name, err)
			}
			shard := &snapshot.shards[shardOf(name)]
			if *shard == nil {
				*shard = map[string]entry{}
			}
			(*shard)[name] = e
			after = name
		}
		if len(list) < page {
			break
		}
	}
	r.snapshot.Store(snapshot)
	return r, nil
}

func load(ctx context.Context, s *store.Store, name string) (entry, error) {
	text, err := s.Get(ctx, current, name)
	if err != nil {
		return entry{}, err
	}
	var v Value
	if err := json.Unmarshal(text, &v); err != nil {
		return entry{}, err
	}
	v.Expires = v.Expires.Truncate(time.Second)
	d, err := document(v.Value)
	return entry{Value: v, document: d}, err
}

// Register sets all values of a message, or none, in one transaction with what also does there.
func (r *Registry) Register(ctx context.Context, m *Message, also func(*store.Tx) error) error {
	now := r.now().UTC().Truncate(time.Second)
	changes := map[string]*entry{}
	for name, raw := range m.values {
		d, err := document(raw)
		if err != nil {
			return fmt.Errorf("%w: value %q: %w", ErrMessage, name, err)
		}
		changes[name] = &entry{document: d, Value: Value{Name: name, Version: version, Expires: now.Add(r.lifetime).Truncate(time.Second),
			Value: raw}}
	}
	return r.change(ctx, changes, also)
}

// Delete removes a value in one transaction with what also does there. A value whose time is over can be deleted.
func (r *Registry) Delete(ctx context.Context, name string, also func(*store.Tx) error) error {
	return r.change(ctx, map[string]*entry{name: nil}, also)
}

// change sets names to entries; a nil entry deletes.
func (r *Registry) change(ctx context.Context, changes map[string]*entry, also func(*store.Tx) error) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	now := r.now()
	err := r.store.Update(ctx, func(tx *store.Tx) error {
		for name, e := range changes {
			past := Past{Time: now.UTC(), Deleted: e == nil}
			if e == nil {
				if err := tx.Delete(current, name); errors.Is(err, store.ErrNotFound) {
					return ErrNotFound
				} else if err != nil {
					return err
				}
			} else {
				text, err := json.Marshal(e.Value)
				if err != nil {
					return err
				}
				if err := tx.Put(current, name, text); err != nil {
					return err
				}
				past.Expires, past.Value = e.Expires, e.Value.Value
			}
			text, err := json.Marshal(past)
			if err != nil {
				return err
			}
			if err := tx.Put(history, historyKey(name, now), text); err != nil {
				return err
			}
		}
		return also(tx)
	})
	if err != nil {
		return err
	}
	r.snapshot.Store(r.snapshot.Load().with(changes))
	return nil
}

// historyKey is injective: names have no "@". The time is nanoseconds since 1970 in hex, so that keys sort by it.
func historyKey(name string, t time.Time) string { return fmt.Sprintf("%s@%016x", name, t.UnixNano()) }

// History returns what a name was set to, oldest first, at most limit of them.
func (r *Registry) History(ctx context.Context, name string, limit int) ([]Past, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	keys, err := r.store.List(ctx, history, name+"@", "", limit)
	if err != nil {
		return nil, err
	}
	list := []Past{}
	for _, info := range keys {
		text, err := r.store.Get(ctx, history, info.Key)
		if err != nil {
			return nil, err
		}
		var p Past
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("parse the history of %q: %w", name, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// Snapshot returns the values in force now.
func (r *Registry) Snapshot() *Snapshot { return r.snapshot.Load() }

// Get returns the value of a name, or ErrNotFound.
func (r *Registry) Get(name string) (Value, error) {
	v, ok := r.Snapshot().get(name, r.now())
	if !ok {
		return Value{}, ErrNotFound
	}
	return v.Value, nil
}

// List returns at most limit values with names after the one given, by name, those whose time is over among them.
func (r *Registry) List(after string, limit int) []Value {
	var list []Value
	for _, shard := range r.Snapshot().shards {
		for name, e := range shard {
			if name > after {
				list = append(list, e.Value)
			}
		}
	}
	slices.SortFunc(list, func(a, b Value) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list[:min(len(list), limit)]
}

type entry struct {
	Value
	document policy.Document
}

// shards bounds what a change copies of a large set: one map of this many.
const shards = 256

var seed = maphash.MakeSeed()

func shardOf(name string) int { return int(maphash.String(seed, name) % shards) }

// Snapshot is a set of values that does not change.
type Snapshot struct{ shards [shards]map[string]entry }

func (s *Snapshot) with(changes map[string]*entry) *Snapshot {
	next := *s
	fresh := map[int]bool{}
	for name, e := range changes {
		i := shardOf(name)
		if !fresh[i] {
			fresh[i] = true
			if next.shards[i] = maps.Clone(next.shards[i]); next.shards[i] == nil {
				next.shards[i] = map[string]entry{}
			}
		}
		if e == nil {
			delete(next.shards[i], name)
		} else {
			next.shards[i][name] = *e
		}
	}
	return &next
}

func (s *Snapshot) get(name string, now time.Time) (entry, bool) {
	e, ok := s.shards[shardOf(name)][name]
	return e, ok && now.Before(e.Expires)
}

// Lookup returns the value of a name in the form that policies compute with; false when there is none or its time is
// over.
func (s *Snapshot) Lookup(name string, now time.Time) (policy.Document, bool) {
	e, ok := s.get(name, now)
	return e.document, ok
}
