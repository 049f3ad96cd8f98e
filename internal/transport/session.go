// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// ErrEnded is wrapped by the errors of connections whose session has ended: the peer went away, or broke the protocol.
var ErrEnded = errors.New("transport: the session has ended")

// session runs the protocol over one byte stream until that ends or the peer breaks the protocol.
type session struct {
	conn io.ReadWriteCloser
	in   *bufio.Reader

	// open handles an open frame; nil on the host, whose peer may not open streams.
	open func(*stream) (refusal, bool)
	// hello handles a hello frame in a running session.
	hello func(frame) error

	token chan struct{} // held while writing to conn
	out   []byte        // what is being written; the token guards it
	wake  chan struct{} // tells flushControl that queue is not empty
	done  chan struct{} // closed when the session has ended

	mu      sync.Mutex
	streams map[uint32]*stream
	last    uint32 // highest stream id that was opened
	queue   []frame
	err     error
}

func newSession(conn io.ReadWriteCloser, open func(*stream) (refusal, bool)) *session {
	s := &session{
		conn: conn, in: bufio.NewReaderSize(conn, 2*MaxPayload), open: open,
		token: make(chan struct{}, 1), wake: make(chan struct{}, 1), done: make(chan struct{}),
		streams: make(map[uint32]*stream),
	}
	s.token <- struct{}{}
	return s
}

// run reads frames until the session ends, and returns why. The caller has exchanged the hello frames.
func (s *session) run() error {
	var flusher sync.WaitGroup
	flusher.Go(s.flushControl)
	buf := make([]byte, MaxPayload)
	for {
		f, err := s.next(buf)
		if err == nil {
			err = s.handle(f)
		}
		if err != nil {
			s.end(err)
			flusher.Wait()
			return s.err
		}
	}
}

// frameTime is how long a frame may take from its first byte to its last. A host that went away in the middle of one
// must not leave the next one's frames to be taken for its end.
const frameTime = 10 * time.Second

// next reads a frame; it waits for its first byte as long as it takes.
func (s *session) next(buf []byte) (frame, error) {
	if _, err := s.in.Peek(1); err != nil {
		return frame{}, err
	}
	late := time.AfterFunc(frameTime, func() { s.end(violation("a frame took longer than %v", frameTime)) })
	defer late.Stop()
	return readFrame(s.in, buf)
}

// end ends the session once; the first reason stays.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = fmt.Errorf("%w: %w", ErrEnded, err)
	streams := s.streams
	s.streams = nil
	close(s.done)
	s.mu.Unlock()
	s.conn.Close()
	for _, st := range streams {
		st.end(s.err)
	}
}

func (s *session) handle(f frame) error {
	switch f.kind {
	case frameHello:
		return s.hello(f)
	case frameOpen:
		return s.handleOpen(f)
	}
	s.mu.Lock()
	st, last := s.streams[f.stream], s.last
	s.mu.Unlock()
	if st == nil {
		if f.stream > last {
			return violation("%v for stream %d, which was never opened", f.kind, f.stream)
		}
		return nil // still on its way when we forgot the stream
	}
	switch f.kind {
	case frameAccept, frameRefuse:
		return s.handleAnswer(st, f)
	case frameReset:
		s.forget(st.id)
	}
	if s.open == nil && !st.isAccepted() {
		return violation("%v for stream %d before it was accepted", f.kind, f.stream)
	}
	return st.receive(f)
}

func (s *session) handleOpen(f frame) error {
	if s.open == nil {
		return violation("the guest opened a stream")
	}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return s.err
	}
	if f.stream <= s.last {
		s.mu.Unlock()
		return violation("stream %d opened after stream %d", f.stream, s.last)
	}
	s.last = f.stream
	if len(s.streams) >= MaxStreams {
		s.mu.Unlock()
		s.control(u32Frame(f.stream, frameRefuse, uint32(refusedFull)))
		return nil
	}
	st := newStream(s, f.stream, f.u32())
	st.accepted = true
	s.streams[st.id] = st
	// Before the listener gets the stream, so that nothing is sent on it ahead of this.
	s.queue = append(s.queue, frame{stream: st.id, kind: frameAccept})
	s.mu.Unlock()
	if why, ok := s.open(st); !ok {
		s.forget(st.id)
		s.replaceAccept(st.id, why)
	}
	s.control()
	return nil
}

