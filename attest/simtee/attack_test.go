// SPDX-License-Identifier: Apache-2.0

package simtee_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/test/machine"
)

var openOurs, openTheirs = machine.Lazy("ours"), machine.Lazy("theirs")

// TestAttackRootFile hands the owner files of roots that are not simulated ones, or that nobody would want.
func TestAttackRootFile(t *testing.T) {
	ours, err := openOurs()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := openTheirs()
	if err != nil {
		t.Fatal(err)
	}
	good := simtee.FormatRoot(ours.Root())
	t.Run("one that nobody marks", func(t *testing.T) { // as simulated, but the parser
		if root, err := simtee.ParseRoot(good); err != nil || !root.Simulated {
			t.Errorf("simulated %v, %v", root.Simulated, err)
		}
	})
	mixed := ours.Root()
	mixed.ASK = theirs.Root().ASK
	swapped := ours.Root()
	swapped.ARK, swapped.ASK = swapped.ASK, swapped.ARK
	for name, file := range map[string][]byte{
		"the vendor's root":                      simtee.FormatRoot(snp.AMDRoots()[0]),
		"an intermediate that it did not sign":   simtee.FormatRoot(mixed),
		"an intermediate in its place":           simtee.FormatRoot(swapped),
		"another root behind it":                 append(bytes.Clone(good), simtee.FormatRoot(theirs.Root())...),
		"more than a root":                       append(bytes.Repeat([]byte("\n"), 32<<10), good...),
		"something else beside the certificates": append(bytes.Clone(good), "text\n"...),
		"a key beside the certificates":          append(bytes.Clone(good), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"...),
	} {
		t.Run(name, func(t *testing.T) {
			if root, err := simtee.ParseRoot(file); err == nil {
				t.Errorf("read as %s", root.Product)
			}
		})
	}
}

// TestAttackResponse is a host that answers with more, or less, than a response has.
func TestAttackResponse(t *testing.T) {
	response := func(status, report, table uint32, body int) []byte {
		b := []byte("NSTR")
		for _, n := range []uint32{status, report, table} {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		return append(b, make([]byte, body)...)
	}
	for name, b := range map[string][]byte{
		"a table beyond all bounds": response(0, snp.ReportSize, snp.MaxCertTableSize+1, snp.ReportSize+snp.MaxCertTableSize+1),
		"a report of another size":  response(0, snp.ReportSize+1, 0, snp.ReportSize+1),
		"a refusal with a table":    response(1, 0, 24, 24),
		"another protocol":          append([]byte("NSTQ"), response(0, snp.ReportSize, 0, snp.ReportSize)[4:]...),
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := simtee.ReadResponse(bytes.NewReader(b)); err == nil {
				t.Errorf("read as status %d with %d and %d bytes", r.Status, len(r.Report), len(r.CertTable))
			}
		})
	}
}

// TestAttackRequest is a guest that asks for what no guest asks for.
func TestAttackRequest(t *testing.T) {
	good := simtee.MarshalRequest(simtee.Request{})
	change := func(at int, x byte) []byte {
		b := bytes.Clone(good)
		b[at] = x
		return b
	}
	for name, b := range map[string][]byte{
		"a lower level than there is": change(8, 4),
		"another version":             change(4, 2),
		"another protocol":            change(3, 'R'),
		"more than a request":         append(bytes.Clone(good), 0),
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := simtee.ParseRequest(b); err == nil {
				t.Errorf("read as %v", r)
			}
		})
	}
}
