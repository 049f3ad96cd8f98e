// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	wire "github.com/nacre-project/nacre/test/conformance/ttrpcwire"
)

// server serves "test.Service": Wait ends when it is let, Panic does what it says, Later is
// not implemented, Call answers.
func server(t *testing.T, let chan struct{}) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(decode func(any) error) (any, error) { return &emptypb.Empty{}, decode(&emptypb.Empty{}) }
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, func(s *ttrpc.Server) {
			s.RegisterService("test.Service", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
				"Call": func(_ context.Context, decode func(any) error) (any, error) { return nothing(decode) },
				"Wait": func(ctx context.Context, decode func(any) error) (any, error) {
					select {
					case <-let:
					case <-ctx.Done():
					}
					return nothing(decode)
				},
				"Later": func(context.Context, func(any) error) (any, error) {
					return nil, status.Error(codes.Unimplemented, "not yet")
				},
				"Panic": func(context.Context, func(any) error) (any, error) { panic("on foreign input") },
			}})
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return path
}

func dial(t *testing.T, path string) *wire.Conn {
	t.Helper()
	conn, err := wire.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func request(stream uint32, method string) wire.Frame {
	return wire.Frame{Stream: stream, Type: wire.TypeRequest,
		Payload: wire.Request{Service: "test.Service", Method: method}.Bytes()}
}

// read reads an answer.
func read(t *testing.T, conn *wire.Conn) (uint32, wire.Response) {
	t.Helper()
	f, err := conn.Read()
	if err != nil {
		t.Fatal(err)
	}
	r, err := wire.ParseResponse(f.Payload)
	if err != nil || f.Type != wire.TypeResponse {
		t.Fatalf("type %d, %v", f.Type, err)
	}
	return f.Stream, r
}

func send(t *testing.T, conn *wire.Conn, frames ...wire.Frame) {
	t.Helper()
	for _, f := range frames {
		if err := conn.Write(f.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStreamsInAnyOrder(t *testing.T) {
	conn := dial(t, server(t, nil))
	for range 3 { // the same ids again, once they are free
		ids := map[uint32]bool{7: true, 1: true, 0xFFFFFFFF: true, 5: true}
		for id := range ids {
			send(t, conn, request(id, "Call"))
		}
		for n := len(ids); n > 0; n-- {
			id, r := read(t, conn)
			if !ids[id] || r.Code != wire.OK {
				t.Errorf("stream %d: %+v", id, r)
			}
			delete(ids, id)
		}
	}
}

func TestStreamInUse(t *testing.T) {
	let := make(chan struct{})
	conn := dial(t, server(t, let))
	send(t, conn, request(3, "Wait"), request(3, "Call"))
	if id, r := read(t, conn); id != 3 || r.Code != wire.InvalidArgument || !strings.Contains(r.Message, "under way") {
		t.Errorf("stream %d: %+v", id, r)
	}
	send(t, conn, request(1, "Call"))
	if id, r := read(t, conn); id != 1 || r.Code != wire.OK {
		t.Errorf("stream %d: %+v", id, r)
	}
	close(let)
	if id, r := read(t, conn); id != 3 || r.Code != wire.OK {
		t.Errorf("stream %d: %+v", id, r)
	}
}

func TestNotSupported(t *testing.T) {
	conn := dial(t, server(t, nil))
	long := strings.Repeat("x", 1<<20)
	for _, tt := range []struct{ service, method, want string }{
		{"test.Service", "None", "/test.Service/None is not supported"},
		{"test.Service", "Later", "/test.Service/Later is not supported"},
		{"none", "Call", "/none/Call is not supported"},
		{"", "", "// is not supported"},
		{long, "Call", "/" + long[:maxName] + "/Call is not supported"},
		{"test.Service", long, "/test.Service/" + long[:maxName] + " is not supported"},
	} {
		r, err := conn.Call(wire.Request{Service: tt.service, Method: tt.method})
		if err != nil || r.Code != wire.NotFound || r.Message != tt.want {
			t.Errorf("%.40s/%.40s: %.600v, %v", tt.service, tt.method, r, err)
		}
	}
	if r, err := conn.Call(wire.Request{Service: "test.Service", Method: "Call"}); err != nil || r.Code != wire.OK {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestEvenStream(t *testing.T) {
	conn := dial(t, server(t, nil))
	send(t, conn, request(1, "Call"))
	if id, r := read(t, conn); id != 1 || r.Code != wire.OK {
		t.Errorf("stream %d: %+v", id, r)
	}
	send(t, conn, request(2, "Call"))
	if id, r := read(t, conn); id != 2 || r.Code != wire.InvalidArgument {
		t.Errorf("stream %d: %+v", id, r)
	}
}

func TestTooLong(t *testing.T) {
	conn := dial(t, server(t, nil))
	send(t, conn, wire.Frame{Stream: 9, Type: wire.TypeRequest, Payload: make([]byte, maxMessage+1)})
	if id, r := read(t, conn); id != 9 || r.Code != wire.ResourceExhausted {
		t.Errorf("stream %d: %+v", id, r)
	}
	if r, err := conn.Call(wire.Request{Service: "test.Service", Method: "Call"}); err != nil || r.Code != wire.OK {
		t.Errorf("%+v, %v", r, err)
	}
}

// Data for a unary call that is under way make the library dereference a stream that the call has not got.
func TestAttackDataForCall(t *testing.T) {
	let := make(chan struct{})
	conn := dial(t, server(t, let))
	send(t, conn, request(1, "Wait"))
	for _, flags := range []byte{0, 1, 4, 5} {
		send(t, conn, wire.Frame{Stream: 1, Type: wire.TypeData, Flags: flags, Payload: []byte{8, 1}})
	}
	send(t, conn, wire.Frame{Stream: 1, Type: wire.TypeResponse}, wire.Frame{Stream: 1, Type: 9, Payload: []byte("x")},
		request(3, "Call"))
	if id, r := read(t, conn); id != 3 || r.Code != wire.OK {
		t.Errorf("stream %d: %+v", id, r)
	}
	close(let)
	if id, r := read(t, conn); id != 1 || r.Code != wire.OK {
		t.Errorf("stream %d: %+v", id, r)
	}
}

// A panic in a handler would end the guest's first process, and with it the guest.
func TestAttackPanicInHandler(t *testing.T) {
	conn := dial(t, server(t, nil))
	for _, want := range []struct {
		method string
		code   int
	}{{"Panic", wire.Internal}, {"Call", wire.OK}} {
		r, err := conn.Call(wire.Request{Service: "test.Service", Method: want.method})
		if err != nil || r.Code != want.code || strings.Contains(r.Message, "foreign") {
			t.Errorf("%s: %+v, %v", want.method, r, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(request(1, "Call").Bytes())
	f.Add(append(request(3, "x").Bytes(), wire.Frame{Stream: 3, Type: 3, Payload: []byte("x")}.Bytes()...))
	f.Add(request(2, "Call").WithLength(maxMessage + 1))
	f.Fuzz(func(t *testing.T, input []byte) {
		peer, ours := net.Pipe()
		go func() {
			_, _ = peer.Write(input)
			peer.Close()
		}()
		defer ours.Close()
		frames := newFrames(ours)
		buffer := make([]byte, 512)
		for {
			if _, err := frames.Read(buffer); err != nil {
				break
			}
		}
		if len(frames.calls) != len(frames.inUse) {
			t.Errorf("%d calls on %d streams", len(frames.calls), len(frames.inUse))
		}
	})
}
