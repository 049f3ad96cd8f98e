// SPDX-License-Identifier: Apache-2.0

// Package identity makes the certificate by which guests and owners know a trustee that was given none.
//
// The certificate is made once and kept, key and all, in the store: guests pin it in their init-data, so a new one
// would lock them out. It is signed by its own key; there is no authority, and whoever pins it trusts this one
// trustee.
package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/store"
)

const namespace store.Namespace = "server"

// certKey is the key in the store of the PEM of the certificate, followed by its private key.
const certKey = "tls-certificate"

// alwaysNamed are the names that every certificate has.
var alwaysNamed = []string{"nacre-trustee", "localhost", "127.0.0.1", "::1"}

// lifetime is long, because guests pin the certificate and look at no clock. Years.
const lifetime = 20

// Load returns the trustee's own certificate, and makes it at the first start, with the names given (DNS names or
// addresses) beside those it always has. Missing lists names that were asked for and that an older certificate does
// not have.
func Load(ctx context.Context, s *store.Store, names []string, now time.Time) (
	cert tls.Certificate, missing []string, err error,
) {
	text, err := s.Get(ctx, namespace, certKey)
	if errors.Is(err, store.ErrNotFound) {
		if text, err = create(append(append([]string{}, alwaysNamed...), names...), now); err != nil {
			return tls.Certificate{}, nil, fmt.Errorf("make the trustee's certificate: %w", err)
		}
		err = s.Update(ctx, func(tx *store.Tx) error { return tx.PutNew(namespace, certKey, text) })
	}
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("keep the trustee's certificate: %w", err)
	}
	if cert, err = tls.X509KeyPair(text, text); err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("load the trustee's certificate: %w", err)
	}
	for _, name := range names {
		if cert.Leaf.VerifyHostname(name) != nil {
			missing = append(missing, name)
		}
	}
	return cert, missing, nil
}

func create(names []string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "nacre-trustee", Organization: []string{"Nacre"}},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.AddDate(lifetime, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}

// PEM returns a certificate without its key, for those who pin it.
func PEM(cert tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
}

// Fingerprint is the SHA-256 of a certificate, in hex.
func Fingerprint(cert tls.Certificate) string {
	digest := sha256.Sum256(cert.Certificate[0])
	return hex.EncodeToString(digest[:])
}
