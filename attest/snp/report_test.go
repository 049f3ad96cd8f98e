// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// numbered returns a report of a version in which every byte that the version defines is different from its
// neighbours, and the reserved ones are zero.
func numbered(version uint32) []byte {
	b := make([]byte, snp.ReportSize)
	for i := range b {
		if !reserved(version, i) {
			b[i] = byte(i%251 + 1)
		}
	}
	copy(b, []byte{byte(version), 0, 0, 0})
	return b
}

// reserved says of each byte whether it is reserved: 56860, table of ATTESTATION_REPORT.
func reserved(version uint32, at int) bool {
	in := func(from, to int) bool { return at >= from && at < to }
	return in(0x4C, 0x50) || in(0x18B, 0x1A0) || version < 3 && in(0x188, 0x18B) || at == 0x1EB || at == 0x1EF ||
		version < 5 && in(0x1F8, 0x208) || in(0x208, 0x2A0) || in(0x330, 0x4A0)
}

func TestParseReportIdentity(t *testing.T) {
	for version := uint32(2); version <= 5; version++ {
		b := numbered(version)
		r, err := snp.ParseReport(b)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Errorf("version %d: bytes, report, bytes is not the identity", version)
		}
	}
}

func TestParseReportFields(t *testing.T) {
	b := numbered(5)
	r, err := snp.ParseReport(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name      string
		at        int
		got, want any
	}{
		{"policy", 0x08, uint64(r.Policy), le(b[0x08:0x10])},
		{"vmpl", 0x30, uint64(r.VMPL), le(b[0x30:0x34])},
		{"key info", 0x48, uint64(r.KeyInfo), le(b[0x48:0x4C])},
		{"report data", 0x50, fmt.Sprintf("%x", r.ReportData), fmt.Sprintf("%x", b[0x50:0x90])},
		{"measurement", 0x90, fmt.Sprintf("%x", r.Measurement), fmt.Sprintf("%x", b[0x90:0xC0])},
		{"host data", 0xC0, fmt.Sprintf("%x", r.HostData), fmt.Sprintf("%x", b[0xC0:0xE0])},
		{"reported TCB", 0x180, uint64(r.ReportedTCB), le(b[0x180:0x188])},
		{"family", 0x188, r.CPUID.Family, b[0x188]},
		{"model", 0x189, r.CPUID.Model, b[0x189]},
		{"stepping", 0x18A, r.CPUID.Stepping, b[0x18A]},
		{"chip id", 0x1A0, fmt.Sprintf("%x", r.ChipID), fmt.Sprintf("%x", b[0x1A0:0x1E0])},
		{"committed TCB", 0x1E0, uint64(r.CommittedTCB), le(b[0x1E0:0x1E8])},
		{"current build", 0x1E8, r.Current.Build, b[0x1E8]},
		{"current major", 0x1EA, r.Current.Major, b[0x1EA]},
		{"committed minor", 0x1ED, r.Committed.Minor, b[0x1ED]},
		{"launch TCB", 0x1F0, uint64(r.LaunchTCB), le(b[0x1F0:0x1F8])},
		{"launch mitigations", 0x1F8, r.LaunchMitVector, le(b[0x1F8:0x200])},
		{"current mitigations", 0x200, r.CurrentMitVector, le(b[0x200:0x208])},
	} {
		if f.got != f.want {
			t.Errorf("%s at %#x is %v, wanted %v", f.name, f.at, f.got, f.want)
		}
	}
}

func le(b []byte) (n uint64) {
	for i, x := range b {
		n |= uint64(x) << (8 * i)
	}
	return n
}

func TestParseReportHostile(t *testing.T) {
	for _, n := range []int{0, 1, snp.ReportSize - 1, snp.ReportSize + 1, 1 << 20} {
		_, err := snp.ParseReport(make([]byte, n))
		if got := attest.CodeOf(err); got != attest.CodeEvidenceMalformed {
			t.Errorf("%d bytes: code %q, wanted %q", n, got, attest.CodeEvidenceMalformed)
		}
	}
	for _, version := range []uint32{0, 1, 6, 0x01000002, 1<<32 - 1} {
		b := make([]byte, snp.ReportSize)
		for i := range 4 {
			b[i] = byte(version >> (8 * i))
		}
		_, err := snp.ParseReport(b)
		if got := attest.CodeOf(err); got != attest.CodeEvidenceUnsupported {
			t.Errorf("version %d: code %q, wanted %q", version, got, attest.CodeEvidenceUnsupported)
		}
	}
	for version := uint32(2); version <= 5; version++ {
		for at := range snp.ReportSize {
			if !reserved(version, at) {
				continue
			}
			b := numbered(version)
			b[at] = 1
			_, err := snp.ParseReport(b)
			if got := attest.CodeOf(err); got != attest.CodeEvidenceMalformed {
				t.Errorf("version %d, byte %#x: code %q, wanted %q", version, at, got, attest.CodeEvidenceMalformed)
			}
		}
	}
}

func TestProductOf(t *testing.T) {
	known := map[snp.Product][][2]int{
		snp.Milan: {{0x1900, 0x190F}},
		snp.Genoa: {{0x1910, 0x191F}, {0x19A0, 0x19AF}},
		snp.Turin: {{0x1A00, 0x1A11}},
	}
	for fm := range 0x10000 {
		var want snp.Product
		for p, ranges := range known {
			for _, r := range ranges {
				if fm >= r[0] && fm <= r[1] {
					want = p
				}
			}
		}
		if got, ok := snp.ProductOf(uint8(fm>>8), uint8(fm)); got != want || ok != (want != "") {
			t.Errorf("family %#x model %#x is %q, wanted %q", fm>>8, fm&0xFF, got, want)
		}
	}
}

func TestTCB(t *testing.T) {
	for _, test := range []struct {
		product snp.Product
		bytes   [8]byte
		want    snp.TCBVersion
		wrong   bool
	}{
		{snp.Milan, [8]byte{1, 2, 0, 0, 0, 0, 3, 4}, snp.TCBVersion{Bootloader: 1, TEE: 2, SNP: 3, Microcode: 4}, false},
		{snp.Genoa, [8]byte{10, 0, 0, 0, 0, 0, 23, 25}, snp.TCBVersion{Bootloader: 10, SNP: 23, Microcode: 25}, false},
		{snp.Turin, [8]byte{1, 2, 3, 4, 0, 0, 0, 5},
			snp.TCBVersion{FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 5}, false},
		{snp.Genoa, [8]byte{2: 1}, snp.TCBVersion{}, true},
		{snp.Turin, [8]byte{6: 1}, snp.TCBVersion{}, true},
	} {
		tcb := snp.TCB(le(test.bytes[:]))
		got, err := tcb.Version(test.product)
		if (err != nil) != test.wrong || got != test.want {
			t.Errorf("%s %x: %v, %v; wanted %v, error %v", test.product, test.bytes, got, err, test.want, test.wrong)
		}
		if err == nil && got.TCB(test.product) != tcb {
			t.Errorf("%s %x: bytes, levels, bytes is not the identity", test.product, test.bytes)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	for version := uint32(2); version <= 5; version++ {
		f.Add(numbered(version))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := snp.ParseReport(b)
		if err != nil {
			if attest.CodeOf(err) == "" {
				t.Errorf("a refusal without a code: %v", err)
			}
			return
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Error("bytes, report, bytes is not the identity")
		}
	})
}
