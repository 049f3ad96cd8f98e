// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/test/conformance/suite"
	wire "github.com/nacre-project/nacre/test/conformance/ttrpcwire"
)

// service is a ttrpc server, and a call that it answers quickly.
type service struct {
	name   string // first part of the cases' names
	socket string // "" when there is none to ask
	flag   string // that names the socket
	probe  wire.Request
	slow   wire.Request // one that takes it a while; none, when the method is ""
}

// dial connects, or ends the case.
func (s service) dial(ctx context.Context, p *suite.Probe) *wire.Conn {
	if s.socket == "" {
		p.Skipf("no socket to ask (%s)", s.flag)
	}
	conn, err := wire.Dial(ctx, s.socket)
	if err != nil {
		p.Fatalf("%v", err)
	}
	return conn
}

// call makes one call on a connection of its own.
func (s service) call(ctx context.Context, p *suite.Probe, r wire.Request) wire.Response {
	conn := s.dial(ctx, p)
	defer conn.Close()
	answer, err := conn.Call(r)
	if err != nil {
		p.Fatalf("%s/%s: %v", r.Service, r.Method, err)
	}
	return answer
}

// alive demands that the server still answers, on a new connection.
func (s service) alive(ctx context.Context, p *suite.Probe) {
	conn := s.dial(ctx, p)
	defer conn.Close()
	if _, err := conn.Call(s.probe); err != nil {
		p.Failf("afterwards: %v", err)
	}
}

// notSupported checks how a method that is not there is refused (guest-components §0.1, §10.2).
func notSupported(p *suite.Probe, r wire.Request, answer wire.Response) {
	p.Check(answer.Code == wire.NotFound, "%s/%s: code %d %q, want %d (NOT_FOUND)", r.Service, r.Method, answer.Code,
		answer.Message, wire.NotFound)
	want := fmt.Sprintf("/%s/%s is not supported", r.Service, r.Method)
	p.Check(strings.Contains(answer.Message, want), "message %q, want %q", answer.Message, want)
}

const patience = 5 * time.Second

