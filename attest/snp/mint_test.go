// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// vendor is a test's own AMD: it has the keys of a root and can endorse whatever an attack needs. Its RSA keys are
// shorter than AMD's, for they are made anew with each run of the tests.
type vendor struct {
	product                snp.Product
	arkKey, askKey         *rsa.PrivateKey
	ark, ask, asvk         *x509.Certificate
	begin, authoritiesUpTo time.Time
}

func newVendor(p snp.Product) (*vendor, error) {
	v := &vendor{product: p, begin: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)}
	v.authoritiesUpTo = v.begin.AddDate(25, 0, 0)
	var err error
	if v.arkKey, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	if v.askKey, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	template := v.authority("ARK-" + string(p))
	if v.ark, err = issue(template, template, v.arkKey.Public(), v.arkKey); err != nil {
		return nil, err
	}
	if v.ask, err = issue(v.authority("SEV-"+string(p)), v.ark, v.askKey.Public(), v.arkKey); err != nil {
		return nil, err
	}
	v.asvk, err = issue(v.authority("SEV-VLEK-"+string(p)), v.ark, v.askKey.Public(), v.arkKey)
	return v, err
}

func (v *vendor) authority(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: v.begin, NotAfter: v.authoritiesUpTo,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

func (v *vendor) root() snp.Root {
	return snp.Root{Product: v.product, ARK: v.ark, ASK: v.ask, ASVK: v.asvk}
}

func issue(template, issuer *x509.Certificate, key any, issuerKey *rsa.PrivateKey) (*x509.Certificate, error) {
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.SignatureAlgorithm == x509.UnknownSignatureAlgorithm {
		template.SignatureAlgorithm = x509.SHA384WithRSAPSS
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, issuerKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// One vendor a product, and a key for all chips.
var (
	genoaVendor = sync.OnceValues(func() (*vendor, error) { return newVendor(snp.Genoa) })
	turinVendor = sync.OnceValues(func() (*vendor, error) { return newVendor(snp.Turin) })
	chipKey     = sync.OnceValues(func() (*ecdsa.PrivateKey, error) {
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	})
)

func must[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// scene is a genuine guest on a genuine machine before a verifier that trusts its vendor. An attack changes one thing
// of it. The report is signed, and the certificate issued, after the change.
type scene struct {
	vendor *vendor
	report *snp.Report
	signer *ecdsa.PrivateKey

	kind       snp.CertType
	vek        x509.Certificate
	extensions map[string][]byte // OID beneath 1.3.6.1.4.1.3704.1 to value
	vekKey     any               // public
	issuer     *x509.Certificate
	issuerKey  *rsa.PrivateKey

	certs func(vek []byte) []snp.Cert // what goes into the evidence

	config snp.Config
	want   attest.Expected
}

func newScene(t testing.TB, v *vendor) *scene {
	t.Helper()
	key := must(t, chipKey)
	s := &scene{
		vendor: v, signer: key, kind: snp.CertVCEK, vekKey: key.Public(), issuer: v.ask, issuerKey: v.askKey,
		vek: x509.Certificate{
			Subject: pkix.Name{CommonName: "SEV-VCEK"}, NotBefore: v.begin, NotAfter: v.begin.AddDate(7, 0, 0),
		},
		config: snp.Config{Roots: []snp.Root{v.root()}, Now: at(2026, time.June)},
	}
	s.certs = func(vek []byte) []snp.Cert { return []snp.Cert{{Type: s.kind, Data: vek}} }

	tcb := snp.TCBVersion{Bootloader: 1, TEE: 2, SNP: 3, Microcode: 4}
	s.report = &snp.Report{
		Version: 3, Policy: snp.PolicyReservedOne | snp.PolicySMT, SignatureAlgo: 1,
		CPUID: snp.CPUID{Family: 0x19, Model: 0x11},
	}
	hwid := s.report.ChipID[:]
	if v.product == snp.Turin {
		s.report.CPUID = snp.CPUID{Family: 0x1A, Model: 0x02}
		tcb.FMC = 5
		hwid = hwid[:8]
	}
	for i := range hwid {
		hwid[i] = byte(i + 1)
	}
	s.report.ReportedTCB = tcb.TCB(v.product)
	copy(s.report.ReportData[:], "the digest of this session, which has forty-eight")
	copy(s.report.HostData[:], "the digest of the init-data.....")
	s.want = attest.Expected{
		ReportData:     slices.Clone(s.report.ReportData[:48]),
		InitDataDigest: slices.Clone(s.report.HostData[:]),
	}
	s.report.ReportData = [64]byte(append(slices.Clone(s.want.ReportData), make([]byte, 16)...))

	number := func(n uint8) []byte {
		return must(t, func() ([]byte, error) { return asn1.Marshal(int(n)) })
	}
	s.extensions = map[string][]byte{
		"3.1": number(tcb.Bootloader), "3.2": number(tcb.TEE), "3.3": number(tcb.SNP), "3.8": number(tcb.Microcode),
		"4": slices.Clone(hwid),
	}
	if v.product == snp.Turin {
		s.extensions["3.9"] = number(tcb.FMC)
	}
	return s
}

// byVLEK has a cloud provider's key sign the report instead of the chip's.
func (s *scene) byVLEK(t testing.TB) {
	s.kind, s.issuer = snp.CertVLEK, s.vendor.asvk
	s.vek.Subject.CommonName = "SEV-VLEK"
	s.report.KeyInfo = 1 << 2
	delete(s.extensions, "4")
	s.extensions["5"] = must(t, func() ([]byte, error) { return asn1.MarshalWithParams("CN=cloud.example", "ia5") })
}

func (s *scene) issueVEK(t testing.TB) []byte {
	t.Helper()
	template := s.vek
	for _, oid := range slices.Sorted(maps.Keys(s.extensions)) {
		id := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
		for arc := range strings.SplitSeq(oid, ".") {
			id = append(id, must(t, func() (int, error) { return strconv.Atoi(arc) }))
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: id, Value: s.extensions[oid]})
	}
	cert, err := issue(&template, s.issuer, s.vekKey, s.issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Raw
}

// evidence signs the report, issues the certificate and puts both into a document.
func (s *scene) evidence(t testing.TB) json.RawMessage {
	t.Helper()
	sign(t, s.report, s.signer)
	return s.document(t)
}

func (s *scene) document(t testing.TB) json.RawMessage {
	t.Helper()
	return must(t, func() ([]byte, error) {
		return json.Marshal(&snp.Evidence{Report: s.report, Certs: s.certs(s.issueVEK(t))})
	})
}

func sign(t testing.TB, r *snp.Report, key *ecdsa.PrivateKey) {
	t.Helper()
	digest := sha512.Sum384(r.Marshal()[:0x2A0])
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	for n, field := range map[*big.Int]*[72]byte{x: &r.R, y: &r.S} {
		n.FillBytes(field[:])
		slices.Reverse(field[:])
	}
}
