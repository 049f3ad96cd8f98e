// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// link starts a guest with one listener and a host over a socket pair.
func link(t testing.TB, port uint32) (*Host, net.Listener) {
	t.Helper()
	hostEnd, guestEnd := socketPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	g := &Guest{Log: slog.New(slog.DiscardHandler), Open: openOnce(guestEnd)}
	l, err := g.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ctx) })
	h := NewHost(hostEnd)
	t.Cleanup(func() {
		h.Close()
		cancel()
		serving.Wait()
		l.Close()
	})
	return h, l
}

// openOnce opens conn for the first session; later ones wait for the context.
func openOnce(conns ...net.Conn) func(context.Context) (io.ReadWriteCloser, error) {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		if len(conns) == 0 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c := conns[0]
		conns = conns[1:]
		return c, nil
	}
}

func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
	}
}

func TestEchoHalfClose(t *testing.T) {
	h, l := link(t, 7)
	go echo(l)
	c, err := h.Dial(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 40<<10) // five windows
	go func() {
		_, _ = c.Write(want)
		_ = c.(*stream).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("echo of %d bytes: got %d bytes, %v", len(want), len(got), err)
	}
}

// TestManyStreams sends random data in random pieces over all streams at once; every stream must deliver its own, in
// order, whatever the interleaving.
func TestManyStreams(t *testing.T) {
	h, l := link(t, 7)
	go echo(l)
	var all sync.WaitGroup
	for i := range MaxStreams {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			want := make([]byte, r.IntN(3*Window))
			for i := range want {
				want[i] = byte(r.Uint32())
			}
			c, err := h.Dial(t.Context(), 7)
			for errors.Is(err, refusedBusy) {
				c, err = h.Dial(t.Context(), 7)
			}
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer c.Close()
			go func() {
				for rest := want; len(rest) > 0; {
					n := min(len(rest), 1+r.IntN(2*MaxPayload))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Errorf("write: %v", err)
						break
					}
					rest = rest[n:]
				}
				_ = c.(*stream).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: %d of %d bytes, %v", i, len(got), len(want), err)
			}
		})
	}
	all.Wait()
}