// transportCases are what every ttrpc server has to stand.
func (s service) transportCases() []suite.Case {
	with := func(run func(context.Context, *suite.Probe, *wire.Conn)) func(context.Context, *suite.Probe) {
		return func(ctx context.Context, p *suite.Probe) {
			conn := s.dial(ctx, p)
			defer conn.Close()
			if err := conn.SetTimeout(patience); err != nil {
				p.Fatalf("%v", err)
			}
			run(ctx, p, conn)
		}
	}
	request := func(id uint32) []byte {
		return wire.Frame{Stream: id, Type: wire.TypeRequest, Payload: s.probe.Bytes()}.Bytes()
	}
	const ref = "guest-components §0.1"
	return []suite.Case{
		{Name: s.name + "/frame", Ref: ref, Level: suite.Must,
			Want: "the answer is a frame of type 2 on the request's stream, without flags",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				if err := conn.Write(request(1)); err != nil {
					p.Fatalf("%v", err)
				}
				f, err := conn.Read()
				if err != nil {
					p.Fatalf("%v", err)
				}
				p.Check(f.Stream == 1 && f.Type == wire.TypeResponse && f.Flags == 0, "stream %d, type %d, flags %d", f.Stream,
					f.Type, f.Flags)
				if _, err := wire.ParseResponse(f.Payload); err != nil {
					p.Failf("%v", err)
				}
			})},
		{Name: s.name + "/one-connection", Ref: ref, Level: suite.Must,
			Want: "a connection serves one call after the other, also after one that failed",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				for i := range 6 {
					r := s.probe
					if i%2 == 1 {
						r.Method = "NoSuchMethod"
					}
					if _, err := conn.Call(r); err != nil {
						p.Fatalf("call %d: %v", i+1, err)
					}
				}
			})},
		{Name: s.name + "/concurrent", Ref: "guest-components §10.2", Level: suite.Must,
			Want: "streams of one connection are served at the same time; each gets its own answer",
			Run: with(func(ctx context.Context, p *suite.Probe, conn *wire.Conn) {
				s.together(ctx, p, conn, slices.Collect(odd(1, 33)))
			})},
		{Name: s.name + "/stream-ids", Ref: "guest-components §10.2", Level: suite.Must,
			Want: "any odd stream ids are accepted: with gaps, large, and in the order in which several senders happen to come",
			Run: with(func(ctx context.Context, p *suite.Probe, conn *wire.Conn) {
				s.together(ctx, p, conn, []uint32{5, 1, 3, 101, 0x7FFFFFFF, 99, 0xFFFFFFFF})
			})},
		{Name: s.name + "/stream-even", Ref: ref, Level: suite.Should,
			Want: "an even stream id, which is a server's, is refused on its stream, and the connection goes on",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				if err := conn.Write(request(2)); err != nil {
					p.Fatalf("%v", err)
				}
				f, err := conn.Read()
				if err != nil {
					p.Fatalf("%v", err)
				}
				r, err := wire.ParseResponse(f.Payload)
				p.Check(err == nil && f.Stream == 2 && r.Code == wire.InvalidArgument, "stream %d: code %d %q, %v", f.Stream,
					r.Code, r.Message, err)
				if _, err := conn.Call(s.probe); err != nil {
					p.Failf("afterwards: %v", err)
				}
			})},
		{Name: s.name + "/method-unknown", Ref: "guest-components §0.1, §10.2", Level: suite.Must,
			Want: "a method that is not there is NOT_FOUND, \"/<package.Service>/<Method> is not supported\"",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				for _, method := range []string{"NoSuchMethod", "", strings.ToLower(s.probe.Method), "a/b"} {
					r := wire.Request{Service: s.probe.Service, Method: method}
					answer, err := conn.Call(r)
					if err != nil {
						p.Fatalf("%q: %v", method, err)
					}
					notSupported(p, r, answer)
				}
			})},
		{Name: s.name + "/service-unknown", Ref: "guest-components §0.1, §10.2", Level: suite.Must,
			Want: "a service that is not there is NOT_FOUND likewise",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				for _, name := range []string{"no.such.Service", "", "/" + s.probe.Service, "grpc.reflection.v1.ServerReflection"} {
					r := wire.Request{Service: name, Method: s.probe.Method}
					answer, err := conn.Call(r)
					if err != nil {
						p.Fatalf("%q: %v", name, err)
					}
					notSupported(p, r, answer)
				}
			})},
		{Name: s.name + "/message-4-MiB", Ref: "guest-components §0.1, §10.2", Level: suite.Must,
			Want: "a message of exactly 4 MiB is read",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				r := wire.Request{Service: s.probe.Service, Method: "NoSuchMethod"}
				r.Payload = make([]byte, wire.MaxMessage-len(r.Bytes())-5) // a tag, and four bytes of length
				if n := len(r.Bytes()); n != wire.MaxMessage {
					p.Fatalf("the suite made a message of %d bytes", n)
				}
				answer, err := conn.Call(r)
				if err != nil {
					p.Fatalf("%v", err)
				}
				p.Check(answer.Code != wire.ResourceExhausted && answer.Code != wire.InvalidArgument, "code %d %q", answer.Code,
					answer.Message)
			})},
		{Name: s.name + "/message-too-long", Ref: "guest-components §0.1", Level: suite.Must,
			Want: "a longer message is refused: RESOURCE_EXHAUSTED on its stream, or the end of the connection; the server goes on",
			Run: with(func(ctx context.Context, p *suite.Probe, conn *wire.Conn) {
				f := wire.Frame{Stream: 1, Type: wire.TypeRequest, Payload: make([]byte, wire.MaxMessage+1)}
				if err := conn.Write(f.Bytes()); err == nil {
					if answer, err := conn.Read(); err == nil {
						r, err := wire.ParseResponse(answer.Payload)
						p.Check(err == nil && answer.Stream == 1 && (r.Code == wire.ResourceExhausted || r.Code == wire.InvalidArgument),
							"stream %d: code %d %q, %v", answer.Stream, r.Code, r.Message, err)
					}
				}
				s.alive(ctx, p)
			})},
		{Name: s.name + "/message-announced", Ref: ref, Level: suite.Must,
			Want: "a message that announces 4 GiB and does not come costs the server nothing",
			Run: with(func(ctx context.Context, p *suite.Probe, conn *wire.Conn) {
				f := wire.Frame{Stream: 1, Type: wire.TypeRequest, Payload: []byte("x")}
				if err := conn.Write(f.WithLength(0xFFFFFFFF)); err != nil {
					p.Fatalf("%v", err)
				}
				s.alive(ctx, p)
			})},
		{Name: s.name + "/request-malformed", Ref: ref, Level: suite.Must,
			Want: "a request that is no Request is refused on its stream, or the connection ends; the server goes on",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, payload := range [][]byte{{0xFF}, {0x0A, 0x7F, 'x'}, {}, []byte("GET / HTTP/1.1\r\n\r\n")} {
					conn := s.dial(ctx, p)
					if err := conn.SetTimeout(patience); err != nil {
						p.Failf("%v", err)
					}
					err := conn.Write(wire.Frame{Stream: 1, Type: wire.TypeRequest, Payload: payload}.Bytes())
					if err != nil {
						p.Failf("%v", err)
					}
					if f, err := conn.Read(); err == nil {
						r, err := wire.ParseResponse(f.Payload)
						p.Check(err == nil && r.Code != wire.OK, "%x: code %d, %v", payload, r.Code, err)
					} else {
						p.Check(!isTimeout(err), "%x: no answer: %v", payload, err)
					}
					conn.Close()
					s.alive(ctx, p)
				}
			}},
		{Name: s.name + "/payload-malformed", Ref: ref, Level: suite.Must,
			Want: "a call whose message is no protocol buffer fails, and the connection goes on",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				r := s.probe
				r.Payload = []byte{0xFF, 0xFF}
				answer, err := conn.Call(r)
				if err != nil {
					p.Fatalf("%v", err)
				}
				p.Check(answer.Code != wire.OK, "it succeeded")
				if _, err := conn.Call(s.probe); err != nil {
					p.Failf("afterwards: %v", err)
				}
			})},
		{Name: s.name + "/unknown-fields", Ref: "proto3, unknown fields", Level: suite.Must,
			Want: "fields that are not known, metadata and a time-out change nothing",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				plain, err := conn.Call(s.probe)
				if err != nil {
					p.Fatalf("%v", err)
				}
				r := s.probe
				r.Payload = wire.AppendString(slices.Clone(r.Payload), 999, "future")
				r.Extra = wire.AppendVarint(nil, 998, 1)
				r.Metadata = map[string]string{"traceparent": "00-0-0-00"}
				r.Timeout = patience
				answer, err := conn.Call(r)
				if err != nil {
					p.Fatalf("%v", err)
				}
				p.Check(answer.Code == plain.Code, "code %d %q, without them %d", answer.Code, answer.Message, plain.Code)
			})},
		{Name: s.name + "/frame-types", Ref: ref, Level: suite.Should,
			Want: "frames of types that are not known, and data for streams that are not open, do no harm",
			Run: with(func(_ context.Context, p *suite.Probe, conn *wire.Conn) {
				const cut = "who sends what no client sends is cut off: %v"
				for _, f := range []wire.Frame{{Stream: 1, Type: 9, Payload: []byte("x")}, {Stream: 1, Type: 0},
					{Stream: 3, Type: wire.TypeData, Payload: []byte("x")}, {Stream: 3, Type: wire.TypeResponse}} {
					if err := conn.Write(f.Bytes()); err != nil {
						p.Differsf(cut, err)
						return
					}
				}
				if err := conn.Write(request(5)); err != nil {
					p.Differsf(cut, err)
					return
				}
				for { // the answer, perhaps after refusals of the others
					f, err := conn.Read()
					if err != nil && !isTimeout(err) {
						p.Differsf(cut, err)
						return
					} else if err != nil {
						p.Fatalf("%v", err)
					}
					if f.Stream == 5 {
						return
					}
				}
			})},
		{Name: s.name + "/data-for-a-call", Ref: ref, Level: suite.Must,
			Want: "data for a call that is under way, which takes none, does no harm",
			Run: func(ctx context.Context, p *suite.Probe) {
				slow := s.probe
				if s.slow.Method != "" {
					slow = s.slow
				}
				for range 8 {
					conn := s.dial(ctx, p)
					all := wire.Frame{Stream: 1, Type: wire.TypeRequest, Payload: slow.Bytes()}.Bytes()
					all = append(all, wire.Frame{Stream: 1, Type: wire.TypeData, Payload: []byte{8, 1}}.Bytes()...)
					if err := conn.Write(all); err != nil {
						p.Failf("%v", err)
					}
					if err := conn.SetTimeout(patience); err != nil {
						p.Failf("%v", err)
					}
					_, _ = conn.Read() // an answer, a refusal, or the end
					conn.Close()
				}
				s.alive(ctx, p)
			}},
		{Name: s.name + "/cut", Ref: ref, Level: suite.Must,
			Want: "a peer that hangs up in the middle of a frame does no harm",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, n := range []int{1, 9, 10, 11} {
					conn := s.dial(ctx, p)
					if err := conn.Write(request(1)[:n]); err != nil {
						p.Failf("%v", err)
					}
					conn.Close()
				}
				s.alive(ctx, p)
			}},
		{Name: s.name + "/many-connections", Ref: ref, Level: suite.Should,
			Want: "several clients are served at the same time",
			Run: func(ctx context.Context, p *suite.Probe) {
				var idle []*wire.Conn
				for range 16 {
					idle = append(idle, s.dial(ctx, p))
				}
				s.alive(ctx, p)
				for _, conn := range idle {
					if _, err := conn.Call(s.probe); err != nil {
						p.Failf("%v", err)
					}
					conn.Close()
				}
			}},
	}
}

