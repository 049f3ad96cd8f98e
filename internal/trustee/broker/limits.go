// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/limit"
)

// Limits say what clients can make the trustee do before they are known. Zero values are the defaults below.
type Limits struct {
	Origin            limit.Origin // whose forwarded addresses count; zero: nobody's
	RefusalsPerSecond int          // that one client may have in the long run
	RefusalBurst      int          // that it may have at once
	Requests          int          // answered at the same time
	BodyMemory        int64        // bytes of bodies that are held at the same time, beyond the first of each
}

// Defaults of limits.
const (
	DefaultRefusalsPerSecond = 20
	DefaultRefusalBurst      = 500
	DefaultMaxRequests       = 4096
	DefaultBodyMemory        = 256 << 20

	limitedClients = 1 << 16 // that are told apart
	freeBody       = 16 << 10
	bodyBlock      = 64 << 10 // bytes that are reserved at a time
)

// One client's part of what there is for all: of requests at the same time a half, of memory for bodies a quarter.
const (
	requestsEach = 2
	bodiesEach   = 4
)

// limits are those in force.
type limits struct {
	origin   limit.Origin
	refusals *limit.Refusals
	requests *limit.Shares
	bodies   *limit.Shares
}

func newLimits(c Limits) limits {
	for _, d := range []struct {
		value    *int
		fallback int
	}{
		{&c.RefusalsPerSecond, DefaultRefusalsPerSecond}, {&c.RefusalBurst, DefaultRefusalBurst},
		{&c.Requests, DefaultMaxRequests},
	} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	if c.BodyMemory <= 0 {
		c.BodyMemory = DefaultBodyMemory
	}
	return limits{
		origin:   c.Origin,
		refusals: limit.NewRefusals(c.RefusalsPerSecond, c.RefusalBurst, limitedClients),
		requests: limit.NewShares(int64(c.Requests), max(1, int64(c.Requests)/requestsEach)),
		bodies:   limit.NewShares(c.BodyMemory, max(bodyBlock, c.BodyMemory/bodiesEach)),
	}
}

// What ran out, as metrics say it.
const (
	limitRefusals    = "refusals"
	limitRequests    = "requests"
	limitBodies      = "bodies"
	limitConnections = "connections"
)

// admit makes a client wait that was refused too often. It is asked before anything is computed for a client that is
// not known yet.
func (b *Broker) admit(c *call) error {
	wait := b.limits.refusals.Wait(c.client, b.now())
	if wait <= 0 {
		return nil
	}
	b.metrics.limited.WithLabelValues(limitRefusals).Inc()
	f := fail(http.StatusTooManyRequests, variantHTTP, codeRateLimited,
		"too many requests from this address were refused; wait, then try again")
	f.retryAfter = max(wait, time.Second)
	return f
}

// charge notes a refusal that cost work. What those are refused who have shown a token or an administrator's key is
// theirs, and not charged; nor is what a guest runs into by waiting too long.
func (b *Broker) charge(c *call, f *failure) {
	if c.known {
		return
	}
	switch f.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusRequestEntityTooLarge:
	default:
		return
	}
	switch f.code {
	case codeTokenMissing, codeSessionMissing, codeTokenExpired, codeSessionExpired:
		return
	}
	b.limits.refusals.Charge(c.client, b.now())
}

// enter takes a place among the requests that are answered at the same time. Whoever asks how the trustee is needs
// none.
func (b *Broker) enter(c *call) (leave func(), err error) {
	if path := c.http.URL.Path; !strings.HasPrefix(path, protocolPrefix) && !strings.HasPrefix(path, adminPrefix) {
		return func() {}, nil
	}
	if !b.limits.requests.Take(c.client, 1) {
		b.metrics.limited.WithLabelValues(limitRequests).Inc()
		return nil, busy("too many requests at the same time; try again")
	}
	return func() {
		b.limits.requests.Give(c.client, 1)
		if c.held > 0 {
			b.limits.bodies.Give(c.client, c.held)
		}
	}, nil
}

func busy(detail string) *failure {
	f := fail(http.StatusServiceUnavailable, variantHTTP, codeBusy, detail)
	f.retryAfter = time.Second
	return f
}

// metered reads a body, and sees to it that all bodies together fit into memory. The first bytes of each are free:
// they are bounded by the number of requests, and most guests need no more, so that these are served whatever others
// send.
type metered struct {
	io.Reader
	call *call
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.call.read += int64(n)
	for m.call.read > freeBody+m.call.held {
		if !m.call.bodies.Take(m.call.client, bodyBlock) {
			m.call.limited.Inc()
			return 0, busy("too much is being sent at the same time; try again")
		}
		m.call.held += bodyBlock
	}
	return n, err
}

// ConnectionRefused counts a connection that was closed because its client had too many.
func (b *Broker) ConnectionRefused() { b.metrics.limited.WithLabelValues(limitConnections).Inc() }

// Drain says that the trustee is about to end: /readyz answers so from now on, everything else as before.
func (b *Broker) Drain() { b.draining.Store(true) }

// ready answers whether new requests should come here.
func (b *Broker) ready() (*reply, error) {
	if b.draining.Load() {
		return nil, fail(http.StatusServiceUnavailable, variantHTTP, codeDraining, "the trustee is about to end").
			because(errors.New("asked while draining"))
	}
	return &reply{contentType: "text/plain"}, nil
}
