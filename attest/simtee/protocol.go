// SPDX-License-Identifier: Apache-2.0

package simtee

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/nacre-project/nacre/attest/snp"
)

// PortName is the virtio-serial port at which the simulated secure processor answers.
const PortName = "org.nacre.simtee.0"

// RequestMagic begins every request, so that a reader finds the next request after garbage.
const RequestMagic = "NSTQ"

const (
	responseMagic = "NSTR"
	version       = 1
)

// RequestSize is the size of a request in bytes.
const RequestSize = 4 + 4 + 4 + 64

// MaxVMPL is the lowest privilege that a guest has.
const MaxVMPL = 3

// Request asks for a report. It is all that a guest can say; everything else about a report is fixed at launch.
//
//	magic "NSTQ" | u32 version = 1 | u32 VMPL | 64 bytes report data      (integers little endian)
type Request struct {
	VMPL       uint32
	ReportData [64]byte
}

// MarshalRequest returns a request's RequestSize bytes.
func MarshalRequest(r Request) []byte {
	b := append(make([]byte, 0, RequestSize), RequestMagic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, r.VMPL)
	return append(b, r.ReportData[:]...)
}

// ParseRequest reads a request.
func ParseRequest(b []byte) (Request, error) {
	if len(b) != RequestSize {
		return Request{}, fmt.Errorf("a request has %d bytes, this has %d", RequestSize, len(b))
	}
	if string(b[:4]) != RequestMagic {
		return Request{}, fmt.Errorf("a request begins with %q, this with %q", RequestMagic, b[:4])
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != version {
		return Request{}, fmt.Errorf("the request is of version %d, understood is %d", v, version)
	}
	r := Request{VMPL: binary.LittleEndian.Uint32(b[8:])}
	if r.VMPL > MaxVMPL {
		return Request{}, fmt.Errorf("the request names VMPL %d, the last is %d", r.VMPL, MaxVMPL)
	}
	copy(r.ReportData[:], b[12:])
	return r, nil
}

// Status says how a request fared.
type Status uint32

// Statuses.
const (
	StatusOK         Status = 0
	StatusBadRequest Status = 1 // it was not understood
	StatusFailed     Status = 2 // the processor could not sign; its log says why
)

// Response is the answer to a request.
//
//	magic "NSTR" | u32 status | u32 report size | u32 certificate table size | report | certificate table
//
// Report and table are empty unless the status is StatusOK; then the report has snp.ReportSize bytes.
type Response struct {
	Status    Status
	Report    []byte
	CertTable []byte
}

const responseHeaderSize = 16

// WriteResponse writes a response in one call of w.Write.
func WriteResponse(w io.Writer, r Response) error {
	if err := r.check(len(r.Report), len(r.CertTable)); err != nil {
		return fmt.Errorf("writing a response: %w", err)
	}
	b := append(make([]byte, 0, responseHeaderSize+len(r.Report)+len(r.CertTable)), responseMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Status))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Report)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.CertTable)))
	b = append(b, r.Report...)
	b = append(b, r.CertTable...)
	_, err := w.Write(b)
	return err
}

// ReadResponse reads a response and nothing after it. It looks at the lengths before it takes memory for them.
func ReadResponse(r io.Reader) (Response, error) {
	var header [responseHeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Response{}, fmt.Errorf("reading a response: %w", err)
	}
	if !bytes.Equal(header[:4], []byte(responseMagic)) {
		return Response{}, fmt.Errorf("a response begins with %q, this with %q", responseMagic, header[:4])
	}
	response := Response{Status: Status(binary.LittleEndian.Uint32(header[4:]))}
	report, table := binary.LittleEndian.Uint32(header[8:]), binary.LittleEndian.Uint32(header[12:])
	if err := response.check(int(report), int(table)); err != nil {
		return Response{}, fmt.Errorf("reading a response: %w", err)
	}
	body := make([]byte, report+table)
	if _, err := io.ReadFull(r, body); err != nil {
		return Response{}, fmt.Errorf("reading a response: %w", err)
	}
	response.Report, response.CertTable = body[:report:report], body[report:]
	return response, nil
}

// check refuses sizes that no response has.
func (r Response) check(report, table int) error {
	switch {
	case r.Status != StatusOK && (report != 0 || table != 0):
		return fmt.Errorf("status %d with a report of %d and a table of %d bytes, wanted none", r.Status, report, table)
	case r.Status == StatusOK && report != snp.ReportSize:
		return fmt.Errorf("the report has %d bytes, wanted %d", report, snp.ReportSize)
	case table > snp.MaxCertTableSize:
		return fmt.Errorf("the certificate table has %d bytes, at most %d are read", table, snp.MaxCertTableSize)
	}
	return nil
}
