// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"log/slog"
	"testing"
)

// TestAttackManyStreams is a host that opens streams without end, and closes none: each holds memory of the guest.
func TestAttackManyStreams(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	g := &Guest{Log: slog.New(slog.DiscardHandler)}
	l, err := g.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.serve(ctx, guestEnd)
	}()
	defer func() { cancel(); <-served; l.Close() }()
	buf := make([]byte, MaxPayload)
	hello, err := readFrame(hostEnd, buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = hostEnd.Write(appendFrame(nil, hello)) // the answer
	for id := uint32(1); id <= MaxStreams+1; id++ {
		_, _ = hostEnd.Write(appendFrame(nil, u32Frame(id, frameOpen, 7)))
		f, err := readFrame(hostEnd, buf)
		if err != nil || f.stream != id {
			t.Fatalf("answer %v for stream %d, want %d: %v", f.kind, f.stream, id, err)
		}
		switch {
		case id <= MaxStreams && f.kind == frameAccept:
			if _, err := l.Accept(); err != nil {
				t.Fatal(err)
			}
		case id > MaxStreams && f.kind == frameRefuse && refusal(f.u32()) == refusedFull:
		default:
			t.Errorf("stream %d: %v", id, f.kind)
		}
	}
}
