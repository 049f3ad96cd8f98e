// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/nacre-project/nacre/attest"
)

// rememberedChains is how many verified chains a verifier keeps, about 10 KiB each. A chain is one chip at one
// firmware level, or one cloud provider's key.
const rememberedChains = 1024

// chain is a verified chain of certificates. Only its validity dates have to be looked at again.
type chain struct {
	anchor       *anchor
	intermediate *x509.Certificate // ASK or ASVK
	endorsement  *endorsement
}

// checkValidity refuses a chain of which a certificate is not valid at a time.
func (c *chain) checkValidity(now time.Time) error {
	for _, cert := range []*x509.Certificate{c.anchor.ARK, c.intermediate, c.endorsement.cert} {
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return attest.Refuse(attest.CodeCertificateExpired, nil, "%s is valid from %s to %s, now is %s",
				cert.Subject.CommonName, cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339),
				now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// anchor is a trusted root with its name for people.
type anchor struct {
	Root
	name string
}

func newAnchor(r Root, vendor bool) *anchor {
	digest := sha256.Sum256(r.ARK.Raw)
	switch {
	case vendor:
		return &anchor{r, "AMD " + r.ARK.Subject.CommonName}
	case r.Simulated:
		return &anchor{r, fmt.Sprintf("simulated sha256:%x", digest[:8])}
	}
	return &anchor{r, fmt.Sprintf("configured %s sha256:%x", r.ARK.Subject.CommonName, digest[:8])}
}

// chains verifies certificate chains against its anchors and remembers those that verified: a chain costs two RSA-4096
// verifications, which is as much again as the report's own signature.
type chains struct {
	anchors  []*anchor
	verified *lru.Cache[[sha256.Size]byte, *chain]
}

func newChains(anchors []*anchor) *chains {
	cache, err := lru.New[[sha256.Size]byte, *chain](rememberedChains)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &chains{anchors: anchors, verified: cache}
}

// verify returns the chain from an endorsement certificate to a trusted root of the product. Intermediates that came
// with the evidence are used where a trusted ARK signed them; a root that came with it is of no use to anybody. An
// empty product means that the certificate's issuer says which.
func (cs *chains) verify(p Product, kind SigningKey, endorsing []byte, supplied []Cert) (*chain, error) {
	asked := p
	supplied = usefulASKs(supplied)
	if c, ok := cs.remembered(asked, kind, endorsing, supplied); ok {
		return c, nil
	}
	e, err := parseEndorsement(endorsing, kind)
	if err != nil {
		return nil, err
	}
	if p == "" {
		var ok bool
		if p, ok = productOfIssuer(e.cert.Issuer.CommonName); !ok {
			return nil, attest.Refuse(attest.CodeEvidenceUnsupported, nil,
				"a version 2 report names no product, and neither does its certificate's issuer %q",
				e.cert.Issuer.CommonName)
		}
	}
	if kind == SignedByVCEK && len(e.hwid) != p.hwidSize() {
		return nil, attest.Refuse(attest.CodeCertificateInvalid, nil, "%s: the hardware id has %d bytes, on %s it has %d",
			kind, len(e.hwid), p, p.hwidSize())
	}
	if p == Turin && !e.hasFMC {
		return nil, attest.Refuse(attest.CodeCertificateInvalid, nil, "%s: extension %s is missing", kind, oidFMC)
	}
	var tried []string
	for _, a := range cs.anchors {
		if a.Product != p {
			continue
		}
		tried = append(tried, a.name)
		for intermediate, came := range a.intermediates(kind, supplied) {
			if checkIssued(e.cert, intermediate) == nil {
				c := &chain{anchor: a, intermediate: intermediate, endorsement: e}
				cs.verified.Add(chainKey(asked, kind, endorsing, came), c)
				return c, nil
			}
		}
	}
	return nil, attest.Refuse(attest.CodeRootUntrusted, nil, "%s issued by %q leads to none of the trusted roots %q",
		kind, e.cert.Issuer.CommonName, tried)
}

// remembered returns the chain that verified before: by a configured intermediate, or by one that came along again.
func (cs *chains) remembered(p Product, kind SigningKey, endorsing []byte, supplied []Cert) (*chain, bool) {
	c, ok := cs.verified.Get(chainKey(p, kind, endorsing, nil))
	for i := 0; !ok && i < len(supplied); i++ {
		c, ok = cs.verified.Get(chainKey(p, kind, endorsing, supplied[i].Data))
	}
	return c, ok
}

// maxSuppliedASKs is how many intermediates of an evidence are looked at. A chain needs one, and while AMD changes its
// certificate a host may send two; each one costs an RSA verification.
const maxSuppliedASKs = 2

// usefulASKs returns the first intermediates that came with the evidence.
func usefulASKs(supplied []Cert) []Cert {
	var asks []Cert
	for _, c := range supplied {
		if c.Type == CertASK && len(asks) < maxSuppliedASKs {
			asks = append(asks, c)
		}
	}
	return asks
}

// intermediates returns the certificates that may issue endorsements of a kind under a, which are those that a.ARK
// signed: the configured one first, then those that came along, each with the data that it came as. One that is not
// asked for is not verified.
func (a *anchor) intermediates(kind SigningKey, supplied []Cert) iter.Seq2[*x509.Certificate, []byte] {
	own := a.ASK
	if kind == SignedByVLEK {
		own = a.ASVK
	}
	return func(yield func(*x509.Certificate, []byte) bool) {
		if own != nil && checkIssued(own, a.ARK) == nil {
			if !yield(own, nil) {
				return
			}
		}
		for _, c := range supplied {
			cert, err := x509.ParseCertificate(derOf(c.Data))
			if err != nil || own != nil && cert.Equal(own) || cert.Subject.CommonName != issuerName(a.Product, kind) {
				continue
			}
			if checkIssued(cert, a.ARK) == nil {
				if !yield(cert, c.Data) {
					return
				}
			}
		}
	}
}

// checkIssued reports whether issuer signed cert, with RSA-PSS and SHA-384 as all of AMD's certificates are.
func checkIssued(cert, issuer *x509.Certificate) error {
	if cert.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("%s is signed by %s, wanted %s", cert.Subject.CommonName, cert.SignatureAlgorithm,
			x509.SHA384WithRSAPSS)
	}
	return cert.CheckSignatureFrom(issuer)
}

// chainKey is a digest over what a chain was verified of, each part after its length: the product that was asked for,
// the endorsement, and the intermediate if it came along (nil: a configured one). What else came along is not in it, so
// that nobody can have one chain remembered often.
func chainKey(p Product, kind SigningKey, endorsing, intermediate []byte) (key [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(p), {byte(kind)}, endorsing, intermediate} {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(key[:0]))
}
