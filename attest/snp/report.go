// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/binary"
	"fmt"

	"github.com/nacre-project/nacre/attest"
)

// ReportSize is the size of an attestation report in bytes.
const ReportSize = 1184

// signedSize is how many leading bytes of a report its signature covers.
const signedSize = 0x2A0

// Report versions. All have the same size; later ones give meaning to bytes that were reserved.
const (
	minVersion       = 2
	cpuidVersion     = 3 // CPUID family, model and stepping
	mitVectorVersion = 5 // mitigation vectors
	maxVersion       = 5
)

// algorithmECDSAP384 is SIGNATURE_ALGO for ECDSA on P-384 with SHA-384, the only one defined.
const algorithmECDSAP384 = 1

// Report is an ATTESTATION_REPORT (SEV-SNP ABI specification 56860, "MSG_REPORT_RSP"), versions 2 to 5. Integers are
// little endian in the report.
type Report struct {
	Version         uint32
	GuestSVN        uint32
	Policy          Policy
	FamilyID        [16]byte
	ImageID         [16]byte
	VMPL            uint32
	SignatureAlgo   uint32
	CurrentTCB      TCB
	PlatformInfo    PlatformInfo
	KeyInfo         KeyInfo
	ReportData      [64]byte
	Measurement     [48]byte
	HostData        [32]byte
	IDKeyDigest     [48]byte
	AuthorKeyDigest [48]byte
	ReportID        [32]byte
	ReportIDMA      [32]byte
	ReportedTCB     TCB
	CPUID           CPUID // zero before version 3
	ChipID          [64]byte
	CommittedTCB    TCB
	Current         FirmwareVersion
	Committed       FirmwareVersion
	LaunchTCB       TCB

	LaunchMitVector  uint64 // zero before version 5
	CurrentMitVector uint64 // zero before version 5

	// R and S are the ECDSA signature's numbers: 72 bytes each, little endian.
	R, S [72]byte
}

// CPUID identifies the processor: family and model in combined (base plus extended) form.
type CPUID struct{ Family, Model, Stepping uint8 }

// FirmwareVersion is the version of the secure processor's firmware.
type FirmwareVersion struct{ Major, Minor, Build uint8 }

// Policy is the guest policy that the guest was launched under.
type Policy uint64

// Bits of a Policy. The two low bytes are the least ABI version, minor then major. Bit 17 is always set.
const (
	PolicySMT          Policy = 1 << 16
	PolicyReservedOne  Policy = 1 << 17
	PolicyMigrateMA    Policy = 1 << 18
	PolicyDebug        Policy = 1 << 19
	PolicySingleSocket Policy = 1 << 20
)

// PlatformInfo describes the machine.
type PlatformInfo uint64

// Bits of a PlatformInfo.
const (
	PlatformSMT                 PlatformInfo = 1 << 0
	PlatformTSME                PlatformInfo = 1 << 1
	PlatformECC                 PlatformInfo = 1 << 2
	PlatformRAPLDisabled        PlatformInfo = 1 << 3
	PlatformCiphertextHiding    PlatformInfo = 1 << 4
	PlatformAliasCheckComplete  PlatformInfo = 1 << 5
	PlatformTrustedIOConfigured PlatformInfo = 1 << 7
)

// KeyInfo says which key signed the report. Bit 0: an author key is present; bit 1: MASK_CHIP_KEY, the report is not
// signed; bits 2 to 4: the signing key.
type KeyInfo uint32

// SigningKey is the kind of key that signed a report.
type SigningKey uint8

// Signing keys.
const (
	SignedByVCEK SigningKey = 0 // Versioned Chip Endorsement Key: one per chip and TCB
	SignedByVLEK SigningKey = 1 // Versioned Loaded Endorsement Key: one per cloud provider and TCB
)

// SigningKey returns the kind of key that signed the report.
func (k KeyInfo) SigningKey() SigningKey { return SigningKey(k >> 2 & 7) }

// String returns the kind's name, in the spelling of AMD's documents.
func (k SigningKey) String() string {
	switch k {
	case SignedByVCEK:
		return "VCEK"
	case SignedByVLEK:
		return "VLEK"
	}
	return fmt.Sprintf("signing key %d", uint8(k))
}

