// SPDX-License-Identifier: Apache-2.0

// Package ttrpcwire speaks ttrpc by hand: frames of a ten-byte header (u32 big endian length, u32 big endian stream id,
// type, flags) and a payload, and the two messages of unary calls, Request and Response, field by field. It can send
// what no client sends. It is for tests of servers; it does not use the ttrpc library, nor any generated code.
package ttrpcwire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Types of frames.
const (
	TypeRequest  = 1
	TypeResponse = 2
	TypeData     = 3
)

// MaxMessage is the longest payload of a frame, in bytes.
const MaxMessage = 4 << 20

const headerSize = 10

// Status codes, as gRPC numbers them.
const (
	OK                 = 0
	Unknown            = 2
	InvalidArgument    = 3
	DeadlineExceeded   = 4
	NotFound           = 5
	PermissionDenied   = 7
	ResourceExhausted  = 8
	FailedPrecondition = 9
	Unimplemented      = 12
	Internal           = 13
	Unavailable        = 14
)

// Frame is one message on the wire.
type Frame struct {
	Stream  uint32
	Type    byte
	Flags   byte
	Payload []byte
}

// Bytes are the frame's, with its true length in the header.
func (f Frame) Bytes() []byte { return f.WithLength(uint32(len(f.Payload))) }

// WithLength are the frame's bytes with a length of the caller's choice in the header.
func (f Frame) WithLength(n uint32) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, headerSize+len(f.Payload)), n)
	out = binary.BigEndian.AppendUint32(out, f.Stream)
	return append(append(out, f.Type, f.Flags), f.Payload...)
}

// Request is the message that a call begins with.
type Request struct {
	Service  string // 1: package.Service
	Method   string // 2
	Payload  []byte // 3: the call's message
	Timeout  time.Duration
	Metadata map[string]string // 5: KeyValue{1 key, 2 value}
	Extra    []byte            // appended as it is: fields that nobody knows
}

// Bytes encodes the message.
func (r Request) Bytes() []byte {
	var out []byte
	out = AppendString(out, 1, r.Service)
	out = AppendString(out, 2, r.Method)
	out = AppendBytes(out, 3, r.Payload)
	if r.Timeout != 0 {
		out = AppendVarint(out, 4, uint64(r.Timeout.Nanoseconds()))
	}
	for key, value := range r.Metadata {
		out = AppendBytes(out, 5, AppendString(AppendString(nil, 1, key), 2, value))
	}
	return append(out, r.Extra...)
}

// AppendString appends a field of a string; an empty one is left out, as in proto3.
func AppendString(out []byte, number protowire.Number, value string) []byte {
	return AppendBytes(out, number, []byte(value))
}

// AppendBytes appends a field of bytes, or of a message; an empty one is left out.
func AppendBytes(out []byte, number protowire.Number, value []byte) []byte {
	if len(value) == 0 {
		return out
	}
	return protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), value)
}

// AppendVarint appends a field of an integer.
func AppendVarint(out []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(out, number, protowire.VarintType), value)
}

// Field is a field of a message: Bytes for strings, bytes and messages, Varint for integers.
type Field struct {
	Number protowire.Number
	Type   protowire.Type
	Bytes  []byte
	Varint uint64
}

// Fields takes a message apart.
func Fields(message []byte) ([]Field, error) {
	var fields []Field
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, fmt.Errorf("not a protocol buffer: %w", protowire.ParseError(n))
		}
		message = message[n:]
		f := Field{Number: number, Type: kind}
		switch kind {
		case protowire.BytesType:
			f.Bytes, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			f.Varint, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return nil, fmt.Errorf("not a protocol buffer: field %d: %w", number, protowire.ParseError(n))
		}
		message = message[n:]
		fields = append(fields, f)
	}
	return fields, nil
}

// Text is the last field of a number as text; found says whether there is one.
func Text(fields []Field, number protowire.Number) (value string, found bool) {
	for _, f := range fields {
		if f.Number == number && f.Type == protowire.BytesType {
			value, found = string(f.Bytes), true
		}
	}
	return value, found
}

// Number is the last field of a number as an integer; 0 when there is none.
func Number(fields []Field, number protowire.Number) (value uint64) {
	for _, f := range fields {
		if f.Number == number && f.Type == protowire.VarintType {
			value = f.Varint
		}
	}
	return value
}

// Response is the message that a call ends with.
type Response struct {
	Code    int    // of Status, google.rpc.Status{1 code, 2 message}
	Message string // of Status
	Payload []byte
}

// ParseResponse reads a Response.
func ParseResponse(message []byte) (Response, error) {
	fields, err := Fields(message)
	if err != nil {
		return Response{}, err
	}
	var r Response
	for _, f := range fields {
		switch {
		case f.Number == 1 && f.Type == protowire.BytesType:
			status, err := Fields(f.Bytes)
			if err != nil {
				return Response{}, fmt.Errorf("status: %w", err)
			}
			r.Code = int(int32(Number(status, 1)))
			r.Message, _ = Text(status, 2)
		case f.Number == 2 && f.Type == protowire.BytesType:
			r.Payload = f.Bytes
		}
	}
	return r, nil
}

// Conn is a connection to a server.
type Conn struct {
	conn net.Conn
	next uint32
}

// Dial connects to a Unix socket. Reads and writes end with the context's deadline.
func Dial(ctx context.Context, path string) (*Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return &Conn{conn: conn, next: 1}, nil
}

// Close closes the connection.
func (c *Conn) Close() { c.conn.Close() }

// SetTimeout ends reads and writes a while from now, whatever the context's deadline.
func (c *Conn) SetTimeout(d time.Duration) error { return c.conn.SetDeadline(time.Now().Add(d)) }

// Write writes bytes as they are.
func (c *Conn) Write(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}

// Read reads one frame.
func (c *Conn) Read() (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.conn, header[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n > MaxMessage {
		return Frame{}, fmt.Errorf("a frame of %d bytes, at most %d are allowed", n, MaxMessage)
	}
	f := Frame{Stream: binary.BigEndian.Uint32(header[4:]), Type: header[8], Flags: header[9], Payload: make([]byte, n)}
	_, err := io.ReadFull(c.conn, f.Payload)
	return f, err
}

// errFrame is an answer that is not the one to a unary call.
var errFrame = errors.New("not the answer to the call")

// Stream is the next stream id of a client: they are odd and rise.
func (c *Conn) Stream() uint32 {
	id := c.next
	c.next += 2
	return id
}

// Call calls a method and waits for the answer, which must come on the call's stream as the next frame.
func (c *Conn) Call(r Request) (Response, error) {
	id := c.Stream()
	if err := c.Write(Frame{Stream: id, Type: TypeRequest, Payload: r.Bytes()}.Bytes()); err != nil {
		return Response{}, err
	}
	f, err := c.Read()
	if err != nil {
		return Response{}, err
	}
	if f.Stream != id || f.Type != TypeResponse {
		return Response{}, fmt.Errorf("%w: type %d on stream %d, want type %d on stream %d", errFrame, f.Type, f.Stream,
			TypeResponse, id)
	}
	return ParseResponse(f.Payload)
}
