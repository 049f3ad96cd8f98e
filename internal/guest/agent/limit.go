// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// What the host may do to the ttrpc server before a request reaches the gate, over all its connections together.
const (
	frameHeader     = 10      // u32 BE length, u32 BE stream id, u8 type, u8 flags
	frameRequest    = 1       // the only type that a client of unary methods sends
	frameResponse   = 2       // the only type that the server sends it
	maxFrame        = 4 << 20 // ttrpc's own limit
	maxInFlight     = 256     // requests that have no answer yet; each container keeps three waiting
	maxInFlightSize = 16 << 20
)

// limitListener guards the server's connections.
type limitListener struct {
	net.Listener
	log *slog.Logger

	mu       sync.Mutex
	requests int           // in flight
	size     int           // bytes of them
	answered chan struct{} // closed once nothing is in flight; nil while nobody waits for it
}

// allAnswered returns a channel that is closed once every request has its answer, written whole, or no connection.
func (l *limitListener) allAnswered() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.answered == nil {
		l.answered = make(chan struct{})
	}
	answered := l.answered
	l.settle()
	return answered
}

// settle tells who waits that nothing is in flight. The caller holds mu.
func (l *limitListener) settle() {
	if l.requests == 0 && l.answered != nil {
		close(l.answered)
		l.answered = nil
	}
}

// Accept implements net.Listener.
func (l *limitListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &limitConn{Conn: c, limits: l, sizes: make(map[uint32]int)}, nil
}

// limitConn follows the frames of a ttrpc connection and ends it when the host sends what an honest client of this
// service never does: frames of streaming calls, which the service has none of and which the server does not expect
// for others; frames beyond the limit; more requests at once than the guest has memory for.
type limitConn struct {
	net.Conn
	limits  *limitListener
	in, out follower
	sizes   map[uint32]int // bytes of this connection's requests in flight, by stream id; limits.mu guards it
}

// Read implements net.Conn.
func (c *limitConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if refused := c.in.follow(p[:n], c.request); refused != nil {
		c.limits.log.Warn("a connection of the host is ended", "reason", refused)
		_ = c.Close()
		return 0, io.EOF
	}
	return n, err
}

// Write implements net.Conn.
func (c *limitConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if followErr := c.out.follow(p[:n], c.response); followErr != nil {
		return n, followErr
	}
	if c.out.skip == 0 && c.out.have == 0 { // an answer's end, not only its header
		c.limits.mu.Lock()
		c.limits.settle()
		c.limits.mu.Unlock()
	}
	return n, err
}

func (c *limitConn) request(length, stream uint32, kind uint8) error {
	if kind != frameRequest {
		return fmt.Errorf("frame of type %d from the host, only requests are expected", kind)
	}
	if length > maxFrame {
		return fmt.Errorf("request of %d bytes, at most %d are read", length, maxFrame)
	}
	l := c.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.sizes == nil {
		return net.ErrClosed
	}
	if _, used := c.sizes[stream]; used {
		return fmt.Errorf("request on stream %d, which has one in flight", stream)
	}
	if l.requests >= maxInFlight || l.size+int(length) > maxInFlightSize {
		return fmt.Errorf("%d requests with %d bytes in flight, no more are taken", l.requests, l.size)
	}
	l.requests++
	l.size += int(length)
	c.sizes[stream] = int(length)
	return nil
}

func (c *limitConn) response(_, stream uint32, kind uint8) error {
	if kind != frameResponse {
		return nil
	}
	l := c.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	if size, ok := c.sizes[stream]; ok {
		delete(c.sizes, stream)
		l.requests--
		l.size -= size
	}
	return nil
}

// Close implements net.Conn.
func (c *limitConn) Close() error {
	l := c.limits
	l.mu.Lock()
	for _, size := range c.sizes {
		l.requests--
		l.size -= size
	}
	c.sizes = nil
	l.settle()
	l.mu.Unlock()
	return c.Conn.Close()
}

// follower finds the frames' headers in a stream of bytes that arrives in pieces.
type follower struct {
	header [frameHeader]byte
	have   int    // bytes of header
	skip   uint32 // bytes of payload until the next header
}

func (f *follower) follow(p []byte, header func(length, stream uint32, kind uint8) error) error {
	for len(p) > 0 {
		if f.skip > 0 {
			n := min(uint32(len(p)), f.skip)
			f.skip -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < frameHeader {
			return nil
		}
		f.have = 0
		f.skip = binary.BigEndian.Uint32(f.header[0:])
		if err := header(f.skip, binary.BigEndian.Uint32(f.header[4:]), f.header[8]); err != nil {
			return err
		}
	}
	return nil
}