// odd are the odd numbers from one to another.
func odd(from, to uint32) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for id := from; id <= to; id += 2 {
			if !yield(id) {
				return
			}
		}
	}
}

// together sends the probe on all streams at once, and demands on each the code that it has alone.
func (s service) together(ctx context.Context, p *suite.Probe, conn *wire.Conn, ids []uint32) {
	alone := s.call(ctx, p, s.probe)
	var all []byte
	for _, id := range ids {
		all = append(all, wire.Frame{Stream: id, Type: wire.TypeRequest, Payload: s.probe.Bytes()}.Bytes()...)
	}
	if err := conn.Write(all); err != nil {
		p.Fatalf("%v", err)
	}
	open := map[uint32]bool{}
	for _, id := range ids {
		open[id] = true
	}
	for len(open) > 0 {
		f, err := conn.Read()
		if err != nil {
			p.Fatalf("%d streams have no answer: %v", len(open), err)
		}
		p.Check(open[f.Stream], "an answer on stream %d, which is not open", f.Stream)
		delete(open, f.Stream)
		r, err := wire.ParseResponse(f.Payload)
		if err != nil {
			p.Fatalf("stream %d: %v", f.Stream, err)
		}
		p.Check(r.Code == alone.Code && !strings.Contains(r.Message, "StreamID"), "stream %d: code %d %q", f.Stream, r.Code, r.Message)
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
