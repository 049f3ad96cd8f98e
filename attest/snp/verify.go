// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"time"

	"github.com/nacre-project/nacre/attest"
)

// Config configures a Verifier. The zero value trusts AMD's roots and nothing else, fetches nothing, and refuses
// guests that can be debugged.
type Config struct {
	// Roots are trusted in addition to AMDRoots. Simulated ones have Simulated set.
	Roots []Root

	// Store finds VCEKs that the evidence does not bring. Nil: evidence must bring its own.
	Store EndorsementSource

	// UnsafeAllowDebug accepts guests whose policy lets the host read and write their memory.
	UnsafeAllowDebug bool

	// Now tells the time for validity dates. Nil is time.Now.
	Now func() time.Time
}

// Verifier verifies SEV-SNP evidence. It implements attest.Verifier.
type Verifier struct {
	store      EndorsementSource
	allowDebug bool
	now        func() time.Time
	chains     *chains
}

var _ attest.Verifier = (*Verifier)(nil)

// NewVerifier returns a verifier. Configured roots without an ARK are passed over.
func NewVerifier(c Config) *Verifier {
	var anchors []*anchor
	for _, r := range AMDRoots() {
		anchors = append(anchors, newAnchor(r, true))
	}
	for _, r := range c.Roots {
		if r.ARK != nil {
			anchors = append(anchors, newAnchor(r, false))
		}
	}
	v := &Verifier{store: c.Store, allowDebug: c.UnsafeAllowDebug, now: c.Now, chains: newChains(anchors)}
	if v.now == nil {
		v.now = time.Now
	}
	return v
}

// Verify checks evidence from the outside in, so that each step works on what the one before has established: form;
// the chain from the endorsement certificate to a trusted root; the report's signature; and then what the signed
// report says, of its certificate, of the guest, and of this session. So a refusal for one of these last reasons
// (chip id, TCB, VMPL, debugging, report data, init-data) is about a report that a trusted chip did sign.
func (v *Verifier) Verify(ctx context.Context, evidence json.RawMessage, want attest.Expected) (*attest.Claims, error) {
	e, err := ParseEvidence(evidence)
	if err != nil {
		return nil, err
	}
	return v.VerifyReport(ctx, e, want)
}

// VerifyReport is Verify for evidence that came in another envelope than this room's document.
func (v *Verifier) VerifyReport(ctx context.Context, e *Evidence, want attest.Expected) (*attest.Claims, error) {
	r := e.Report
	if err := checkForm(r); err != nil {
		return nil, err
	}
	endorsing, err := v.endorsement(ctx, e)
	if err != nil {
		return nil, err
	}
	product, _ := r.Product()
	c, err := v.chains.verify(product, r.KeyInfo.SigningKey(), endorsing, e.Certs)
	if err != nil {
		return nil, err
	}
	if err := c.checkValidity(v.now()); err != nil {
		return nil, err
	}
	if err := checkSignature(r, c); err != nil {
		return nil, err
	}
	if err := checkChipID(r, c); err != nil {
		return nil, err
	}
	if err := checkTCB(r, c); err != nil {
		return nil, err
	}
	if err := checkVMPL(r); err != nil {
		return nil, err
	}
	if err := v.checkDebug(r); err != nil {
		return nil, err
	}
	if err := checkReportData(r, want.ReportData); err != nil {
		return nil, err
	}
	if err := checkInitData(r, want.InitDataDigest); err != nil {
		return nil, err
	}
	return newClaims(r, c), nil
}

// checkForm refuses reports that nothing here can verify.
func checkForm(r *Report) error {
	if r.SignatureAlgo != algorithmECDSAP384 {
		return attest.Refuse(attest.CodeEvidenceUnsupported, nil,
			"the report's signature algorithm is %d, understood is %d", r.SignatureAlgo, algorithmECDSAP384)
	}
	if k := r.KeyInfo.SigningKey(); k != SignedByVCEK && k != SignedByVLEK {
		return attest.Refuse(attest.CodeEvidenceUnsupported, nil, "the report is signed by %s, understood are VCEK, VLEK", k)
	}
	if _, ok := r.Product(); !ok && r.Version >= cpuidVersion {
		return unknownProduct(r.CPUID)
	}
	return nil
}

