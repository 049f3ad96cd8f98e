// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"net/netip"
	"sync"
)

// Shares bounds what is held at the same time, by all and by each client. What it counts, bytes or requests, is the
// caller's.
type Shares struct {
	mu   sync.Mutex
	free int64
	each int64
	held map[netip.Prefix]int64 // as many as hold something
}

// NewShares returns shares of a total, of which each client gets at most each.
func NewShares(total, each int64) *Shares {
	return &Shares{free: total, each: each, held: map[netip.Prefix]int64{}}
}

// Take takes n for a client, or nothing: false says that there is no more for it now. It does not wait.
func (s *Shares) Take(client netip.Prefix, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held[client]
	if n > s.free || held+n > s.each {
		return false
	}
	s.free -= n
	s.held[client] = held + n
	return true
}

// Give gives back n that a client took.
func (s *Shares) Give(client netip.Prefix, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	if s.held[client] -= n; s.held[client] <= 0 {
		delete(s.held, client)
	}
}
