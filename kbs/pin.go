// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// maxPinnedCert caps the pinned certificate's PEM text, in bytes.
const maxPinnedCert = 64 << 10

// pinnedTLS is the TLS configuration that trusts one certificate and no clock.
//
// A guest's clock comes from its host until a verified token sets it, so the guest knows the broker by certificate
// and lets time decide nothing: the verification time is now, moved into the certificate's own validity. The name
// that is verified is the certificate's own too, where it has one, for the pin says who the broker is and the
// address says only where.
func pinnedTLS(pemText []byte, now func() time.Time) (*tls.Config, error) {
	cert, err := parsePinned(pemText)
	if err != nil {
		return nil, fmt.Errorf("pinned certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	config := &tls.Config{
		RootCAs:    roots,
		MinVersion: tls.VersionTLS12,
		Time: func() time.Time {
			switch t := now(); {
			case t.Before(cert.NotBefore):
				return cert.NotBefore
			case t.After(cert.NotAfter):
				return cert.NotAfter
			default:
				return t
			}
		},
	}
	switch {
	case len(cert.DNSNames) > 0:
		config.ServerName = cert.DNSNames[0]
	case len(cert.IPAddresses) > 0:
		config.ServerName = cert.IPAddresses[0].String()
	case !cert.IsCA:
		return nil, errors.New(
			"pinned certificate: it names no server: make it with a DNS name or an address as subject alternative name",
		)
	} // a CA: the server's certificate must be for the host in the URL
	return config, nil
}

func parsePinned(pemText []byte) (*x509.Certificate, error) {
	if len(pemText) > maxPinnedCert {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(pemText), maxPinnedCert)
	}
	block, rest := pem.Decode(pemText)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM block of type CERTIFICATE")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("more than one PEM block: pin the server's own certificate, or its one CA")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if cert.NotAfter.Before(cert.NotBefore) {
		return nil, errors.New("its validity ends before it begins")
	}
	return cert, nil
}
