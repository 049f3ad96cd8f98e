// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// vcekGUID is the VCEK's GUID as a table has it.
var vcekGUID = []byte{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd}

func entry(guid []byte, offset, size uint32) []byte {
	b := binary.LittleEndian.AppendUint32(bytes.Clone(guid), offset)
	return binary.LittleEndian.AppendUint32(b, size)
}

func TestParseCertTable(t *testing.T) {
	end := make([]byte, 24)
	for _, test := range []struct {
		name  string
		table []byte
		want  []snp.Cert
		wrong bool
	}{
		{"nothing", nil, nil, false},
		{"no entries", end, nil, false},
		{"a page of zeros", make([]byte, 4096), nil, false},
		{"one", join(entry(vcekGUID, 48, 4), end, []byte("cert")), []snp.Cert{{snp.CertVCEK, []byte("cert")}}, false},
		{"zeros after it", join(entry(vcekGUID, 48, 4), end, []byte("cert"), make([]byte, 100)),
			[]snp.Cert{{snp.CertVCEK, []byte("cert")}}, false},
		{"a gap before the data", join(entry(vcekGUID, 50, 4), end, []byte("..cert")),
			[]snp.Cert{{snp.CertVCEK, []byte("cert")}}, false},
		{"an empty certificate", join(entry(vcekGUID, 48, 0), end), []snp.Cert{{snp.CertVCEK, nil}}, false},

		{"a piece of an entry", end[:23], nil, true},
		{"no end", entry(vcekGUID, 0, 0), nil, true},
		{"beyond the end", join(entry(vcekGUID, 48, 5), end, []byte("cert")), nil, true},
		{"offset beyond the end", join(entry(vcekGUID, 53, 0), end, []byte("cert")), nil, true},
		{"a sum that overflows", join(entry(vcekGUID, 1<<32-1, 2), end, []byte("cert")), nil, true},
		{"size with all bits", join(entry(vcekGUID, 48, 1<<32-1), end, []byte("cert")), nil, true},
		{"entries without end", bytes.Repeat(entry(vcekGUID, 0, 0), 17), nil, true},
		{"too large", make([]byte, snp.MaxCertTableSize+1), nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			certs, err := snp.ParseCertTable(test.table)
			if test.wrong {
				if got := attest.CodeOf(err); got != attest.CodeEvidenceMalformed {
					t.Errorf("code %q, wanted %q: %v", got, attest.CodeEvidenceMalformed, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(certs, test.want) {
				t.Errorf("%v, %v; wanted %v", certs, err, test.want)
			}
		})
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestMarshalCertTable(t *testing.T) {
	certs := []snp.Cert{
		{snp.CertVCEK, []byte("first")},
		{"ecae0c0f-9502-43b1-afa2-0ae2e0d565b6", []byte("of the host's own")},
		{snp.CertEmpty, []byte("of no type")},
		{snp.CertASK, nil},
	}
	table, err := snp.MarshalCertTable(certs)
	if err != nil {
		t.Fatal(err)
	}
	again, err := snp.ParseCertTable(table)
	if err != nil || !reflect.DeepEqual(again, certs) {
		t.Errorf("%v, %v; wanted %v", again, err, certs)
	}

	for name, certs := range map[string][]snp.Cert{
		"not a GUID": {{"VCEK", nil}},
		"upper case": {{snp.CertType(strings.ToUpper(string(snp.CertVCEK))), nil}},
		"too many":   make([]snp.Cert, 17),
		"too large":  {{snp.CertVCEK, make([]byte, snp.MaxCertTableSize)}},
	} {
		if _, err := snp.MarshalCertTable(certs); err == nil {
			t.Errorf("%s: marshalled", name)
		}
	}
}

func FuzzParseCertTable(f *testing.F) {
	f.Add(join(entry(vcekGUID, 48, 4), make([]byte, 24), []byte("cert")))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := snp.ParseCertTable(b)
		if err != nil {
			if attest.CodeOf(err) == "" {
				t.Errorf("a refusal without a code: %v", err)
			}
			return
		}
		table, err := snp.MarshalCertTable(certs)
		if err != nil {
			return // entries may share bytes: taken apart they may not fit
		}
		again, err := snp.ParseCertTable(table)
		if err != nil || !reflect.DeepEqual(again, certs) {
			t.Errorf("%v, %v; wanted %v", again, err, certs)
		}
	})
}
