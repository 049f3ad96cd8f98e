// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/attest"
)

// EndorsementSource finds the certificate of a chip's key when the evidence does not bring it.
//
// VCEK returns DER. When the certificate cannot be had now, the error is an *attest.Error with
// CodeCollateralUnavailable, and RetryAfter where that is known. What it returns is not trusted: the verifier checks
// it as it checks a certificate from the evidence.
type EndorsementSource interface {
	VCEK(ctx context.Context, want VCEKRequest) ([]byte, error)
}

// VCEKRequest names one VCEK: a chip at a firmware level.
type VCEKRequest struct {
	Product Product
	HWID    []byte // what identifies the chip: 64 bytes, for Turin 8
	TCB     TCBVersion
}

// Check reports whether a certificate is the one that r names. It does not check who signed it.
func (r VCEKRequest) Check(der []byte) error {
	e, err := parseEndorsement(der, SignedByVCEK)
	if err != nil {
		return err
	}
	if !bytes.Equal(e.hwid, r.HWID) {
		return attest.Refuse(attest.CodeChipIDMismatch, nil, "the certificate is of chip %x, wanted %x", e.hwid, r.HWID)
	}
	if tcb := e.tcbFor(r.Product); tcb != r.TCB {
		return attest.Refuse(attest.CodeTCBMismatch, nil, "the certificate is of TCB %s, wanted %s", tcb, r.TCB)
	}
	return nil
}

// Object identifiers of the extensions that AMD puts into VCEKs and VLEKs ("Versioned Chip Endorsement Key Certificate
// and KDS Interface Specification", 57230, table 8).
const (
	oidBootloader = "1.3.6.1.4.1.3704.1.3.1"
	oidTEE        = "1.3.6.1.4.1.3704.1.3.2"
	oidSNP        = "1.3.6.1.4.1.3704.1.3.3"
	oidMicrocode  = "1.3.6.1.4.1.3704.1.3.8"
	oidFMC        = "1.3.6.1.4.1.3704.1.3.9" // Turin
	oidHWID       = "1.3.6.1.4.1.3704.1.4"   // VCEK
	oidCSPID      = "1.3.6.1.4.1.3704.1.5"   // VLEK
)

// endorsement is what an endorsement certificate, VCEK or VLEK, says.
type endorsement struct {
	cert   *x509.Certificate
	key    *ecdsa.PublicKey
	tcb    TCBVersion
	hasFMC bool
	hwid   []byte // VCEK: the chip
	cspID  string // VLEK: the cloud provider that the key was loaded for
}

// tcbFor returns the certificate's TCB as product p counts it.
func (e *endorsement) tcbFor(p Product) TCBVersion {
	tcb := e.tcb
	if p != Turin {
		tcb.FMC = 0
	}
	return tcb
}

// parseEndorsement reads an endorsement certificate and checks its form: the subject, key and extensions that AMD's
// specification gives to its kind.
func parseEndorsement(data []byte, kind SigningKey) (*endorsement, error) {
	invalid := func(cause error, format string, args ...any) error {
		return attest.Refuse(attest.CodeCertificateInvalid, cause, "%s: "+format, append([]any{kind}, args...)...)
	}
	cert, err := x509.ParseCertificate(derOf(data))
	if err != nil {
		return nil, invalid(err, "parsing the certificate")
	}
	if want := "SEV-" + kind.String(); cert.Subject.CommonName != want {
		return nil, invalid(nil, "the subject is named %q, wanted %q", cert.Subject.CommonName, want)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, invalid(nil, "the key is not an ECDSA key on P-384")
	}
	e := &endorsement{cert: cert, key: key}
	found := make(map[string]bool)
	for _, ext := range cert.Extensions {
		oid := ext.Id.String()
		var err error
		switch oid {
		case oidBootloader:
			e.tcb.Bootloader, err = versionNumber(ext.Value)
		case oidTEE:
			e.tcb.TEE, err = versionNumber(ext.Value)
		case oidSNP:
			e.tcb.SNP, err = versionNumber(ext.Value)
		case oidMicrocode:
			e.tcb.Microcode, err = versionNumber(ext.Value)
		case oidFMC:
			e.tcb.FMC, err = versionNumber(ext.Value)
			e.hasFMC = true
		case oidHWID:
			e.hwid, err = hwid(ext.Value)
		case oidCSPID:
			var rest []byte
			if rest, err = asn1.Unmarshal(ext.Value, &e.cspID); err == nil && len(rest) > 0 {
				err = fmt.Errorf("%d bytes after the string", len(rest))
			}
		}
		if err != nil {
			return nil, invalid(err, "extension %s", oid)
		}
		found[oid] = true
	}
	want := []string{oidBootloader, oidTEE, oidSNP, oidMicrocode}
	if kind == SignedByVCEK {
		want = append(want, oidHWID)
	}
	for _, oid := range want {
		if !found[oid] {
			return nil, invalid(nil, "extension %s is missing", oid)
		}
	}
	return e, nil
}

// derOf returns the DER of a certificate that hosts provide as DER or as PEM. Data that is neither is returned as it
// is, for the certificate parser to refuse.
func derOf(data []byte) []byte {
	if bytes.HasPrefix(data, []byte("-----BEGIN")) {
		if block, _ := pem.Decode(data); block != nil && block.Type == "CERTIFICATE" {
			return block.Bytes
		}
	}
	return data
}

// versionNumber reads a security version number: an INTEGER from 0 to 255.
func versionNumber(value []byte) (uint8, error) {
	var n int
	rest, err := asn1.Unmarshal(value, &n)
	if err != nil {
		return 0, err
	}
	if len(rest) > 0 || n < 0 || n > 255 {
		return 0, fmt.Errorf("%x is not a number from 0 to 255", value)
	}
	return uint8(n), nil
}

// hwid reads a hardware id: the bare bytes, or an OCTET STRING around them. Certificates of both forms exist.
func hwid(value []byte) ([]byte, error) {
	const short, long = 8, 64
	if len(value) == short || len(value) == long {
		return value, nil
	}
	var id []byte
	rest, err := asn1.Unmarshal(value, &id)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 || len(id) != short && len(id) != long {
		return nil, fmt.Errorf("a hardware id has %d or %d bytes, this is %x", short, long, value)
	}
	return id, nil
}

// issuerName is the common name of what issues certificates of a kind for a product.
func issuerName(p Product, kind SigningKey) string {
	return strings.Replace("SEV-"+kind.String()+"-"+string(p), "VCEK-", "", 1)
}
