// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Refusals keeps what clients owe for requests that cost work and were refused. Each refusal is a debt that time pays
// off at a steady rate; whoever owes more than the burst waits.
//
// A place in the table is given up only by a client that owes nothing, so that no crowd of addresses can make the
// trustee forget a debt. When all places are taken by debtors, further clients share accounts by their wider network
// (IPv4 /16, IPv6 /32): the crowd then shares with its neighbours.
type Refusals struct {
	mu      sync.Mutex
	each    time.Duration // what one refusal costs
	burst   time.Duration // what a client may owe and still be served
	clients int
	paid    map[netip.Prefix]time.Time // when a client's debt is paid off
	shared  []time.Time                // the same, of clients that have no place
	seed    maphash.Seed
	swept   time.Time
}

// Shared accounts, and how often the table is searched for paid debts.
const (
	sharedAccounts = 1024
	sweepEvery     = time.Second
	sharedBitsV4   = 16
	sharedBitsV6   = 32
)

// NewRefusals returns a table of the given number of clients, each of which may have perSecond refusals a second, and
// burst more at once. All must be at least 1.
func NewRefusals(perSecond, burst, clients int) *Refusals {
	each := time.Second / time.Duration(max(perSecond, 1))
	return &Refusals{each: each, burst: each * time.Duration(max(burst, 1)), clients: max(clients, 1),
		paid: map[netip.Prefix]time.Time{}, shared: make([]time.Time, sharedAccounts), seed: maphash.MakeSeed()}
}

// Wait returns how long a client has to wait before it is served; 0 is not at all.
func (r *Refusals) Wait(client netip.Prefix, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	paid, ok := r.paid[client]
	if !ok {
		if len(r.paid) < r.clients {
			return 0
		}
		paid = r.shared[r.account(client)]
	}
	return max(0, paid.Sub(now.Add(r.burst)))
}

// Charge puts one refusal on a client's account.
func (r *Refusals) Charge(client netip.Prefix, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if paid, ok := r.paid[client]; ok {
		r.paid[client] = r.add(paid, now)
		return
	}
	if len(r.paid) >= r.clients && now.Sub(r.swept) >= sweepEvery {
		r.swept = now
		for client, paid := range r.paid {
			if !paid.After(now) {
				delete(r.paid, client)
			}
		}
	}
	if len(r.paid) < r.clients {
		r.paid[client] = r.add(time.Time{}, now)
		return
	}
	account := &r.shared[r.account(client)]
	*account = r.add(*account, now)
}

// add returns when a debt will be paid with one refusal more. It ends a second beyond the burst: requests that were
// under way when the limit was reached do not lock a client out for longer.
func (r *Refusals) add(paid, now time.Time) time.Time {
	if paid.Before(now) {
		paid = now
	}
	paid = paid.Add(r.each)
	if most := now.Add(r.burst + max(time.Second, r.each)); paid.After(most) {
		return most
	}
	return paid
}

// account is the number of the shared account of a client. Nobody outside can choose it.
func (r *Refusals) account(client netip.Prefix) int {
	bits := sharedBitsV6
	if client.Addr().Is4() {
		bits = sharedBitsV4
	}
	wide, err := client.Addr().Prefix(bits)
	if err != nil { // an address that is none
		return 0
	}
	return int(maphash.Comparable(r.seed, wide) % sharedAccounts)
}
