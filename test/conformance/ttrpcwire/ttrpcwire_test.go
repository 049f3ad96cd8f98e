// SPDX-License-Identifier: Apache-2.0

package ttrpcwire

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What is written by hand here is understood by the library that most programs use, and the other way round.
func TestAgainstTheLibrary(t *testing.T) {
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService("test.Service", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Echo": func(ctx context.Context, decode func(any) error) (any, error) {
			var in wrapperspb.StringValue
			if err := decode(&in); err != nil {
				return nil, err
			}
			if md, ok := ttrpc.GetMetadataValue(ctx, "key"); ok {
				in.Value += md
			}
			if in.GetValue() == "" {
				return nil, status.Error(codes.FailedPrecondition, "nothing to echo")
			}
			return &in, nil
		},
	}})
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close(); <-served })

	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo := func(text string) Request {
		return Request{Service: "test.Service", Method: "Echo", Payload: AppendString(nil, 1, text), Timeout: time.Minute}
	}
	r, err := conn.Call(echo("hello"))
	if err != nil || r.Code != OK || !bytes.Equal(r.Payload, AppendString(nil, 1, "hello")) {
		t.Errorf("%+v, %v", r, err)
	}
	with := echo("hello ")
	with.Metadata, with.Extra = map[string]string{"key": "value"}, AppendVarint(nil, 999, 1)
	if r, err = conn.Call(with); err != nil || !bytes.Equal(r.Payload, AppendString(nil, 1, "hello value")) {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = conn.Call(echo("")); err != nil || r.Code != FailedPrecondition || r.Message != "nothing to echo" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestFieldsOfGarbage(t *testing.T) {
	for _, message := range [][]byte{{0xFF}, {0x0A, 5, 1}, {0x08}, {0x0B}} {
		if f, err := Fields(message); err == nil {
			t.Errorf("%x: %+v", message, f)
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendBytes(AppendBytes(nil, 1, AppendString(AppendVarint(nil, 1, 5), 2, "text")), 2, []byte("payload")))
	f.Fuzz(func(_ *testing.T, message []byte) { _, _ = ParseResponse(message) })
}
