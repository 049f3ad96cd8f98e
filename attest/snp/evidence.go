// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nacre-project/nacre/attest"
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
	if len(document) > MaxEvidenceSize {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, nil,
			"the evidence has %d bytes, at most %d are read", len(document), MaxEvidenceSize)
	}
	var doc documentJSON
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, err, "reading the evidence document")
	}
	if doc.Report == nil {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, nil, "the evidence has no attestation_report")
	}
	report, err := doc.Report.report()
	if err != nil {
		return nil, err
	}
	if len(doc.Certs) > maxCerts {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, nil,
			"%d certificates in the evidence, at most %d are read", len(doc.Certs), maxCerts)
	}
	e := &Evidence{Report: report}
	if doc.Certs != nil {
		e.Certs = make([]Cert, len(doc.Certs))
	}
	for i, c := range doc.Certs {
		if c.Type == "" || c.Data == nil {
			return nil, attest.Refuse(attest.CodeEvidenceMalformed, nil, "certificate %d has no cert_type or no data", i)
		}
		e.Certs[i] = Cert{Type: CertType(c.Type), Data: c.Data}
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

func (d *reportJSON) report() (*Report, error) {
	if d.Version < minVersion || d.Version > maxVersion {
		return nil, unsupportedVersion(d.Version)
	}
	r := &Report{
		Version: d.Version, GuestSVN: d.GuestSVN, Policy: Policy(d.Policy), VMPL: d.VMPL,
		SignatureAlgo: d.SignatureAlgo, PlatformInfo: PlatformInfo(d.PlatformInfo), KeyInfo: KeyInfo(d.KeyInfo),
		Current: FirmwareVersion(d.Current), Committed: FirmwareVersion(d.Committed),
	}
	for _, f := range []struct {
		name string
		to   []byte
		from octets
	}{
		{"family_id", r.FamilyID[:], d.FamilyID},
		{"image_id", r.ImageID[:], d.ImageID},
		{"report_data", r.ReportData[:], d.ReportData},
		{"measurement", r.Measurement[:], d.Measurement},
		{"host_data", r.HostData[:], d.HostData},
		{"id_key_digest", r.IDKeyDigest[:], d.IDKeyDigest},
		{"author_key_digest", r.AuthorKeyDigest[:], d.AuthorKeyDigest},
		{"report_id", r.ReportID[:], d.ReportID},
		{"report_id_ma", r.ReportIDMA[:], d.ReportIDMA},
		{"chip_id", r.ChipID[:], d.ChipID},
		{"signature.r", r.R[:], d.Signature.R},
		{"signature.s", r.S[:], d.Signature.S},
	} {
		if len(f.from) != len(f.to) {
			return nil, malformedMember(f.name, "has %d bytes, wanted %d", len(f.from), len(f.to))
		}
		copy(f.to, f.from)
	}

	hasCPUID := d.Version >= cpuidVersion
	for _, p := range []*uint8{d.Family, d.Model, d.Stepping} {
		if (p != nil) != hasCPUID {
			return nil, malformedMember("cpuid_…", "are null before report version 3 and numbers from then on")
		}
	}
	if hasCPUID {
		r.CPUID = CPUID{Family: *d.Family, Model: *d.Model, Stepping: *d.Stepping}
	}

	for _, f := range []struct {
		name string
		to   *uint64
		from *uint64
	}{
		{"launch_mit_vector", &r.LaunchMitVector, d.LaunchMitVector},
		{"current_mit_vector", &r.CurrentMitVector, d.CurrentMitVector},
	} {
		if f.from == nil {
			continue // an attester that does not know version 5 leaves them out; the signature tells whether they were zero
		}
		if d.Version < mitVectorVersion {
			return nil, malformedMember(f.name, "is null before report version %d", mitVectorVersion)
		}
		*f.to = *f.from
	}

	layout, err := r.tcbLayout()
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		to   *TCB
		from tcbJSON
	}{
		{"current_tcb", &r.CurrentTCB, d.CurrentTCB},
		{"reported_tcb", &r.ReportedTCB, d.ReportedTCB},
		{"committed_tcb", &r.CommittedTCB, d.CommittedTCB},
		{"launch_tcb", &r.LaunchTCB, d.LaunchTCB},
	} {
		if (f.from.FMC != nil) != (layout == Turin) {
			return nil, malformedMember(f.name+".fmc", "is a number for Turin and null for all others")
		}
		v := TCBVersion{
			Bootloader: f.from.Bootloader, TEE: f.from.TEE, SNP: f.from.SNP, Microcode: f.from.Microcode,
		}
		if f.from.FMC != nil {
			v.FMC = *f.from.FMC
		}
		*f.to = v.TCB(layout)
	}
	return r, nil
}

func malformedMember(name, format string, args ...any) error {
	return attest.Refuse(attest.CodeEvidenceMalformed, nil, "attestation_report."+name+" "+format, args...)
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

func (t *certTypeJSON) UnmarshalJSON(b []byte) error {
	var other struct {
		GUID CertType `json:"OTHER"`
	}
	if len(b) > 0 && b[0] == '{' {
		if err := json.Unmarshal(b, &other); err != nil {
			return err
		}
		if _, err := other.GUID.guid(); err != nil {
			return err
		}
		*t = certTypeJSON(other.GUID)
		return nil
	}
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return err
	}
	for _, known := range []CertType{CertEmpty, CertARK, CertASK, CertVCEK, CertVLEK, CertCRL} {
		if certName(known) == name {
			*t = certTypeJSON(known)
			return nil
		}
	}
	return fmt.Errorf("certificate type %q is unknown", name)
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

// UnmarshalJSON reads a list of numbers from 0 to 255. The JSON package has checked the syntax of b before the call.
func (o *octets) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return fmt.Errorf("bytes are written as a list of numbers")
	}
	*o = make(octets, 0, bytes.Count(b, []byte{','})+1)
	number, digits := 0, 0
	for _, x := range b[1:] {
		switch {
		case x >= '0' && x <= '9':
			number = number*10 + int(x-'0')
			if digits++; digits > 3 || number > 255 {
				return fmt.Errorf("a byte is a number from 0 to 255")
			}
		case x == ',' || x == ']':
			if digits > 0 {
				*o = append(*o, byte(number))
			}
			number, digits = 0, 0
		case x == ' ' || x == '\t' || x == '\n' || x == '\r':
		default:
			return fmt.Errorf("a byte is a number from 0 to 255")
		}
	}
	return nil
}
