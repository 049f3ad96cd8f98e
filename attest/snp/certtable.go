// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/attest"
)

// CertType says what a certificate is for, as the GUID that the certificate table uses, in its usual text form.
type CertType string

// The GUIDs of the Guest-Hypervisor Communication Block standardization (56421, SNP_GET_EXT_REPORT).
const (
	CertEmpty CertType = "00000000-0000-0000-0000-000000000000" // no type; with neither offset nor size it ends a table
	CertARK   CertType = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
	CertASK   CertType = "4ab7b379-bbac-4fe4-a02f-05aef327c782" // the ASVK too
	CertVCEK  CertType = "63da758d-e664-4564-adc5-f4b93be8accd"
	CertVLEK  CertType = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
	CertCRL   CertType = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"
)

// Cert is one certificate that came with a report.
type Cert struct {
	Type CertType
	Data []byte // DER, or PEM as some hosts provide it
}

const (
	// MaxCertTableSize is the largest certificate table understood, in bytes. Linux passes at most 16 KiB.
	MaxCertTableSize = 64 << 10
	// maxCerts bounds the certificates of one report: a whole chain of both kinds and room for a host's own entries.
	maxCerts = 16

	certEntrySize = 24 // GUID, u32 offset, u32 length; little endian
)

// ParseCertTable reads the certificate table that a host hands out with an extended report: entries of GUID, offset
// and length up to an entry that is all zero, then the data. Zero bytes may follow. An empty table has no certificates.
func ParseCertTable(b []byte) ([]Cert, error) {
	if len(b) > MaxCertTableSize {
		return nil, malformedTable("%d bytes, at most %d are read", len(b), MaxCertTableSize)
	}
	if len(b) == 0 {
		return nil, nil
	}
	var certs []Cert
	for at := 0; ; at += certEntrySize {
		if len(b)-at < certEntrySize {
			return nil, malformedTable("it ends without the closing entry")
		}
		entry := b[at : at+certEntrySize]
		kind := certTypeOf([16]byte(entry))
		offset, size := binary.LittleEndian.Uint32(entry[16:]), binary.LittleEndian.Uint32(entry[20:])
		if kind == CertEmpty && offset == 0 && size == 0 {
			return certs, nil
		}
		if len(certs) == maxCerts {
			return nil, malformedTable("more than %d entries", maxCerts)
		}
		if uint64(offset)+uint64(size) > uint64(len(b)) {
			return nil, malformedTable("entry %d reaches from %d over %d bytes, beyond the end at %d",
				len(certs), offset, size, len(b))
		}
		data := append([]byte(nil), b[offset:offset+size]...)
		certs = append(certs, Cert{Type: kind, Data: data})
	}
}

// MarshalCertTable returns the table of certs, data in the order of the entries and without gaps.
func MarshalCertTable(certs []Cert) ([]byte, error) {
	if len(certs) > maxCerts {
		return nil, fmt.Errorf("marshalling a certificate table: %d certificates, at most %d fit", len(certs), maxCerts)
	}
	header := make([]byte, 0, (len(certs)+1)*certEntrySize)
	var data []byte
	for _, c := range certs {
		guid, err := c.Type.guid()
		if err != nil {
			return nil, fmt.Errorf("marshalling a certificate table: %w", err)
		}
		header = append(header, guid[:]...)
		header = binary.LittleEndian.AppendUint32(header, uint32(cap(header)+len(data)))
		header = binary.LittleEndian.AppendUint32(header, uint32(len(c.Data)))
		data = append(data, c.Data...)
	}
	header = append(header, make([]byte, certEntrySize)...)
	if len(header)+len(data) > MaxCertTableSize {
		return nil, fmt.Errorf("marshalling a certificate table: %d bytes, at most %d are read",
			len(header)+len(data), MaxCertTableSize)
	}
	return append(header, data...), nil
}

// guid returns the sixteen bytes of t, in the order of its text.
func (t CertType) guid() (guid [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(string(t), "-", ""))
	if err != nil || len(b) != len(guid) || certTypeOf([16]byte(b)) != t {
		return guid, fmt.Errorf("certificate type %q is not a lower-case GUID", string(t))
	}
	return [16]byte(b), nil
}

func certTypeOf(guid [16]byte) CertType {
	return CertType(fmt.Sprintf("%x-%x-%x-%x-%x", guid[0:4], guid[4:6], guid[6:8], guid[8:10], guid[10:16]))
}

func malformedTable(format string, args ...any) error {
	return attest.Refuse(attest.CodeEvidenceMalformed, nil, "certificate table: "+format, args...)
}
