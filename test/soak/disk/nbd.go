// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// The NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), all numbers big-endian: the fixed newstyle negotiation with
// the options GO and ABORT, and simple replies.
const (
	magicHello   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454f5054 // "IHAVEOPT"
	magicReply   = 0x0003e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optionAbort = 2
	optionGo    = 7

	replyAck         = 1
	replyInfo        = 3
	replyUnsupported = 1<<31 + 1

	infoExport   = 0
	exportLength = 2 + 8 + 2 // kind, size, flags

	transmitHasFlags = 1 << 0
	transmitFlush    = 1 << 2
	transmitFUA      = 1 << 3

	commandRead       = 0
	commandWrite      = 1
	commandDisconnect = 2
	commandFlush      = 3

	commandFUA = 1 << 0

	errorInvalid = 22 // EINVAL
)

// Caps of what a client may send, in bytes.
const (
	maxOption  = 64 << 10
	maxPayload = 32 << 20
)

// errEnd says that the client has said good-bye.
var errEnd = errors.New("the client ended the session")

// Serve answers one client until it goes away, which is no error: clients of this disk are killed. When the power has
// failed it answers no more, and the client waits until it is killed.
func (d *Disk) Serve(client io.ReadWriter) error {
	s := &session{disk: d, r: bufio.NewReaderSize(client, 256<<10), w: client}
	err := s.negotiate()
	for err == nil {
		err = s.request()
	}
	if errors.Is(err, errNoPower) {
		_, err = io.Copy(io.Discard, s.r)
	}
	for _, end := range []error{errEnd, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

type session struct {
	disk *Disk
	r    *bufio.Reader
	w    io.Writer
}

func (s *session) read(into any) error { return binary.Read(s.r, binary.BigEndian, into) }

// send writes a message whole.
func (s *session) send(parts ...any) error {
	var message []byte
	for _, p := range parts {
		var err error
		if message, err = binary.Append(message, binary.BigEndian, p); err != nil {
			return err
		}
	}
	_, err := s.w.Write(message)
	return err
}

// negotiate speaks until the client asks for the disk. Its name does not matter: there is one.
func (s *session) negotiate() error {
	if err := s.send(uint64(magicHello), uint64(magicOption), uint16(flagFixedNewstyle|flagNoZeroes)); err != nil {
		return err
	}
	var flags uint32
	if err := s.read(&flags); err != nil {
		return err
	}
	for {
		var option struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := s.read(&option); err != nil {
			return err
		}
		if option.Magic != magicOption || option.Length > maxOption {
			return fmt.Errorf("the client sent no option: magic %x, %d bytes", option.Magic, option.Length)
		}
		if _, err := s.r.Discard(int(option.Length)); err != nil {
			return err
		}
		reply := func(kind uint32, length uint32, data ...any) error {
			return s.send(append([]any{uint64(magicReply), option.Option, kind, length}, data...)...)
		}
		switch option.Option {
		case optionGo:
			const transmission = transmitHasFlags | transmitFlush | transmitFUA
			return errors.Join(
				reply(replyInfo, exportLength, uint16(infoExport), uint64(s.disk.Size()), uint16(transmission)),
				reply(replyAck, 0))
		case optionAbort:
			return errors.Join(reply(replyAck, 0), errEnd)
		default:
			if err := reply(replyUnsupported, 0); err != nil {
				return err
			}
		}
	}
}

// request answers one request. They are answered in order, so that a flush is of all that came before it.
func (s *session) request() error {
	var q struct {
		Magic          uint32
		Flags, Command uint16
		Cookie, Offset uint64
		Length         uint32
	}
	if err := s.read(&q); err != nil {
		return err
	}
	if q.Magic != magicRequest {
		return fmt.Errorf("the client sent no request: magic %x", q.Magic)
	}
	if q.Length > maxPayload && (q.Command == commandRead || q.Command == commandWrite) {
		return fmt.Errorf("the client wants %d bytes at a time, at most %d", q.Length, maxPayload)
	}
	var data []byte
	var err error
	switch q.Command {
	case commandRead:
		data = make([]byte, q.Length)
		_, err = s.disk.ReadAt(data, int64(q.Offset))
	case commandWrite:
		payload := make([]byte, q.Length)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return err
		}
		if _, err = s.disk.WriteAt(payload, int64(q.Offset)); err == nil && q.Flags&commandFUA != 0 {
			err = s.disk.Flush() // more than what was asked for, which a disk may do
		}
	case commandFlush:
		err = s.disk.Flush()
	case commandDisconnect:
		return errEnd
	default:
		err = fmt.Errorf("command %d", q.Command)
	}
	if errors.Is(err, errNoPower) {
		return err
	}
	if err != nil {
		return s.send(uint32(magicSimple), uint32(errorInvalid), q.Cookie)
	}
	return s.send(uint32(magicSimple), uint32(0), q.Cookie, data)
}
