// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
)

// ttrpcFrame is one frame of ttrpc's protocol.
func ttrpcFrame(stream uint32, kind uint8, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, 0), payload...)
}

// waiting is a request that the agent keeps until its container ends.
func waiting(t testing.TB) []byte {
	t.Helper()
	payload, err := proto.Marshal(&agent.WaitProcessRequest{ContainerId: "c"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&ttrpc.Request{Service: "grpc.AgentService", Method: "WaitProcess", Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAttackFrames sends a served agent frames that would make the ttrpc library fail, or hold without end. The
// connection must end, and the agent must go on answering others.
func TestAttackFrames(t *testing.T) {
	a := New(Config{Gate: newGate(t, denyAll+"WaitProcessRequest := true\n"), Log: slog.New(slog.DiscardHandler)})
	// A container whose end never comes.
	endless := map[string]*process{"c": {exited: make(chan struct{})}}
	a.containers["c"] = &container{id: "c", state: stateRunning, processes: endless}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { _ = a.Serve(t.Context(), l) }()
	request := waiting(t)
	var flood []byte
	for i := range maxInFlight + 1 {
		flood = append(flood, ttrpcFrame(uint32(2*i+1), frameRequest, request)...)
	}
	var heavy []byte
	for i := range maxInFlightSize/maxFrame + 1 {
		full := append(bytes.Clone(request), large(maxFrame-len(request))...)
		heavy = append(heavy, ttrpcFrame(uint32(2*i+1), frameRequest, full)...)
	}
	for name, sent := range map[string][]byte{
		"data on a unary call": append(ttrpcFrame(1, frameRequest, request), ttrpcFrame(1, 3, []byte("x"))...),
		"response":             ttrpcFrame(1, frameResponse, nil),
		"unknown type":         ttrpcFrame(1, 77, nil),
		"too long":             {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, frameRequest, 0},
		"too many requests":    flood,
		"too heavy requests":   heavy,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = c.Write(sent) }()
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // for an agent that lets it go on
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection goes on")
			}
			c.Close()
			other, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			client := ttrpc.NewClient(other)
			if _, err := agent.NewHealthClient(client).Check(t.Context(), &agent.CheckRequest{}); err != nil {
				t.Errorf("the agent no longer answers: %v", err)
			}
			client.Close()
		})
	}
}

// large is an unknown field of about n bytes that ends a message.
func large(n int) []byte {
	b := binary.AppendUvarint([]byte{0xfa, 0x07}, uint64(n-8)) // field 127, length-delimited
	return append(b, make([]byte, n-8)...)
}

// FuzzFollow splits a stream of frames at random places: the headers found must not depend on it.
func FuzzFollow(f *testing.F) {
	f.Add(append(ttrpcFrame(1, frameRequest, []byte("abc")), ttrpcFrame(3, frameRequest, nil)...), uint8(4))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		find := func(step int) (headers [][3]uint32) {
			var fl follower
			for rest := b; len(rest) > 0; {
				n := min(step, len(rest))
				_ = fl.follow(rest[:n], func(length, stream uint32, kind uint8) error {
					headers = append(headers, [3]uint32{length, stream, uint32(kind)})
					return nil
				})
				rest = rest[n:]
			}
			return headers
		}
		whole, pieces := find(len(b)+1), find(int(step)+1)
		if len(whole) != len(pieces) {
			t.Fatalf("%v and %v", whole, pieces)
		}
		for i := range whole {
			if whole[i] != pieces[i] {
				t.Errorf("%v and %v", whole, pieces)
			}
		}
	})
}

// lateListener is a listener whose connections write late, and which notices being closed before they have.
type lateListener struct {
	net.Listener
	t             *testing.T
	closed, wrote chan struct{}
	close, write  sync.Once
}

func (l *lateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lateConn{c, l}, nil
}

func (l *lateListener) Close() error {
	l.close.Do(func() {
		select {
		case <-l.wrote:
		default:
			l.t.Error("the server shuts down before its answer is written")
		}
		close(l.closed)
	})
	return l.Listener.Close()
}

type lateConn struct {
	net.Conn
	listener *lateListener
}

func (c *lateConn) Write(p []byte) (int, error) {
	select {
	case <-c.listener.closed:
	case <-time.After(100 * time.Millisecond): // what a server that waits costs the test
	}
	n, err := c.Conn.Write(p)
	c.listener.write.Do(func() { close(c.listener.wrote) })
	return n, err
}

// TestAttackLastAnswer holds the answer to the request that ends the guest back: the agent must not end before it.
func TestAttackLastAnswer(t *testing.T) {
	a := New(Config{Gate: newGate(t, denyAll+"DestroySandboxRequest := true\n"), Log: slog.New(slog.DiscardHandler)})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lateListener{Listener: inner, t: t, closed: make(chan struct{}), wrote: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(t.Context(), l) }()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	end := agent.NewAgentServiceClient(client).DestroySandbox
	if _, err := end(t.Context(), &agent.DestroySandboxRequest{}); err != nil {
		t.Errorf("no answer: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