// ParseReport reads a report. It refuses versions that it does not know and bytes that are reserved in the report's
// version and not zero, so Marshal returns exactly b.
func ParseReport(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, nil,
			"an attestation report has %d bytes, this has %d", ReportSize, len(b))
	}
	r := new(Report)
	c := codec{b: b}
	r.layout(&c)
	if r.Version < minVersion || r.Version > maxVersion {
		return nil, unsupportedVersion(r.Version)
	}
	if c.reserved >= 0 {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, nil,
			"byte %#x is reserved in a version %d report and is not zero", c.reserved, r.Version)
	}
	return r, nil
}

func unsupportedVersion(version uint32) error {
	return attest.Refuse(attest.CodeEvidenceUnsupported, nil,
		"attestation report version %d, understood are %d to %d", version, minVersion, maxVersion)
}

// Marshal returns the report's bytes. Fields that the report's version does not have are written as zero.
func (r *Report) Marshal() []byte {
	copied := *r // layout takes pointers to fields; r itself is only read
	c := codec{b: make([]byte, ReportSize), write: true}
	copied.layout(&c)
	return c.b
}

// Product returns the product that the report names. Version 2 reports name none.
func (r *Report) Product() (Product, bool) {
	if r.Version < cpuidVersion {
		return "", false
	}
	return ProductOf(r.CPUID.Family, r.CPUID.Model)
}

// layout walks all bytes of a report in order, reading or writing each field.
func (r *Report) layout(c *codec) {
	c.reserved = -1
	c.u32(&r.Version)
	c.u32(&r.GuestSVN)
	c.u64((*uint64)(&r.Policy))
	c.bytes(r.FamilyID[:])
	c.bytes(r.ImageID[:])
	c.u32(&r.VMPL)
	c.u32(&r.SignatureAlgo)
	c.u64((*uint64)(&r.CurrentTCB))
	c.u64((*uint64)(&r.PlatformInfo))
	c.u32((*uint32)(&r.KeyInfo))
	c.zero(4)
	c.bytes(r.ReportData[:])
	c.bytes(r.Measurement[:])
	c.bytes(r.HostData[:])
	c.bytes(r.IDKeyDigest[:])
	c.bytes(r.AuthorKeyDigest[:])
	c.bytes(r.ReportID[:])
	c.bytes(r.ReportIDMA[:])
	c.u64((*uint64)(&r.ReportedTCB))
	if r.Version >= cpuidVersion {
		c.u8(&r.CPUID.Family)
		c.u8(&r.CPUID.Model)
		c.u8(&r.CPUID.Stepping)
		c.zero(21)
	} else {
		c.zero(24)
	}
	c.bytes(r.ChipID[:])
	c.u64((*uint64)(&r.CommittedTCB))
	c.version(&r.Current)
	c.version(&r.Committed)
	c.u64((*uint64)(&r.LaunchTCB))
	if r.Version >= mitVectorVersion {
		c.u64(&r.LaunchMitVector)
		c.u64(&r.CurrentMitVector)
	} else {
		c.zero(16)
	}
	c.zero(152)
	c.bytes(r.R[:])
	c.bytes(r.S[:])
	c.zero(368)
}

// codec moves fields between a report's bytes and its struct, so that one list of fields is both parser and marshaller.
type codec struct {
	b        []byte
	off      int
	write    bool
	reserved int // offset of the first reserved byte that was not zero, or -1
}

func (c *codec) next(n int) []byte {
	f := c.b[c.off : c.off+n]
	c.off += n
	return f
}

func (c *codec) bytes(p []byte) {
	if f := c.next(len(p)); c.write {
		copy(f, p)
	} else {
		copy(p, f)
	}
}

func (c *codec) u8(p *uint8) {
	if f := c.next(1); c.write {
		f[0] = *p
	} else {
		*p = f[0]
	}
}

func (c *codec) u32(p *uint32) {
	if f := c.next(4); c.write {
		binary.LittleEndian.PutUint32(f, *p)
	} else {
		*p = binary.LittleEndian.Uint32(f)
	}
}

func (c *codec) u64(p *uint64) {
	if f := c.next(8); c.write {
		binary.LittleEndian.PutUint64(f, *p)
	} else {
		*p = binary.LittleEndian.Uint64(f)
	}
}

// version is build, minor, major and a reserved byte.
func (c *codec) version(v *FirmwareVersion) {
	c.u8(&v.Build)
	c.u8(&v.Minor)
	c.u8(&v.Major)
	c.zero(1)
}

func (c *codec) zero(n int) {
	at := c.off
	for i, x := range c.next(n) {
		if x != 0 && c.reserved < 0 {
			c.reserved = at + i
		}
	}
}