func TestRefusals(t *testing.T) {
	h, l := link(t, 7)
	if _, err := h.Dial(t.Context(), 8); !errors.Is(err, refusedNoListener) {
		t.Errorf("no listener: %v", err)
	}
	var open []net.Conn
	for range backlog {
		c, err := h.Dial(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := h.Dial(t.Context(), 7); !errors.Is(err, refusedBusy) {
		t.Errorf("full backlog: %v", err)
	}
	l.Close()
	for _, c := range open {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("stream that nobody accepted: %v", err)
		}
	}
}

func TestDeadlines(t *testing.T) {
	h, l := link(t, 7)
	c, err := h.Dial(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Unix(1, 0)
	_ = c.SetReadDeadline(past)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	// Nobody reads at the other end: the window fills, then the deadline has to end the writing.
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Write(make([]byte, 2*Window)); !errors.Is(err, os.ErrDeadlineExceeded) || n != Window {
		t.Errorf("write: %d bytes, %v", n, err)
	}
	// A deadline that was moved away leaves the stream usable.
	_ = c.SetDeadline(time.Time{})
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.CopyN(peer, peer, Window) }()
	if _, err := io.CopyN(io.Discard, c, Window); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsBothSides(t *testing.T) {
	h, l := link(t, 7)
	c, err := h.Dial(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got, err := io.ReadAll(peer); err != nil || string(got) != "last words" {
		t.Errorf("peer read %q, %v", got, err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

// TestHostReconnects lets one host go away and another come: the guest's listener must go on.
func TestHostReconnects(t *testing.T) {
	hostA, guestA := socketPair(t)
	hostB, guestB := socketPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	g := &Guest{Log: slog.New(slog.DiscardHandler), Open: openOnce(guestA, guestB)}
	l, err := g.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ctx) })
	go echo(l)
	defer func() { cancel(); serving.Wait(); l.Close() }()

	for i, end := range []net.Conn{hostA, hostB} {
		h := NewHost(end)
		c, err := h.Dial(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		msg := fmt.Sprintf("host %d", i)
		_, _ = c.Write([]byte(msg))
		got := make([]byte, len(msg))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != msg {
			t.Errorf("%q, %v", got, err)
		}
		h.Close()
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrEnded) {
			t.Errorf("write after the session: %v", err)
		}
	}
}

// port is a byte stream that outlives its users, like a virtio-serial port: closing it only ends its use.
type port struct{ net.Conn }

func (p port) Close() error { return p.SetDeadline(time.Unix(1, 0)) }

// TestHostIsReplacedUnnoticed lets one host take another's place on a byte stream that does not tell: the new one's
// knocking must make the guest begin again.
func TestHostIsReplacedUnnoticed(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	g := &Guest{Log: slog.New(slog.DiscardHandler), Open: func(context.Context) (io.ReadWriteCloser, error) {
		return port{guestEnd}, guestEnd.SetDeadline(time.Time{})
	}}
	l, err := g.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ctx) })
	go echo(l)
	defer func() { cancel(); serving.Wait(); l.Close() }()
	for range 2 {
		if err := hostEnd.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		h := NewHost(port{hostEnd})
		c, err := h.Dial(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		h.Close()
	}
}

func TestHostSkipsStaleBytes(t *testing.T) {
	hostEnd, guestEnd := net.Pipe()
	h := NewHost(hostEnd)
	defer h.Close()
	stale := appendFrame(nil, frame{stream: 9, kind: frameData, payload: []byte("nacremuxnacre")})
	hello := appendFrame(nil, helloFrame(5))
	if _, err := guestEnd.Write(append(append(stale, hello[:10]...), hello...)); err != nil {
		t.Fatal(err)
	}
	if f, err := readFrame(guestEnd, make([]byte, MaxPayload)); err != nil || !bytes.Equal(appendFrame(nil, f), hello) {
		t.Fatalf("host answered %v, %v", f.kind, err)
	}
	if err := h.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAttackHostFrames plays a hostile host: each sequence must end the session with a violation, never a panic.
func TestAttackHostFrames(t *testing.T) {
	open := func(id, port uint32) frame { return u32Frame(id, frameOpen, port) }
	data := func(id uint32, n int) frame { return frame{stream: id, kind: frameData, payload: make([]byte, n)} }
	flood := []frame{open(1, 7)}
	for range Window/MaxPayload + 1 {
		flood = append(flood, data(1, MaxPayload))
	}
	for name, frames := range map[string][]frame{
		"data before open":        {data(1, 1)},
		"stream id goes back":     {open(5, 7), open(4, 7)},
		"stream id twice":         {open(5, 7), open(5, 7)},
		"window exceeded":         flood,
		"window opened too far":   {open(1, 7), u32Frame(1, frameWindow, 1)},
		"window of nothing":       {open(1, 7), u32Frame(1, frameWindow, 0)},
		"data after close-write":  {open(1, 7), {stream: 1, kind: frameCloseWrite}, data(1, 1)},
		"close-write twice":       {open(1, 7), {stream: 1, kind: frameCloseWrite}, {stream: 1, kind: frameCloseWrite}},
		"accept from the host":    {open(1, 7), {stream: 1, kind: frameAccept}},
		"other version":           {{kind: frameHello, payload: append([]byte(helloMagic), make([]byte, 12)...)}},
		"payload too long":        {open(1, 7), data(1, MaxPayload+1)},
		"empty data":              {open(1, 7), data(1, 0)},
		"unknown type":            {open(1, 7), {stream: 1, kind: 99}},
		"stream zero":             {open(0, 7)},
		"open with a long number": {{stream: 1, kind: frameOpen, payload: make([]byte, 8)}},
	} {
		t.Run(name, func(t *testing.T) {
			hostEnd, guestEnd := socketPair(t)
			g := &Guest{Log: slog.New(slog.DiscardHandler)}
			if _, err := g.Listen(7); err != nil {
				t.Fatal(err)
			}
			go func() {
				wire := appendFrame(nil, helloFrame(knocking))
				f, err := readFrame(hostEnd, make([]byte, MaxPayload))
				if err != nil {
					return
				}
				if frames[0].kind != frameHello {
					wire = appendFrame(wire, f) // the answer
				}
				for _, f := range frames {
					wire = appendFrame(wire, f)
				}
				_, _ = hostEnd.Write(wire)
				_ = hostEnd.(*net.UnixConn).CloseWrite() // a guest that minds nothing of it hears no more
				_, _ = io.Copy(io.Discard, hostEnd)
			}()
			if err := g.serve(t.Context(), guestEnd); !errors.Is(err, ErrProtocol) {
				t.Errorf("session ended with %v", err)
			}
		})
	}
}

// TestAttackGuestFrames plays a hostile guest against the host.
func TestAttackGuestFrames(t *testing.T) {
	for name, frames := range map[string][]frame{
		"other version":         {{kind: frameHello, payload: append([]byte(helloMagic), make([]byte, 12)...)}},
		"guest opens a stream":  {helloFrame(5), u32Frame(1, frameOpen, 7)},
		"data before accept":    {helloFrame(5), {stream: 1, kind: frameData, payload: []byte("x")}},
		"stream never opened":   {helloFrame(5), {stream: 2, kind: frameAccept}},
		"accepted twice":        {helloFrame(5), {stream: 1, kind: frameAccept}, {stream: 1, kind: frameAccept}},
		"hello after the hello": {helloFrame(5), helloFrame(6)},
	} {
		t.Run(name, func(t *testing.T) {
			hostEnd, guestEnd := socketPair(t)
			h := NewHost(hostEnd)
			defer h.Close()
			dialed := make(chan struct{})
			go func() {
				defer close(dialed)
				if c, err := h.Dial(t.Context(), 7); err == nil {
					<-h.Done() // an answer for a stream that was closed would be ignored
					c.Close()
				}
			}()
			_, _ = guestEnd.Write(appendFrame(nil, frames[0]))
			if len(frames) > 1 { // let the host open stream 1 first
				buf := make([]byte, MaxPayload)
				for range 2 {
					if _, err := readFrame(guestEnd, buf); err != nil {
						t.Fatal(err)
					}
				}
				for _, f := range frames[1:] {
					_, _ = guestEnd.Write(appendFrame(nil, f))
				}
			}
			_ = guestEnd.(*net.UnixConn).CloseWrite() // a host that minds nothing of it hears no more
			<-h.Done()
			<-dialed
			if err := h.Err(); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrEnded) {
				t.Errorf("session ended with %v", err)
			}
		})
	}
}

// TestAttackHostNeverReads opens streams without end and reads no answer: the guest must give the session up rather
// than queue answers without end.
func TestAttackHostNeverReads(t *testing.T) {
	hostEnd, guestEnd := net.Pipe()
	g := &Guest{Log: slog.New(slog.DiscardHandler)}
	ended := make(chan error, 1)
	go func() { ended <- g.serve(context.Background(), guestEnd) }()
	hello, err := readFrame(hostEnd, make([]byte, MaxPayload))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = hostEnd.Write(appendFrame(nil, hello))
	for id := uint32(1); ; id++ {
		if _, err := hostEnd.Write(appendFrame(nil, u32Frame(id, frameOpen, 1))); err != nil {
			break
		}
	}
	if err := <-ended; !errors.Is(err, ErrProtocol) {
		t.Errorf("session ended with %v", err)
	}
}

func TestFindPort(t *testing.T) {
	root := t.TempDir()
	ports, dev := filepath.Join(root, "ports"), filepath.Join(root, "dev")
	port := func(node, name string) {
		_ = os.MkdirAll(filepath.Join(ports, node), 0o755)
		_ = os.MkdirAll(dev, 0o755)
		_ = os.WriteFile(filepath.Join(ports, node, "name"), []byte(name), 0o644)
		_ = os.WriteFile(filepath.Join(dev, node), nil, 0o644)
	}
	if got, err := findPort(ports, dev, PortName); got != "" || err != nil {
		t.Errorf("no directory: %q, %v", got, err)
	}
	port("vport1p1", "org.qemu.guest_agent.0\n")
	port("vport1p2", strings.Repeat("x", 1000))
	port("vport1p3", PortName+"\n")
	if got, err := findPort(ports, dev, PortName); got != filepath.Join(dev, "vport1p3") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	port("vport1p4", PortName+"\n")
	if got, err := findPort(ports, dev, PortName); err == nil {
		t.Errorf("two ports of one name: %q", got)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, helloFrame(1)))
	f.Add(appendFrame(nil, u32Frame(1, frameOpen, 1024)))
	f.Add(appendFrame(nil, frame{stream: 3, kind: frameData, payload: []byte("data")}))
	buf := make([]byte, MaxPayload)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFrame(bytes.NewReader(b), buf)
		if err != nil {
			return
		}
		if again := appendFrame(nil, got); !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%x reads as %+v and writes as %x", b, got, again)
		}
	})
}

// FuzzSession feeds a guest session arbitrary bytes after the hello: it must end, and must not panic.
func FuzzSession(f *testing.F) {
	opened := appendFrame(nil, u32Frame(1, frameOpen, 7))
	f.Add(appendFrame(opened, frame{stream: 1, kind: frameData, payload: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &Guest{Log: slog.New(slog.DiscardHandler)}
		l, _ := g.Listen(7)
		go echo(l)
		defer l.Close()
		if err := g.serve(t.Context(), &script{rest: b}); err == nil {
			t.Error("the session did not end")
		}
	})
}

// script is a host that answers the guest's hello and goes on with what was written before.
type script struct {
	mu    sync.Mutex
	rest  []byte
	heard bool
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.heard {
		s.heard, s.rest = true, append(bytes.Clone(p), s.rest...)
	}
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *script) Close() error { return nil }

func BenchmarkThroughput(b *testing.B) {
	h, l := link(b, 7)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, c)
		}
	}()
	c, err := h.Dial(b.Context(), 7)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}