// replaceAccept turns the accept that handleOpen queued into a refusal. Nobody flushes between the two unless another
// stream writes; then the guest's answer is accept and reset, which means the same.
func (s *session) replaceAccept(id uint32, why refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.queue {
		if f.stream == id && f.kind == frameAccept {
			s.queue[i] = u32Frame(id, frameRefuse, uint32(why))
			return
		}
	}
	s.queue = append(s.queue, frame{stream: id, kind: frameReset})
}

func (s *session) handleAnswer(st *stream, f frame) error {
	if s.open != nil {
		return violation("the host sent %v", f.kind)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.accepted {
		return violation("second answer for stream %d", st.id)
	}
	if f.kind == frameAccept {
		st.accepted = true
	} else {
		st.fail(refusal(f.u32()))
		s.forget(st.id)
	}
	st.changed()
	return nil
}

// connect opens a stream to a port of the guest; the answer arrives later.
func (s *session) connect(port uint32) (*stream, error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil, s.err
	}
	if len(s.streams) >= MaxStreams || s.last == ^uint32(0) {
		s.mu.Unlock()
		return nil, refusedFull
	}
	s.last++
	st := newStream(s, s.last, port)
	s.streams[st.id] = st
	s.queue = append(s.queue, u32Frame(st.id, frameOpen, port)) // under mu: ids must reach the wire in order
	s.mu.Unlock()
	s.control()
	return st, nil
}

func (s *session) forget(id uint32) {
	s.mu.Lock()
	delete(s.streams, id)
	s.mu.Unlock()
}

// control queues frames for flushControl. It never blocks; a peer that lets the queue overflow loses the session.
func (s *session) control(frames ...frame) {
	s.mu.Lock()
	s.queue = append(s.queue, frames...)
	full := len(s.queue) > maxControl
	s.mu.Unlock()
	if full {
		s.end(violation("the peer does not read: %d control frames wait", maxControl))
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) flushControl() {
	for {
		select {
		case <-s.wake:
			_ = s.write(frame{}, nil) // an error has ended the session
		case <-s.done:
			return
		}
	}
}

// write sends the queued control frames and then f, unless f is the zero frame. Only waiting for other writers ends at
// the deadline: a frame is written whole or not at all.
func (s *session) write(f frame, expired <-chan struct{}) error {
	select {
	case <-expired:
		return os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-s.token:
	case <-expired:
		return os.ErrDeadlineExceeded
	case <-s.done:
		return s.err
	}
	defer func() { s.token <- struct{}{} }()
	s.mu.Lock()
	queued := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.out = s.out[:0]
	for _, q := range queued {
		s.out = appendFrame(s.out, q)
	}
	if f.kind != 0 {
		s.out = appendFrame(s.out, f)
	}
	if len(s.out) == 0 {
		return nil
	}
	if _, err := s.conn.Write(s.out); err != nil {
		s.end(err)
		return s.err
	}
	return nil
}

func (s *stream) isAccepted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// refusal is why a stream was not opened; its numbers are the payload of the refuse frame.
type refusal uint32

const (
	refusedNoListener refusal = iota + 1
	refusedBusy
	refusedFull
)

// Error implements error.
func (r refusal) Error() string {
	switch r {
	case refusedNoListener:
		return "transport: refused: nothing listens on the guest's port"
	case refusedBusy:
		return "transport: refused: the guest's listener has a full backlog"
	case refusedFull:
		return fmt.Sprintf("transport: refused: %d streams are open", MaxStreams)
	}
	return fmt.Sprintf("transport: refused: code %d", uint32(r))
}
