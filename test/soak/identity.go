// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/kbs"
)

// identity is what a trustee is given from outside, in files of one directory, and what its clients know it by.
type identity struct {
	dir   string
	admin kbs.AdminKey
	pool  *x509.CertPool
}

// Files of an identity.
const (
	certFile  = "tls.crt"
	keyFile   = "tls.key"
	adminFile = "admin.pub"
	rootFile  = "root.pem"
)

var identityFiles = []string{certFile, keyFile, adminFile, rootFile}

// newIdentity makes an identity for a trustee that trusts a simulated platform.
func newIdentity(dir string, platform *signer.Platform) (identity, error) {
	i := identity{dir: dir, pool: x509.NewCertPool()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return i, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return i, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nacre soak"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(7 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return i, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return i, err
	}
	if i.admin, err = kbs.NewAdminKey(); err != nil {
		return i, err
	}
	administrator, err := i.admin.PublicPEM()
	if err != nil {
		return i, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	i.pool.AppendCertsFromPEM(cert)
	for name, text := range map[string][]byte{
		certFile: cert, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		adminFile: administrator, rootFile: simtee.FormatRoot(platform.Root()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return i, err
		}
	}
	return i, nil
}

// arguments are the trustee's; dir is where it finds the files.
func (i identity) arguments(listen, dir, data, storeKey string) []string {
	return []string{
		"--json", "--listen", listen, "--data", data, "--key-file", storeKey,
		"--tls-cert", filepath.Join(dir, certFile), "--tls-key", filepath.Join(dir, keyFile),
		"--admin-public-key", filepath.Join(dir, adminFile), "--allow-simulated-root", filepath.Join(dir, rootFile),
		"--kds-url", "", "--token-lifetime", "1h", "--session-lifetime", "1h",
	}
}
