// SPDX-License-Identifier: Apache-2.0

package initdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Annotation is the pod annotation that carries init-data: base64 (standard, padded) of gzip of the text.
const Annotation = "io.katacontainers.config.hypervisor.cc_init_data"

// The block device: magic, length of the compressed text in 8 bytes little endian, compressed text, zeros up to a
// multiple of the sector.
const (
	deviceMagic = "initdata"
	headerSize  = len(deviceMagic) + 8
	sectorSize  = 512
)

// maxCompressed caps the compressed text. Text that does not compress grows by a few bytes in each 64 KiB.
const maxCompressed = MaxSize + MaxSize/1024 + 1024

// EncodeAnnotation makes the value of the pod annotation from an init-data text.
func EncodeAnnotation(raw []byte) (string, error) {
	compressed, err := compress(raw)
	if err != nil {
		return "", fmt.Errorf("writing the init-data annotation: %w", err)
	}
	return base64.StdEncoding.EncodeToString(compressed), nil
}

// DecodeAnnotation returns the init-data text in the value of a pod annotation, which may have line breaks in it. It
// does not parse the text.
func DecodeAnnotation(value string) ([]byte, error) {
	if len(value) > base64.StdEncoding.EncodedLen(maxCompressed) {
		return nil, fmt.Errorf("reading the init-data annotation: %d characters are too many", len(value))
	}
	compressed, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, fmt.Errorf("reading the init-data annotation: %w", err)
	}
	raw, err := decompress(compressed)
	if err != nil {
		return nil, fmt.Errorf("reading the init-data annotation: %w", err)
	}
	return raw, nil
}

// EncodeDevice makes the content of the block device that carries an init-data text into the guest.
func EncodeDevice(raw []byte) ([]byte, error) {
	compressed, err := compress(raw)
	if err != nil {
		return nil, fmt.Errorf("writing the init-data device: %w", err)
	}
	size := headerSize + len(compressed)
	out := make([]byte, 0, (size+sectorSize-1)/sectorSize*sectorSize)
	out = append(out, deviceMagic...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(compressed)))
	out = append(out, compressed...)
	return out[:cap(out)], nil
}

// ErrNoMagic says that a device is not an init-data device.
var ErrNoMagic = errors.New("the device does not begin with the init-data magic")

// DecodeDevice returns the init-data text on a block device. It reads as far as the device's own header says, to
// the end of the sector, and no further; it does not parse the text. The error is [ErrNoMagic] for a device of
// another kind.
func DecodeDevice(r io.Reader) ([]byte, error) {
	raw, err := decodeDevice(r)
	if err != nil {
		return nil, fmt.Errorf("reading the init-data device: %w", err)
	}
	return raw, nil
}

func decodeDevice(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	n, err := io.ReadFull(r, header)
	if !bytes.HasPrefix(header[:n], []byte(deviceMagic)) {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, ErrNoMagic
	}
	if err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(header[len(deviceMagic):])
	if length > uint64(maxCompressed) {
		return nil, fmt.Errorf("its header claims %d bytes, at most %d are allowed", length, maxCompressed)
	}
	size := headerSize + int(length)
	rest := make([]byte, (size+sectorSize-1)/sectorSize*sectorSize-headerSize)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, fmt.Errorf("it ends before the %d bytes that its header claims, padded to sectors: %w", length, err)
	}
	compressed, padding := rest[:length], rest[length:]
	for _, b := range padding {
		if b != 0 {
			return nil, errors.New("the padding after the text is not zero")
		}
	}
	return decompress(compressed)
}

// compress is deterministic: no name, no time.
func compress(raw []byte) ([]byte, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(raw), MaxSize)
	}
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// decompress accepts one gzip member of at most MaxSize bytes of text and nothing after it.
func decompress(compressed []byte) ([]byte, error) {
	in := bytes.NewReader(compressed)
	zr, err := gzip.NewReader(in) // a bytes.Reader is an io.ByteReader: gzip takes not one byte more than it needs
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	zr.Multistream(false)
	raw, err := io.ReadAll(io.LimitReader(zr, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("decompressing: more than the %d bytes that are allowed", MaxSize)
	}
	if in.Len() > 0 {
		return nil, fmt.Errorf("%d bytes follow the compressed text", in.Len())
	}
	return raw, nil
}
