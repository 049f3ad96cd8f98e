// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is a 12-byte header and a payload, all integers little-endian:
//
//	0   u32  stream id; 0 only in hello
//	4   u8   type
//	5   u8   flags, 0
//	6   u16  reserved, 0
//	8   u32  payload length, at most MaxPayload
const headerSize = 12

// Limits of the wire. Both sides enforce them on what they receive; they bound what a session can make the other side
// hold: MaxStreams times Window bytes of data, and maxControl small frames.
const (
	MaxPayload = 32 << 10  // bytes of payload in one frame
	Window     = 128 << 10 // bytes that may be in flight on a stream, each way
	MaxStreams = 32        // open streams of one session

	maxControl = 8 * MaxStreams // control frames that wait because the peer does not read

	// A virtio-serial port takes at most 32 KiB in one write, so a full frame of ours is one write.
	sendPayload = MaxPayload - headerSize
)

// Version is the protocol version in the hello frames. The host refuses a guest of another version.
const Version = 1

type frameType uint8

const (
	frameHello      frameType = iota + 1 // magic, u32 version, u64 session: see below
	frameOpen                            // u32 port; host to guest
	frameAccept                          // empty
	frameRefuse                          // u32 refusal
	frameData                            // 1 to MaxPayload bytes
	frameWindow                          // u32 bytes that the sender has consumed
	frameCloseWrite                      // empty: no more data follows
	frameReset                           // empty: the sender has forgotten the stream
)

func (t frameType) String() string {
	names := [...]string{"", "hello", "open", "accept", "refuse", "data", "window", "close-write", "reset"}
	if int(t) < len(names) && t != 0 {
		return names[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// payloadSize is the only length that a frame of the type may have; -1 means 1 to MaxPayload.
func (t frameType) payloadSize() (int, bool) {
	switch t {
	case frameHello:
		return len(helloMagic) + 12, true
	case frameOpen, frameRefuse, frameWindow:
		return 4, true
	case frameAccept, frameCloseWrite, frameReset:
		return 0, true
	case frameData:
		return -1, true
	}
	return 0, false
}

// The guest begins a session with a hello that carries a random session number; the host's first frame is a hello with
// the same number. Only then do other frames follow.
//
// A byte stream does not tell the guest that one host has gone and another has come, if that is quick enough. So a host
// that waits for the guest's hello knocks: it sends hellos with the number 0. They mean nothing to a guest that waits
// for an answer, and end the session of one that believes to have a host already; its next one begins with a hello.

// helloMagic lets the host find the guest's hello behind the rest of a session that its predecessor left.
const helloMagic = "nacremux"

// knocking is the session number of a host that does not know the guest's yet.
const knocking = 0

// ErrProtocol is wrapped by every error that a peer's violation of this protocol causes.
var ErrProtocol = errors.New("transport: protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

type frame struct {
	stream  uint32
	kind    frameType
	payload []byte
}

// appendFrame appends the wire form of f to dst. The payload's length is the caller's duty.
func appendFrame(dst []byte, f frame) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, f.stream)
	dst = append(dst, byte(f.kind), 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.payload)))
	return append(dst, f.payload...)
}

func helloFrame(session uint64) frame {
	payload := binary.LittleEndian.AppendUint32([]byte(helloMagic), Version)
	return frame{kind: frameHello, payload: binary.LittleEndian.AppendUint64(payload, session)}
}

func u32Frame(stream uint32, kind frameType, v uint32) frame {
	return frame{stream: stream, kind: kind, payload: binary.LittleEndian.AppendUint32(nil, v)}
}

// readFrame reads one frame from r. Its payload lies in buf, which must have room for MaxPayload, and is valid until
// buf is used again. A clean end of r before the first byte is io.EOF.
func readFrame(r io.Reader, buf []byte) (frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	f, size, err := parseHeader(head)
	if err != nil {
		return frame{}, err
	}
	f.payload = buf[:size]
	if _, err := io.ReadFull(r, f.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	if f.kind == frameHello && string(f.payload[:len(helloMagic)]) != helloMagic {
		return frame{}, violation("hello without magic")
	}
	return f, nil
}

func parseHeader(head [headerSize]byte) (frame, int, error) {
	f := frame{stream: binary.LittleEndian.Uint32(head[0:]), kind: frameType(head[4])}
	size := binary.LittleEndian.Uint32(head[8:])
	want, known := f.kind.payloadSize()
	switch {
	case !known:
		return f, 0, violation("unknown frame %v", f.kind)
	case head[5] != 0 || head[6] != 0 || head[7] != 0:
		return f, 0, violation("%v frame with flags or reserved bytes set", f.kind)
	case (f.stream == 0) != (f.kind == frameHello):
		return f, 0, violation("%v frame on stream %d", f.kind, f.stream)
	case want >= 0 && size != uint32(want):
		return f, 0, violation("%v frame of %d bytes, want %d", f.kind, size, want)
	case want < 0 && (size == 0 || size > MaxPayload):
		return f, 0, violation("%v frame of %d bytes, want 1 to %d", f.kind, size, MaxPayload)
	}
	return f, int(size), nil
}

// u32 is the payload of the frames that carry one number.
func (f frame) u32() uint32 { return binary.LittleEndian.Uint32(f.payload) }

// hello is the version and the session number in a hello frame.
func (f frame) hello() (version uint32, session uint64) {
	rest := f.payload[len(helloMagic):]
	return binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint64(rest[4:])
}
