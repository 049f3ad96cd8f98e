// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The frame of ttrpc: u32 big endian length of what follows the header, u32 big endian stream id, u8 type, u8 flags.
const (
	headerSize    = 10
	frameRequest  = 1
	frameResponse = 2
	maxMessage    = 4 << 20
)

const (
	maxName    = 256      // bytes of a service's or method's name that is looked for
	maxRefusal = 64 << 10 // bytes of an answer that is looked at: refusals are short
	lastStream = 1<<32 - 1
)

// frames stands between a peer and the ttrpc library, which is stricter than stock peers expect in one thing, speaks
// otherwise than the stock servers in another, and falls over in a third:
//
//   - Stream ids may come in any order, as long as they are odd. Peers that send from many threads take an id and send
//     it later, so ids overtake each other; the library wants them to rise. It sees ids of our own.
//   - A method that is not there is NOT_FOUND, "/<service>/<method> is not supported".
//   - Only requests pass. There are no streaming methods here, and data for a call that is under way would crash the
//     library, and the guest with it.
type frames struct {
	net.Conn
	in   *bufio.Reader
	next []byte // what the library is to read
	rest uint32 // bytes of a message that is too long, which the library passes over
	out  []byte // what the library has written, less than a frame

	writing sync.Mutex // whole frames to the peer

	mu    sync.Mutex
	last  uint32            // stream id that the library saw last
	calls map[uint32]call   // under way, by the library's stream ids
	inUse map[uint32]uint32 // those, by the peer's
}

// call is a call under way.
type call struct {
	stream          uint32 // the peer's
	service, method string
}

func newFrames(conn net.Conn) *frames {
	return &frames{Conn: conn, in: bufio.NewReader(conn), calls: map[uint32]call{}, inUse: map[uint32]uint32{}}
}

// Read gives the library the peer's requests.
func (f *frames) Read(p []byte) (int, error) {
	for len(f.next) == 0 {
		if f.rest > 0 {
			n, err := f.in.Read(p[:min(len(p), int(f.rest))])
			f.rest -= uint32(n)
			return n, err
		}
		if err := f.readFrame(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.next)
	f.next = f.next[n:]
	return n, nil
}

// readFrame reads one frame, and sets what the library is to see of it, which may be nothing.
func (f *frames) readFrame() error {
	var header [headerSize]byte
	if _, err := io.ReadFull(f.in, header[:]); err != nil {
		return err
	}
	size, stream := binary.BigEndian.Uint32(header[:]), binary.BigEndian.Uint32(header[4:])
	if header[8] != frameRequest {
		_, err := io.CopyN(io.Discard, f.in, int64(size))
		return err
	}
	if size > maxMessage { // the library refuses it, and wants to read it whole for that
		if err := f.begin(header[:], call{stream: stream}); err != nil {
			return err
		}
		f.next, f.rest = header[:], size
		return nil
	}
	var frame bytes.Buffer // it grows as the bytes come
	frame.Write(header[:])
	if _, err := io.CopyN(&frame, f.in, int64(size)); err != nil {
		return err
	}
	c := call{stream: stream}
	c.service, c.method = names(frame.Bytes()[headerSize:])
	if len(c.service) > maxName || len(c.method) > maxName {
		return f.refuse(stream, notSupported(c))
	}
	err := f.begin(frame.Bytes(), c)
	if errors.Is(err, errInUse) {
		return f.refuse(stream, status.Newf(codes.InvalidArgument, "stream %d has a call under way", stream))
	} else if err != nil {
		return err
	}
	f.next = frame.Bytes()
	return nil
}

// errInUse says that a peer begins a call on a stream that has one.
var errInUse = errors.New("the stream is in use")

// begin gives a frame a stream id of ours. Even ones stay: the library refuses them.
func (f *frames) begin(frame []byte, c call) error {
	if c.stream%2 == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, used := f.inUse[c.stream]; used {
		return errInUse
	}
	switch f.last {
	case 0:
		f.last = 1
	case lastStream:
		return errors.New("a connection has no more stream ids")
	default:
		f.last += 2
	}
	f.calls[f.last], f.inUse[c.stream] = c, f.last
	binary.BigEndian.PutUint32(frame[4:], f.last)
	return nil
}

// end gives an answer the peer's stream id back.
func (f *frames) end(frame []byte) (call, bool) {
	stream := binary.BigEndian.Uint32(frame[4:])
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.calls[stream]
	if !ok {
		return call{}, false
	}
	delete(f.calls, stream)
	delete(f.inUse, c.stream)
	binary.BigEndian.PutUint32(frame[4:], c.stream)
	return c, true
}

// names takes the names out of a ttrpc Request: 1 service, 2 method. Of several the last counts, as everywhere in
// protobuf. What cannot be read is the library's to refuse.
func names(request []byte) (service, method string) {
	for len(request) > 0 {
		number, kind, n := protowire.ConsumeTag(request)
		if n < 0 {
			break
		}
		size := protowire.ConsumeFieldValue(number, kind, request[n:])
		if size < 0 {
			break
		}
		if kind == protowire.BytesType && number <= 2 {
			value, _ := protowire.ConsumeBytes(request[n:])
			if number == 1 {
				service = string(value)
			} else {
				method = string(value)
			}
		}
		request = request[n+size:]
	}
	return service, method
}

// notSupported is the stock servers' answer for a method that they do not have.
func notSupported(c call) *status.Status {
	return status.Newf(codes.NotFound, "/%.*s/%.*s is not supported", maxName, c.service, maxName, c.method)
}

// Write takes the library's answers and sends them to the peer, frame by frame.
func (f *frames) Write(p []byte) (int, error) {
	f.out = append(f.out, p...)
	for len(f.out) >= headerSize {
		size := headerSize + int(binary.BigEndian.Uint32(f.out))
		if len(f.out) < size {
			break
		}
		if err := f.answer(f.out[:size]); err != nil {
			return 0, err
		}
		clear(f.out[:size]) // it may have been a secret
		f.out = f.out[size:]
	}
	if len(f.out) == 0 {
		f.out = nil
	}
	return len(p), nil
}

// answer sends one answer of the library's, in the stock servers' words where it says that a method is not
// implemented.
func (f *frames) answer(frame []byte) error {
	c, known := f.end(frame)
	if known && frame[8] == frameResponse && len(frame) <= maxRefusal {
		var r ttrpc.Response
		if err := proto.Unmarshal(frame[headerSize:], &r); err != nil {
			return fmt.Errorf("an answer of our own: %w", err)
		}
		// The library says so of what is not registered, a handler of what it does not do.
		if codes.Code(r.GetStatus().GetCode()) == codes.Unimplemented {
			return f.refuse(c.stream, notSupported(c))
		}
	}
	return f.send(frame)
}

// refuse answers a call in the library's place.
func (f *frames) refuse(stream uint32, s *status.Status) error {
	body, err := proto.Marshal(&ttrpc.Response{Status: s.Proto()})
	if err != nil {
		return fmt.Errorf("writing a refusal: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = binary.BigEndian.AppendUint32(frame, stream)
	return f.send(append(append(frame, frameResponse, 0), body...))
}

func (f *frames) send(frame []byte) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	_, err := f.Conn.Write(frame)
	return err
}
