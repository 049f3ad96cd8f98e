// SPDX-License-Identifier: Apache-2.0

package simtee

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/attest/snp"
)

// Organization is in the subject of every simulated certificate, so that neither people nor programs take a simulated
// root for a vendor's.
const Organization = "Nacre simulated platform"

// maxRootSize bounds a root file in bytes. Two certificates with 4096-bit keys take a tenth of it.
const maxRootSize = 32 << 10

// FormatRoot returns the file that carries a simulated root: ARK, then ASK, in PEM.
func FormatRoot(r snp.Root) []byte {
	var b []byte
	for _, cert := range []*x509.Certificate{r.ARK, r.ASK} {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return b
}

// ParseRoot reads a file of FormatRoot. The result is marked as simulated. It refuses certificates that do not name
// Organization: a vendor's root must not be taken in as a simulated one, or its guests would count as simulated.
func ParseRoot(file []byte) (snp.Root, error) {
	fail := func(format string, args ...any) (snp.Root, error) {
		return snp.Root{}, fmt.Errorf("reading a simulated root: "+format, args...)
	}
	if len(file) > maxRootSize {
		return fail("it has %d bytes, at most %d are read", len(file), maxRootSize)
	}
	var certs []*x509.Certificate
	for rest := file; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return fail("there is something beside PEM blocks in it")
		}
		if block.Type != "CERTIFICATE" {
			return fail("there is a PEM block %q in it", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fail("certificate %d: %w", len(certs)+1, err)
		}
		if !slices.Equal(cert.Subject.Organization, []string{Organization}) {
			return fail("certificate %d is of organization %q, wanted %q", len(certs)+1, cert.Subject.Organization,
				Organization)
		}
		certs = append(certs, cert)
	}
	if len(certs) != 2 {
		return fail("there are %d certificates in it, wanted two: ARK and ASK", len(certs))
	}
	name, ok := strings.CutPrefix(certs[0].Subject.CommonName, "ARK-")
	product := snp.Product(name)
	if !ok || product != snp.Milan && product != snp.Genoa && product != snp.Turin {
		return fail("the first certificate is named %q, wanted ARK-Milan, ARK-Genoa or ARK-Turin",
			certs[0].Subject.CommonName)
	}
	if want := "SEV-" + name; certs[1].Subject.CommonName != want {
		return fail("the second certificate is named %q, wanted %q", certs[1].Subject.CommonName, want)
	}
	for i, what := range []string{"ARK", "ASK"} {
		if err := certs[i].CheckSignatureFrom(certs[0]); err != nil {
			return fail("the ARK did not sign the %s: %w", what, err)
		}
	}
	return snp.Root{Product: product, ARK: certs[0], ASK: certs[1], Simulated: true}, nil
}
