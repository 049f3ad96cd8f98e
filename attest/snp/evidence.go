// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/strictjson"
)

// MaxEvidenceSize is the largest evidence document understood, in bytes: a report and a full certificate table, each
// byte written as a decimal number.
const MaxEvidenceSize = 512 << 10

// Evidence is what a guest sends: a report, and the certificates that its host provided.
type Evidence struct {
	Report *Report
	Certs  []Cert // nil when the host provided none
}

// ParseEvidence reads the evidence document of the RCAR protocol: the report field by field, as the serde form of the
// existing attesters has it, so that the bytes which the chip signed can be put together again.
func ParseEvidence(document json.RawMessage) (*Evidence, error) {
	e, err := parseEvidence(document)
	if refusal, ok := errors.AsType[*attest.Error](err); ok {
		return nil, refusal
	}
	if err != nil {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, err, "reading the evidence document")
	}
	return e, nil
}

func parseEvidence(document json.RawMessage) (*Evidence, error) {
	doc, err := strictjson.ParseObject(document, MaxEvidenceSize)
	if err != nil {
		return nil, err
	}
	report, err := doc.Object("attestation_report")
	if err != nil {
		return nil, err
	}
	e := &Evidence{}
	if e.Report, err = parseReport(report); err != nil {
		return nil, err
	}
	if !doc["cert_chain"].Present() {
		return e, nil
	}
	certs, err := doc.Array("cert_chain")
	if err != nil {
		return nil, err
	}
	if len(certs) > maxCerts {
		return nil, fmt.Errorf("%d certificates, at most %d are read", len(certs), maxCerts)
	}
	e.Certs = make([]Cert, len(certs))
	for i, c := range certs {
		if e.Certs[i], err = parseCert(c); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
	}
	return e, nil
}

// MarshalJSON returns the evidence document, compact. It fails when a TCB of the report has bytes set that its layout
// reserves: the document has no place for them, and without them the signature could not be verified.
//
// The mitigation vectors are written from report version 5 on. Newer attesters write them as null before that, older
// ones leave them out; both are read.
func (e *Evidence) MarshalJSON() ([]byte, error) {
	if e.Report == nil {
		return nil, fmt.Errorf("marshalling SNP evidence: it has no report")
	}
	report, err := newReportJSON(e.Report)
	if err != nil {
		return nil, fmt.Errorf("marshalling SNP evidence: %w", err)
	}
	doc := documentJSON{Report: report}
	if e.Certs != nil {
		doc.Certs = make([]certJSON, len(e.Certs))
	}
	for i, c := range e.Certs {
		doc.Certs[i] = certJSON{Type: certTypeJSON(c.Type), Data: c.Data}
	}
	return json.Marshal(doc)
}

// The document, member by member in the order in which it is written.
type (
	documentJSON struct {
		Report *reportJSON `json:"attestation_report"`
		Certs  []certJSON  `json:"cert_chain"`
	}

	certJSON struct {
		Type certTypeJSON `json:"cert_type"`
		Data octets       `json:"data"`
	}

	reportJSON struct {
		Version          uint32        `json:"version"`
		GuestSVN         uint32        `json:"guest_svn"`
		Policy           uint64        `json:"policy"`
		FamilyID         octets        `json:"family_id"`
		ImageID          octets        `json:"image_id"`
		VMPL             uint32        `json:"vmpl"`
		SignatureAlgo    uint32        `json:"sig_algo"`
		CurrentTCB       tcbJSON       `json:"current_tcb"`
		PlatformInfo     uint64        `json:"plat_info"`
		KeyInfo          uint32        `json:"key_info"`
		ReportData       octets        `json:"report_data"`
		Measurement      octets        `json:"measurement"`
		HostData         octets        `json:"host_data"`
		IDKeyDigest      octets        `json:"id_key_digest"`
		AuthorKeyDigest  octets        `json:"author_key_digest"`
		ReportID         octets        `json:"report_id"`
		ReportIDMA       octets        `json:"report_id_ma"`
		ReportedTCB      tcbJSON       `json:"reported_tcb"`
		Family           *uint8        `json:"cpuid_fam_id"`
		Model            *uint8        `json:"cpuid_mod_id"`
		Stepping         *uint8        `json:"cpuid_step"`
		ChipID           octets        `json:"chip_id"`
		CommittedTCB     tcbJSON       `json:"committed_tcb"`
		Current          versionJSON   `json:"current"`
		Committed        versionJSON   `json:"committed"`
		LaunchTCB        tcbJSON       `json:"launch_tcb"`
		LaunchMitVector  *uint64       `json:"launch_mit_vector,omitempty"`
		CurrentMitVector *uint64       `json:"current_mit_vector,omitempty"`
		Signature        signatureJSON `json:"signature"`
	}

	tcbJSON struct {
		FMC        *uint8 `json:"fmc"` // null but for Turin
		Bootloader uint8  `json:"bootloader"`
		TEE        uint8  `json:"tee"`
		SNP        uint8  `json:"snp"`
		Microcode  uint8  `json:"microcode"`
	}

	versionJSON struct {
		Major uint8 `json:"major"`
		Minor uint8 `json:"minor"`
		Build uint8 `json:"build"`
	}

	signatureJSON struct {
		R octets `json:"r"`
		S octets `json:"s"`
	}
)

