// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Budget bounds how often one genuine piece of evidence is recorded as refused. Evidence is public once it was sent:
// anybody can send it again, and each time its hardware signature is valid. Without a bound, one old report would
// fill a disk.
//
// The same holds of a token: who has one can ask for what it may not have as often as he likes.
//
// A new piece of evidence needs a new hardware signature, so the number of pieces is bounded by who has the hardware;
// what is remembered of them is bounded by the number of pieces.
type Budget struct {
	mu     sync.Mutex
	seen   *lru.Cache[string, *window]
	limit  int
	period time.Duration
}

type window struct {
	since time.Time
	count int
}

// NewBudget returns a budget of limit records in a period for each piece of evidence, of which it remembers the given
// number.
func NewBudget(pieces, limit int, period time.Duration) (*Budget, error) {
	seen, err := lru.New[string, *window](pieces)
	if err != nil {
		return nil, err
	}
	return &Budget{seen: seen, limit: limit, period: period}, nil
}

// Spend says whether one more record may be written about a piece of evidence at the given time.
func (b *Budget) Spend(evidence string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, ok := b.seen.Get(evidence)
	if !ok || now.Sub(w.since) >= b.period {
		w = &window{since: now}
		b.seen.Add(evidence, w)
	}
	if w.count >= b.limit {
		return false
	}
	w.count++
	return true
}
