// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
)

// The certificates of AMD's key distribution service, /vcek/v1/<product>/cert_chain and /vlek/v1/<product>/cert_chain:
// ARK, ASK, ASVK.
var (
	//go:embed roots/milan.pem
	milanPEM []byte
	//go:embed roots/genoa.pem
	genoaPEM []byte
	//go:embed roots/turin.pem
	turinPEM []byte
)

// Root is a root of trust for one product: the AMD Root Key and the keys that it certified.
type Root struct {
	Product Product
	ARK     *x509.Certificate // AMD Root Key, self-signed: what is trusted
	ASK     *x509.Certificate // AMD SEV Key, which signs VCEKs
	ASVK    *x509.Certificate // AMD SEV VLEK Key, which signs VLEKs; nil: VLEKs are not accepted under this root

	// Simulated marks a root that is not AMD's. It is carried into the claims of all evidence that ends in this root.
	Simulated bool
}

// AMDRoots returns AMD's root of each product.
func AMDRoots() []Root {
	return []Root{
		amdRoot(Milan, milanPEM),
		amdRoot(Genoa, genoaPEM),
		amdRoot(Turin, turinPEM),
	}
}

func amdRoot(p Product, chain []byte) Root {
	var certs [3]*x509.Certificate
	for i := range certs {
		var block *pem.Block
		block, chain = pem.Decode(chain)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(fmt.Sprintf("the embedded %s root is damaged: %v", p, err))
		}
		certs[i] = cert
	}
	return Root{Product: p, ARK: certs[0], ASK: certs[1], ASVK: certs[2]}
}
