// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxStale is how many bytes of a predecessor's session the host skips while it looks for the guest's hello.
const maxStale = 1 << 20

// Host is the host's end of a multiplexed byte stream.
type Host struct {
	session *session
	ready   chan struct{}
	ended   chan struct{}
}

// NewHost takes over conn, the host's end of the guest's virtio-serial port, and begins to wait for the guest's hello.
// Close ends it and closes conn.
func NewHost(conn io.ReadWriteCloser) *Host {
	h := &Host{session: newSession(conn, nil), ready: make(chan struct{}), ended: make(chan struct{})}
	h.session.hello = func(frame) error { return violation("hello in a running session") }
	go func() {
		defer close(h.ended)
		if err := h.begin(); err != nil {
			h.session.end(err)
			return
		}
		close(h.ready)
		_ = h.session.run() // kept in the session; Err tells it
	}()
	return h
}

// begin finds the guest's hello and answers it.
func (h *Host) begin() error {
	var knocker sync.WaitGroup
	heard := make(chan struct{})
	knocker.Go(func() { h.knock(heard) })
	session, err := h.hear()
	close(heard)
	knocker.Wait() // the answer must come after the last knock
	if err != nil {
		return err
	}
	return h.session.write(helloFrame(session), nil)
}

// knockTime is how long the host waits for the guest's hello before it knocks, and between knocks.
const knockTime = time.Second

// knock sends a hello now and then until the guest's was heard or the session has ended.
func (h *Host) knock(heard <-chan struct{}) {
	tick := time.NewTicker(knockTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if h.session.write(helloFrame(knocking), heard) != nil {
				return
			}
		case <-heard:
			return
		case <-h.session.done:
			return
		}
	}
}

// hear finds the guest's hello and returns its session number.
func (h *Host) hear() (uint64, error) {
	want := appendFrame(nil, helloFrame(0))
	numbers := 12 // bytes of version and session number
	prefix := want[:len(want)-numbers]
	var seen []byte
	for skipped := 0; ; skipped++ {
		c, err := h.session.in.ReadByte()
		if err != nil {
			return 0, err
		}
		if seen = append(seen, c); len(seen) > len(prefix) {
			seen = seen[1:]
		}
		if bytes.Equal(seen, prefix) {
			break
		}
		if skipped > maxStale {
			return 0, violation("no hello in the first %d bytes", maxStale)
		}
	}
	rest := make([]byte, numbers)
	if _, err := io.ReadFull(h.session.in, rest); err != nil {
		return 0, err
	}
	version, session := frame{payload: append([]byte(helloMagic), rest...)}.hello()
	if version != Version {
		return 0, violation("the guest speaks version %d, this host %d: use a guest image of this release", version, Version)
	}
	return session, nil
}

// Ready returns when the guest has said hello, which it does once it listens.
func (h *Host) Ready(ctx context.Context) error {
	select {
	case <-h.ready:
		return nil
	case <-h.session.done:
		return h.session.err
	case <-ctx.Done():
		return fmt.Errorf("transport: waiting for the guest's hello: %w", ctx.Err())
	}
}

// Dial connects to a port of the guest; it waits for the guest to be ready. ctx bounds the dialling only.
func (h *Host) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := h.Ready(ctx); err != nil {
		return nil, err
	}
	st, err := h.session.connect(port)
	if err != nil {
		return nil, fmt.Errorf("transport: dialling port %d: %w", port, err)
	}
	for {
		st.mu.Lock()
		wait, accepted, broken := st.change, st.accepted, st.broken
		st.mu.Unlock()
		switch {
		case accepted:
			return st, nil
		case broken != nil:
			return nil, fmt.Errorf("transport: dialling port %d: %w", port, broken)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			_ = st.Close()
			return nil, fmt.Errorf("transport: dialling port %d: %w", port, ctx.Err())
		}
	}
}

// Done is closed when the session has ended; Err then tells why.
func (h *Host) Done() <-chan struct{} { return h.session.done }

// Err is nil while the session lasts, and then why it ended. It wraps ErrEnded, and ErrProtocol when the guest broke
// the protocol.
func (h *Host) Err() error {
	h.session.mu.Lock()
	defer h.session.mu.Unlock()
	return h.session.err
}

// Close ends the session and all its connections, and waits for its goroutines.
func (h *Host) Close() error {
	h.session.end(net.ErrClosed)
	<-h.ended
	return nil
}
