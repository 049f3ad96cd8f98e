// SPDX-License-Identifier: Apache-2.0

package simtee_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
)

func TestRequestBytes(t *testing.T) {
	r := simtee.Request{VMPL: 3}
	for i := range r.ReportData {
		r.ReportData[i] = byte(i)
	}
	b := simtee.MarshalRequest(r)
	want := append([]byte("NSTQ\x01\x00\x00\x00\x03\x00\x00\x00"), r.ReportData[:]...)
	if !bytes.Equal(b, want) || len(b) != 76 {
		t.Errorf("a request is %x, wanted %x", b, want)
	}
	again, err := simtee.ParseRequest(b)
	if err != nil || again != r {
		t.Errorf("%v, %v; wanted %v", again, err, r)
	}
}

func TestParseRequestHostile(t *testing.T) {
	good := simtee.MarshalRequest(simtee.Request{})
	change := func(at int, x byte) []byte {
		b := bytes.Clone(good)
		b[at] = x
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"short":         good[:75],
		"long":          append(bytes.Clone(good), 0),
		"magic":         change(0, 'n'),
		"version 0":     change(4, 0),
		"version 2":     change(4, 2),
		"version high":  change(7, 1),
		"VMPL 4":        change(8, 4),
		"VMPL high":     change(11, 0xFF),
		"a response":    change(3, 'R'),
		"only the size": make([]byte, simtee.RequestSize),
	} {
		if r, err := simtee.ParseRequest(b); err == nil {
			t.Errorf("%s: read as %v", name, r)
		}
	}
}

func response(status, report, table uint32, body int) []byte {
	b := []byte("NSTR")
	for _, n := range []uint32{status, report, table} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, make([]byte, body)...)
}

func TestReadResponse(t *testing.T) {
	for _, test := range []struct {
		name string
		b    []byte
		want simtee.Response
	}{
		{"a report", response(0, snp.ReportSize, 0, snp.ReportSize),
			simtee.Response{Report: make([]byte, snp.ReportSize), CertTable: []byte{}}},
		{"with a table", response(0, snp.ReportSize, 24, snp.ReportSize+24),
			simtee.Response{Report: make([]byte, snp.ReportSize), CertTable: make([]byte, 24)}},
		{"a refusal", response(1, 0, 0, 0),
			simtee.Response{Status: simtee.StatusBadRequest, Report: []byte{}, CertTable: []byte{}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := bytes.NewReader(append(test.b, "next"...))
			got, err := simtee.ReadResponse(in)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("%v, %v; wanted %v", got, err, test.want)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "next" {
				t.Errorf("%q was left, wanted what follows the response", rest)
			}
			var out bytes.Buffer
			if err := simtee.WriteResponse(&out, got); err != nil || !bytes.Equal(out.Bytes(), test.b) {
				t.Errorf("written as %x, %v; wanted %x", out.Bytes(), err, test.b)
			}
		})
	}
}

func TestReadResponseHostile(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":                   nil,
		"a piece of the header":     response(0, snp.ReportSize, 0, 0)[:15],
		"magic":                     []byte(strings.Repeat("NSTQ", 500)),
		"no report":                 response(0, 0, 0, 0),
		"a short report":            response(0, snp.ReportSize-1, 0, snp.ReportSize),
		"a long report":             response(0, snp.ReportSize+1, 0, snp.ReportSize+1),
		"a refusal with a report":   response(1, snp.ReportSize, 0, snp.ReportSize),
		"a refusal with a table":    response(2, 0, 24, 24),
		"a table beyond the cap":    response(0, snp.ReportSize, snp.MaxCertTableSize+1, 1<<20),
		"sizes that overflow":       response(0, snp.ReportSize, 1<<32-1, 1<<20),
		"a report beyond all":       response(0, 1<<32-1, 1<<32-1, 1<<20),
		"less than the header says": response(0, snp.ReportSize, 24, snp.ReportSize+23),
	} {
		if r, err := simtee.ReadResponse(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: read as %v", name, r)
		}
	}
}

func TestWriteResponseRefuses(t *testing.T) {
	for name, r := range map[string]simtee.Response{
		"no report":          {},
		"refusal and report": {Status: simtee.StatusFailed, Report: make([]byte, snp.ReportSize)},
		"table too large":    {Report: make([]byte, snp.ReportSize), CertTable: make([]byte, snp.MaxCertTableSize+1)},
	} {
		if err := simtee.WriteResponse(io.Discard, r); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(simtee.MarshalRequest(simtee.Request{VMPL: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := simtee.ParseRequest(b); err == nil && !bytes.Equal(simtee.MarshalRequest(r), b) {
			t.Error("bytes, request, bytes is not the identity")
		}
	})
}

func FuzzResponse(f *testing.F) {
	f.Add(response(0, snp.ReportSize, 24, snp.ReportSize+24))
	f.Add(response(1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		r, err := simtee.ReadResponse(in)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := simtee.WriteResponse(&out, r); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if !bytes.Equal(out.Bytes(), b[:len(b)-in.Len()]) {
			t.Error("bytes, response, bytes is not the identity")
		}
	})
}
