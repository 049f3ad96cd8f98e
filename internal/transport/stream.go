// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Addr is the address of a multiplexed stream: a port number of the guest.
type Addr struct{ Port uint32 }

// Network returns "nacre".
func (Addr) Network() string { return "nacre" }

// String returns the port as text.
func (a Addr) String() string { return fmt.Sprintf("guest:%d", a.Port) }

// stream is one connection inside a session. It implements net.Conn and CloseWrite.
type stream struct {
	session *session
	id      uint32
	port    uint32

	writing       sync.Mutex // held through a whole Write, so that frames of two writers do not mix
	readDeadline  deadline
	writeDeadline deadline

	mu       sync.Mutex
	change   chan struct{} // closed and replaced when anything below changes
	in       ring          // received and not yet read
	consumed uint32        // read and not yet told to the peer
	window   uint32        // bytes that may be sent
	eof      bool          // the peer will send no more data
	wclosed  bool          // we send no more data
	closed   bool          // Close was called
	broken   error         // the peer reset the stream, refused it, or the session ended
	accepted bool          // the guest has accepted
}

func newStream(s *session, id, port uint32) *stream {
	return &stream{
		session: s, id: id, port: port, change: make(chan struct{}), window: Window,
		readDeadline: newDeadline(), writeDeadline: newDeadline(),
	}
}

// changed wakes everyone who waits; the caller holds mu.
func (s *stream) changed() {
	close(s.change)
	s.change = make(chan struct{})
}

// Read implements net.Conn. What has arrived is delivered before the end of the stream or of the session is told.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		s.mu.Lock()
		wait, ended := s.change, s.closed
		n := 0
		if !ended {
			n = s.in.read(p)
		}
		var err error
		var told uint32
		switch {
		case ended:
			err = net.ErrClosed
		case n > 0:
			s.consumed += uint32(n)
			// Telling late halves the number of frames; half a window is left for the peer to go on with.
			if s.consumed >= Window/2 && !s.eof && s.broken == nil {
				told, s.consumed = s.consumed, 0
			}
		case s.eof:
			err = io.EOF
		case s.broken != nil:
			err = s.broken
		}
		s.mu.Unlock()
		if told > 0 {
			s.session.control(u32Frame(s.id, frameWindow, told))
		}
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-wait:
		case <-s.readDeadline.expired():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Write implements net.Conn: it returns when all of p was handed to the underlying byte stream.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	done := 0
	for done < len(p) {
		n, err := s.reserve(len(p) - done)
		if err != nil {
			return done, err
		}
		err = s.session.write(frame{stream: s.id, kind: frameData, payload: p[done : done+n]}, s.writeDeadline.expired())
		if err != nil {
			s.release(n)
			return done, err
		}
		done += n
	}
	return done, nil
}

// reserve waits for room in the peer's window and takes at most one frame of it.
func (s *stream) reserve(want int) (int, error) {
	for {
		s.mu.Lock()
		wait := s.change
		var err error
		n := 0
		switch {
		case s.closed || s.wclosed:
			err = net.ErrClosed
		case s.broken != nil:
			err = s.broken
		default:
			n = min(want, sendPayload, int(s.window))
			s.window -= uint32(n)
		}
		s.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-wait:
		case <-s.writeDeadline.expired():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// release gives back what reserve took and what was not sent.
func (s *stream) release(n int) {
	s.mu.Lock()
	s.window += uint32(n)
	s.mu.Unlock()
}

// CloseWrite tells the peer that no more data follows; reading goes on.
func (s *stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	if s.closed || s.wclosed || s.broken != nil {
		s.mu.Unlock()
		return nil
	}
	s.wclosed = true
	s.mu.Unlock()
	s.session.control(frame{stream: s.id, kind: frameCloseWrite})
	return nil
}

// Close ends both directions at once. What the peer has not yet read stays readable for it.
func (s *stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	tell := s.broken == nil
	closeWrite := tell && !s.wclosed
	s.in = ring{}
	s.changed()
	s.mu.Unlock()
	s.session.forget(s.id)
	switch {
	case closeWrite: // both in one step: data of a Write that goes on may follow the reset, never the close-write alone
		s.session.control(frame{stream: s.id, kind: frameCloseWrite}, frame{stream: s.id, kind: frameReset})
	case tell:
		s.session.control(frame{stream: s.id, kind: frameReset})
	}
	return nil
}

// LocalAddr implements net.Conn.
func (s *stream) LocalAddr() net.Addr { return Addr{s.port} }

// RemoteAddr implements net.Conn.
func (s *stream) RemoteAddr() net.Addr { return Addr{s.port} }

// SetDeadline implements net.Conn.
func (s *stream) SetDeadline(t time.Time) error {
	s.readDeadline.set(t)
	s.writeDeadline.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (s *stream) SetReadDeadline(t time.Time) error {
	s.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.writeDeadline.set(t)
	return nil
}

// receive takes a frame of the peer; only the session's reader calls it.
func (s *stream) receive(f frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed()
	switch f.kind {
	case frameData:
		switch {
		case s.eof:
			return violation("data after close-write on stream %d", s.id)
		case s.in.len()+int(s.consumed)+len(f.payload) > Window:
			return violation("window of stream %d exceeded", s.id)
		case s.closed:
			return nil
		}
		s.in.write(f.payload)
	case frameWindow:
		n := f.u32()
		if n == 0 || uint64(s.window)+uint64(n) > Window {
			return violation("window of stream %d opened beyond %d bytes", s.id, Window)
		}
		s.window += n
	case frameCloseWrite:
		if s.eof {
			return violation("second close-write on stream %d", s.id)
		}
		s.eof = true
	case frameReset:
		s.fail(syscall.ECONNRESET)
	}
	return nil
}

// fail records why the stream can no longer be used; the first reason stays. The caller holds mu.
func (s *stream) fail(err error) {
	if s.broken == nil {
		s.broken = err
	}
}

func (s *stream) end(err error) {
	s.mu.Lock()
	s.fail(err)
	s.changed()
	s.mu.Unlock()
}

// ring is a queue of bytes that grows by doubling, up to Window. Its users keep within Window.
type ring struct {
	buf         []byte
	start, used int
}

func (r *ring) len() int { return r.used }

func (r *ring) write(p []byte) {
	if need := r.used + len(p); need > len(r.buf) {
		size := max(len(r.buf), 4<<10)
		for size < need {
			size *= 2
		}
		grown := make([]byte, size)
		r.copyOut(grown)
		r.buf, r.start = grown, 0
	}
	end := (r.start + r.used) % len(r.buf)
	n := copy(r.buf[end:], p)
	copy(r.buf, p[n:])
	r.used += len(p)
}

func (r *ring) read(p []byte) int {
	n := r.copyOut(p)
	r.used -= n
	switch {
	case r.used > 0:
		r.start = (r.start + n) % len(r.buf)
	case len(r.buf) > MaxPayload: // an idle stream holds little memory
		*r = ring{}
	default:
		r.start = 0
	}
	return n
}

func (r *ring) copyOut(p []byte) int {
	n := min(len(p), r.used)
	first := copy(p[:n], r.buf[min(r.start, len(r.buf)):])
	copy(p[first:n], r.buf)
	return n
}