// tcbLayout returns a product that has the TCB layout of r. The report says which; before version 3 it does so only by
// the shape of its chip id, of which Turin uses eight bytes.
func (r *Report) tcbLayout() (Product, error) {
	if r.Version < cpuidVersion {
		var zero [64]byte
		if r.ChipID != zero && bytes.Equal(r.ChipID[8:], zero[8:]) {
			return Turin, nil
		}
		return Milan, nil
	}
	p, ok := r.Product()
	if !ok {
		return "", unknownProduct(r.CPUID)
	}
	return p, nil
}

func unknownProduct(c CPUID) error {
	return attest.Refuse(attest.CodeEvidenceUnsupported, nil,
		"the report is of CPU family %#x model %#x, which is none of Milan, Genoa, Turin", c.Family, c.Model)
}

func parseReport(report strictjson.Object) (*Report, error) {
	m := &members{Object: report, name: "attestation_report"}
	r := &Report{Version: uint32(m.number("version", 32))}
	if m.err == nil && (r.Version < minVersion || r.Version > maxVersion) {
		return nil, unsupportedVersion(r.Version)
	}
	r.GuestSVN = uint32(m.number("guest_svn", 32))
	r.Policy = Policy(m.number("policy", 64))
	m.octets("family_id", r.FamilyID[:])
	m.octets("image_id", r.ImageID[:])
	r.VMPL = uint32(m.number("vmpl", 32))
	r.SignatureAlgo = uint32(m.number("sig_algo", 32))
	r.PlatformInfo = PlatformInfo(m.number("plat_info", 64))
	r.KeyInfo = KeyInfo(m.number("key_info", 32))
	m.octets("report_data", r.ReportData[:])
	m.octets("measurement", r.Measurement[:])
	m.octets("host_data", r.HostData[:])
	m.octets("id_key_digest", r.IDKeyDigest[:])
	m.octets("author_key_digest", r.AuthorKeyDigest[:])
	m.octets("report_id", r.ReportID[:])
	m.octets("report_id_ma", r.ReportIDMA[:])
	m.octets("chip_id", r.ChipID[:])
	r.Current, r.Committed = m.firmware("current"), m.firmware("committed")
	m.object("signature", func(signature *members) {
		signature.octets("r", r.R[:])
		signature.octets("s", r.S[:])
	})

	// Attesters that know them write them as null for reports that do not have them, others leave them out.
	hasCPUID := r.Version >= cpuidVersion
	for name, to := range map[string]*uint8{
		"cpuid_fam_id": &r.CPUID.Family, "cpuid_mod_id": &r.CPUID.Model, "cpuid_step": &r.CPUID.Stepping,
	} {
		if m.Object[name].Present() != hasCPUID {
			m.refuse(name, "is null before report version %d and a number from then on", cpuidVersion)
		} else if hasCPUID {
			*to = uint8(m.number(name, 8))
		}
	}
	for name, to := range map[string]*uint64{
		"launch_mit_vector": &r.LaunchMitVector, "current_mit_vector": &r.CurrentMitVector,
	} {
		if !m.Object[name].Present() {
			continue // an attester that does not know version 5 leaves them out; the signature tells whether they were zero
		}
		if r.Version < mitVectorVersion {
			m.refuse(name, "is null before report version %d", mitVectorVersion)
		}
		*to = m.number(name, 64)
	}
	if m.err != nil {
		return nil, m.err
	}

	layout, err := r.tcbLayout()
	if err != nil {
		return nil, err
	}
	r.CurrentTCB, r.ReportedTCB = m.tcb("current_tcb", layout), m.tcb("reported_tcb", layout)
	r.CommittedTCB, r.LaunchTCB = m.tcb("committed_tcb", layout), m.tcb("launch_tcb", layout)
	return r, m.err
}

