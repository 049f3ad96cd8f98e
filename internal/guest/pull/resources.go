// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nacre-project/nacre/secret"
)

// DefaultMaxAge is how long what the trustee gave is used before it is asked again.
const DefaultMaxAge = 5 * time.Minute

// Resources gets from the trustee what the owner may change while the pod runs: credentials, the registry
// configuration, signature policies and their keys. It keeps each in memory, for a bounded time and nowhere else; what
// is older is fetched again and never used in its place, so that what the owner has changed or taken back is gone.
//
// It is not for the keys of layers, which are used once.
type Resources struct {
	get    func(ctx context.Context, uri string) (secret.Bytes, error)
	maxAge time.Duration

	mu   sync.Mutex
	held map[string]*held
}

type held struct {
	turn  chan struct{} // holds one token; guards the rest
	value secret.Bytes
	until time.Time // by the monotonic clock, which nobody sets
}

// NewResources makes Resources of what fetches one. A maxAge of 0 is [DefaultMaxAge].
func NewResources(get func(ctx context.Context, uri string) (secret.Bytes, error), maxAge time.Duration) *Resources {
	if maxAge <= 0 {
		maxAge = DefaultMaxAge
	}
	return &Resources{get: get, maxAge: maxAge, held: map[string]*held{}}
}

// Get returns a resource. Of several callers for one, one fetches it.
func (r *Resources) Get(ctx context.Context, uri string) (secret.Bytes, error) {
	if r == nil {
		return secret.Bytes{}, errors.New("there is no trustee to get it from")
	}
	r.mu.Lock()
	h := r.held[uri]
	if h == nil {
		h = &held{turn: make(chan struct{}, 1)}
		r.held[uri] = h
	}
	r.mu.Unlock()
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return secret.Bytes{}, context.Cause(ctx)
	}
	defer func() { <-h.turn }()
	now := time.Now()
	if now.Before(h.until) {
		return h.value, nil
	}
	h.value = secret.Bytes{}
	value, err := r.get(ctx, uri)
	if err != nil {
		return secret.Bytes{}, err
	}
	h.value, h.until = value, now.Add(r.maxAge) // counted from the question: the answer may be as old as that
	return value, nil
}

// Text is a text of the owner's: it stands in the measured configuration, or it is a resource. The zero value is none.
type Text struct {
	Inline string
	URI    string // of a resource; not looked at when Inline is there
}

// Read returns the text; what says what it is, for the error.
func (t Text) Read(ctx context.Context, from *Resources, what string) ([]byte, error) {
	if t.Inline != "" || t.URI == "" {
		return []byte(t.Inline), nil
	}
	value, err := from.Get(ctx, t.URI)
	if err != nil {
		return nil, failed(CodeSettingsUnavailable, err, "the %s (%s)", what, t.URI)
	}
	return value.Reveal(), nil
}
