// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// backlog is how many streams a listener holds that nobody has accepted yet.
const backlog = 8

// pause keeps a host that comes and goes, or breaks the protocol again and again, from keeping a CPU busy.
const pause = 20 * time.Millisecond

// Guest is the guest's end of a multiplexed byte stream. Its listeners outlive the sessions.
type Guest struct {
	// Open opens the byte stream for one session. Bytes that an earlier session left must not appear in it.
	Open func(ctx context.Context) (io.ReadWriteCloser, error)
	Log  *slog.Logger

	mu        sync.Mutex
	listeners map[uint32]*listener
}

// Listen makes a listener for a port. Streams of all sessions arrive at it until it is closed.
func (g *Guest) Listen(port uint32) (net.Listener, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listeners[port] != nil {
		return nil, fmt.Errorf("transport: port %d has a listener already", port)
	}
	if g.listeners == nil {
		g.listeners = make(map[uint32]*listener)
	}
	l := &listener{guest: g, port: port, streams: make(chan *stream, backlog), closed: make(chan struct{})}
	g.listeners[port] = l
	return l, nil
}

// Serve runs one session after the other until ctx ends or the byte stream cannot be opened. It says hello as soon as
// it runs: make the listeners first.
func (g *Guest) Serve(ctx context.Context) error {
	for {
		conn, err := g.Open(ctx)
		if err != nil {
			return fmt.Errorf("transport: opening the host's stream: %w", err)
		}
		err = g.serve(ctx, conn)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g.Log.Info("the host went away, waiting for the next one", "reason", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *Guest) serve(ctx context.Context, conn io.ReadWriteCloser) error {
	s := newSession(conn, g.deliver)
	s.hello = func(frame) error { return errReplaced }
	stop := context.AfterFunc(ctx, func() { s.end(ctx.Err()) })
	defer stop()
	if err := greet(s); err != nil {
		s.end(err)
		return s.err
	}
	return s.run()
}

// errReplaced ends a session when a host knocks.
var errReplaced = errors.New("another host has come")

// greet says hello and waits for the host's answer.
func greet(s *session) error {
	number := rand.Uint64() | 1 // any but knocking; it tells answers apart and keeps no secret
	// While no host is connected this write waits.
	if err := s.write(helloFrame(number), nil); err != nil {
		return err
	}
	buf := make([]byte, MaxPayload)
	for {
		f, err := s.next(buf)
		if err != nil {
			return err
		}
		if f.kind != frameHello {
			return violation("%v before the host's hello", f.kind)
		}
		version, session := f.hello()
		if version != Version {
			return violation("the host speaks version %d, this guest %d", version, Version)
		}
		if session == number {
			return nil
		}
		// A host that knocked before it heard us, or answered who was there before us.
	}
}

// deliver hands a new stream to its listener.
func (g *Guest) deliver(st *stream) (refusal, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.listeners[st.port]
	if l == nil {
		return refusedNoListener, false
	}
	select {
	case l.streams <- st:
		return 0, true
	default:
		return refusedBusy, false
	}
}

type listener struct {
	guest   *Guest
	port    uint32
	streams chan *stream
	closed  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case st := <-l.streams:
		return st, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: nothing is accepted any more; connections that were stay.
func (l *listener) Close() error {
	l.guest.mu.Lock()
	defer l.guest.mu.Unlock()
	if l.guest.listeners[l.port] != l {
		return nil
	}
	delete(l.guest.listeners, l.port)
	close(l.closed)
	for {
		select {
		case st := <-l.streams:
			_ = st.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return Addr{l.port} }