// members reads the members of an object, and keeps the first thing that is wrong with one.
type members struct {
	strictjson.Object
	name string // of the object, for errors
	err  error
}

func (m *members) refuse(name, format string, args ...any) {
	if m.err == nil {
		m.err = attest.Refuse(attest.CodeEvidenceMalformed, nil, m.name+"."+name+" "+format, args...)
	}
}

// number is a number from 0 that fits into so many bits.
func (m *members) number(name string, bits int) uint64 {
	n, err := strconv.ParseUint(string(m.Object[name].Raw()), 10, bits)
	if err != nil {
		m.refuse(name, "is not a number of %d bits", bits)
	}
	return n
}

// octets fills to with a list of as many bytes.
func (m *members) octets(name string, to []byte) {
	if octets, err := parseOctets(m.Object[name]); err != nil {
		m.refuse(name, "is not a list of bytes: %v", err)
	} else if len(octets) != len(to) {
		m.refuse(name, "has %d bytes, wanted %d", len(octets), len(to))
	} else {
		copy(to, octets)
	}
}

// object reads the members of an object in the object.
func (m *members) object(name string, read func(*members)) {
	object, err := m.Object.Object(name)
	if err != nil {
		m.refuse(name, "is not an object: %v", err)
		return
	}
	inner := &members{Object: object, name: m.name + "." + name, err: m.err}
	read(inner)
	m.err = inner.err
}

func (m *members) firmware(name string) (v FirmwareVersion) {
	m.object(name, func(version *members) {
		v.Major = uint8(version.number("major", 8))
		v.Minor = uint8(version.number("minor", 8))
		v.Build = uint8(version.number("build", 8))
	})
	return v
}

func (m *members) tcb(name string, layout Product) TCB {
	var v TCBVersion
	m.object(name, func(tcb *members) {
		v.Bootloader = uint8(tcb.number("bootloader", 8))
		v.TEE = uint8(tcb.number("tee", 8))
		v.SNP = uint8(tcb.number("snp", 8))
		v.Microcode = uint8(tcb.number("microcode", 8))
		if tcb.Object["fmc"].Present() != (layout == Turin) {
			tcb.refuse("fmc", "is a number for Turin and null for all others")
		} else if layout == Turin {
			v.FMC = uint8(tcb.number("fmc", 8))
		}
	})
	return v.TCB(layout)
}

func parseCert(v strictjson.Value) (Cert, error) {
	cert, err := v.Object()
	if err != nil {
		return Cert{}, err
	}
	kind, err := parseCertType(cert["cert_type"])
	if err != nil {
		return Cert{}, fmt.Errorf("cert_type: %w", err)
	}
	data, err := parseOctets(cert["data"])
	if err != nil {
		return Cert{}, fmt.Errorf("data: %w", err)
	}
	return Cert{Type: kind, Data: data}, nil
}