// endorsement returns the certificate of the key that is said to have signed the report: the evidence's own, or else
// the store's.
func (v *Verifier) endorsement(ctx context.Context, e *Evidence) ([]byte, error) {
	kind := e.Report.KeyInfo.SigningKey()
	want := CertVCEK
	if kind == SignedByVLEK {
		want = CertVLEK
	}
	if i := slices.IndexFunc(e.Certs, func(c Cert) bool { return c.Type == want }); i >= 0 {
		return e.Certs[i].Data, nil
	}
	cannot := func(why string) error {
		return attest.Refuse(attest.CodeCollateralUnavailable, nil, "the evidence brings no %s, and %s; "+
			"let the host provide it in the certificate table", kind, why)
	}
	if kind == SignedByVLEK {
		return nil, cannot("nobody serves VLEKs")
	}
	if v.store == nil {
		return nil, cannot("no source for VCEKs is configured")
	}
	product, ok := e.Report.Product()
	if !ok {
		return nil, cannot("a version 2 report does not say of which product it is")
	}
	if e.Report.ChipID == [64]byte{} {
		return nil, cannot("the host hides which chip it is of")
	}
	tcb, err := e.Report.ReportedTCB.Version(product)
	if err != nil {
		return nil, attest.Refuse(attest.CodeEvidenceMalformed, err, "reading reported_tcb")
	}
	der, err := v.store.VCEK(ctx, VCEKRequest{Product: product, HWID: e.Report.ChipID[:product.hwidSize()], TCB: tcb})
	if _, ok := errors.AsType[*attest.Error](err); err != nil && !ok {
		return nil, attest.Refuse(attest.CodeCollateralUnavailable, err, "finding the VCEK")
	}
	return der, err
}

// checkSignature refuses a report that the endorsed key did not sign.
func checkSignature(r *Report, c *chain) error {
	digest := sha512.Sum384(r.Marshal()[:signedSize])
	if ecdsa.Verify(c.endorsement.key, digest[:], littleEndian(r.R), littleEndian(r.S)) {
		return nil
	}
	// A host whose certificate table is older than its firmware ends here too, because each TCB has its own key.
	why := "the report was changed after it was signed, or another key signed it"
	if err := errors.Join(checkChipID(r, c), checkTCB(r, c)); err != nil {
		why = "the certificate is not of this report's key: " + err.Error()
	}
	return attest.Refuse(attest.CodeSignatureInvalid, nil, "%s", why)
}

func littleEndian(b [72]byte) *big.Int {
	slices.Reverse(b[:])
	return new(big.Int).SetBytes(b[:])
}

// checkChipID refuses a VCEK of another chip. VLEKs name no chip. A host may hide the chip id from its guests, all
// zero; then the VCEK's signature alone says which chip it was.
func checkChipID(r *Report, c *chain) error {
	hwid := c.endorsement.hwid
	if r.KeyInfo.SigningKey() == SignedByVLEK || r.ChipID == [64]byte{} {
		return nil
	}
	var want [64]byte
	copy(want[:], hwid)
	if r.ChipID != want {
		return attest.Refuse(attest.CodeChipIDMismatch, nil,
			"the report is of chip %x, its certificate of %x", r.ChipID, hwid)
	}
	return nil
}

// checkTCB refuses an endorsement of other firmware than the report names.
func checkTCB(r *Report, c *chain) error {
	product := c.anchor.Product
	if want := c.endorsement.tcbFor(product); r.ReportedTCB != want.TCB(product) {
		return attest.Refuse(attest.CodeTCBMismatch, nil, "the report is of TCB %#016x, its certificate of %#016x (%s)",
			uint64(r.ReportedTCB), uint64(want.TCB(product)), want)
	}
	return nil
}

// checkVMPL refuses reports that were not asked for by the guest's most privileged level, which is the kernel's where
// no other software runs above it.
func checkVMPL(r *Report) error {
	if r.VMPL != 0 {
		return attest.Refuse(attest.CodeVMPLNotZero, nil, "the report was asked for at VMPL %d, wanted 0", r.VMPL)
	}
	return nil
}

// checkDebug refuses guests whose memory the host may read and write.
func (v *Verifier) checkDebug(r *Report) error {
	if r.Policy&PolicyDebug != 0 && !v.allowDebug {
		return attest.Refuse(attest.CodeDebugEnabled, nil, "the guest policy %#x allows debugging", uint64(r.Policy))
	}
	return nil
}

// checkReportData refuses evidence of another session, comparing the whole field.
func checkReportData(r *Report, digest []byte) error {
	if len(digest) == 0 || len(digest) > len(r.ReportData) {
		return attest.Refuse(attest.CodeReportDataMismatch, nil,
			"the digest to compare with has %d bytes, wanted are 1 to %d", len(digest), len(r.ReportData))
	}
	var want [64]byte
	copy(want[:], digest)
	if subtle.ConstantTimeCompare(r.ReportData[:], want[:]) != 1 {
		return attest.Refuse(attest.CodeReportDataMismatch, nil, "report data is %x, wanted %x", r.ReportData, want)
	}
	return nil
}

// checkInitData refuses guests that were launched with other init-data than they sent. HOST_DATA has 32 bytes: of a
// longer digest it holds the leftmost, and it is padded with zero bytes after a shorter one.
func checkInitData(r *Report, digest []byte) error {
	if digest == nil {
		return nil
	}
	if want := HostData(digest); !bytes.Equal(r.HostData[:], want[:]) {
		return attest.Refuse(attest.CodeInitDataMismatch, nil, "host data is %x, wanted %x", r.HostData, want)
	}
	return nil
}

// HostData returns the HOST_DATA field that binds an init-data digest.
func HostData(digest []byte) (field [32]byte) {
	copy(field[:], digest)
	return field
}