func newReportJSON(r *Report) (*reportJSON, error) {
	layout, err := r.tcbLayout()
	if err != nil {
		return nil, err
	}
	d := &reportJSON{
		Version: r.Version, GuestSVN: r.GuestSVN, Policy: uint64(r.Policy), FamilyID: r.FamilyID[:],
		ImageID: r.ImageID[:], VMPL: r.VMPL, SignatureAlgo: r.SignatureAlgo, PlatformInfo: uint64(r.PlatformInfo),
		KeyInfo: uint32(r.KeyInfo), ReportData: r.ReportData[:], Measurement: r.Measurement[:],
		HostData: r.HostData[:], IDKeyDigest: r.IDKeyDigest[:], AuthorKeyDigest: r.AuthorKeyDigest[:],
		ReportID: r.ReportID[:], ReportIDMA: r.ReportIDMA[:], ChipID: r.ChipID[:],
		Current: versionJSON(r.Current), Committed: versionJSON(r.Committed),
		Signature: signatureJSON{R: r.R[:], S: r.S[:]},
	}
	if r.Version >= cpuidVersion {
		d.Family, d.Model, d.Stepping = &r.CPUID.Family, &r.CPUID.Model, &r.CPUID.Stepping
	}
	if r.Version >= mitVectorVersion {
		d.LaunchMitVector, d.CurrentMitVector = &r.LaunchMitVector, &r.CurrentMitVector
	}
	for _, f := range []struct {
		to   *tcbJSON
		from TCB
	}{
		{&d.CurrentTCB, r.CurrentTCB},
		{&d.ReportedTCB, r.ReportedTCB},
		{&d.CommittedTCB, r.CommittedTCB},
		{&d.LaunchTCB, r.LaunchTCB},
	} {
		v, err := f.from.Version(layout)
		if err != nil {
			return nil, err
		}
		*f.to = tcbJSON{Bootloader: v.Bootloader, TEE: v.TEE, SNP: v.SNP, Microcode: v.Microcode}
		if layout == Turin {
			f.to.FMC = &v.FMC
		}
	}
	return d, nil
}

// certTypeJSON writes the well-known types by name and all others as {"OTHER": GUID}.
type certTypeJSON CertType

func (t certTypeJSON) MarshalJSON() ([]byte, error) {
	if name := certName(CertType(t)); name != "" {
		return json.Marshal(name)
	}
	return json.Marshal(map[string]string{"OTHER": string(t)})
}

func parseCertType(v strictjson.Value) (CertType, error) {
	if other, err := v.Object(); err == nil {
		guid, err := other.Text("OTHER")
		if err != nil {
			return "", err
		}
		_, err = CertType(guid).guid()
		return CertType(guid), err
	}
	name, err := v.Text()
	if err != nil {
		return "", err
	}
	for _, known := range []CertType{CertEmpty, CertARK, CertASK, CertVCEK, CertVLEK, CertCRL} {
		if certName(known) == name {
			return known, nil
		}
	}
	return "", fmt.Errorf("certificate type %q is unknown", name)
}

func certName(t CertType) string {
	switch t {
	case CertEmpty:
		return "Empty"
	case CertARK:
		return "ARK"
	case CertASK:
		return "ASK"
	case CertVCEK:
		return "VCEK"
	case CertVLEK:
		return "VLEK"
	case CertCRL:
		return "CRL"
	}
	return ""
}

// octets are bytes written as a list of numbers.
type octets []byte

func (o octets) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2+4*len(o))
	b = append(b, '[')
	for i, x := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(x), 10)
	}
	return append(b, ']'), nil
}

// parseOctets reads a list of numbers from 0 to 255.
func parseOctets(v strictjson.Value) ([]byte, error) {
	list := v.Raw()
	if len(list) == 0 || list[0] != '[' {
		return nil, errors.New("bytes are written as a list of numbers")
	}
	out := make([]byte, 0, bytes.Count(list, []byte{','})+1)
	number, digits := 0, 0
	for _, x := range list[1:] {
		switch {
		case x >= '0' && x <= '9':
			number = number*10 + int(x-'0')
			if digits++; digits > 3 || number > 255 {
				return nil, errors.New("a byte is a number from 0 to 255")
			}
		case x == ',' || x == ']':
			if digits > 0 {
				out = append(out, byte(number))
			}
			number, digits = 0, 0
		case x == ' ' || x == '\t' || x == '\n' || x == '\r':
		default:
			return nil, errors.New("a byte is a number from 0 to 255")
		}
	}
	return out, nil
}
