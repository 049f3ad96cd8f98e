// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/nacre-project/nacre/secret"
)

// TEEKey is a guest's key pair, made in the guest for one token: the evidence is bound to its public half, resources
// are encrypted to it, and its private half leaves the guest never.
type TEEKey struct {
	public JWK
	ecdh   *ecdh.PrivateKey // one of these
	rsa    *rsa.PrivateKey
}

// GenerateTEEKey makes a key pair. RSA keys have 2048 bits, as stock guests' do; prefer [ECDHP256], which costs a
// thousandth.
func GenerateTEEKey(algorithm Algorithm) (*TEEKey, error) {
	var crv string
	switch algorithm {
	case ECDHP256:
		crv = crvP256
	case ECDHP521:
		crv = crvP521
	case RSAOAEP256:
		private, err := rsa.GenerateKey(rand.Reader, minRSABits)
		if err != nil {
			return nil, fmt.Errorf("generating the TEE key: %w", err)
		}
		return &TEEKey{public: rsaJWK(&private.PublicKey), rsa: private}, nil
	default:
		return nil, fmt.Errorf("generating the TEE key: algorithm %q is not supported, want %s, %s or %s",
			clip(string(algorithm)), ECDHP256, ECDHP521, RSAOAEP256)
	}
	curve, _, err := curveOf(crv)
	if err != nil {
		return nil, fmt.Errorf("generating the TEE key: %w", err)
	}
	private, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the TEE key: %w", err)
	}
	return &TEEKey{public: ecJWK(crv, private.PublicKey()), ecdh: private}, nil
}

// Public is the public half.
func (k *TEEKey) Public() JWK { return k.public }

// MarshalPEM writes the private half as stock guest programs pass it on: PKCS#8 for EC keys, PKCS#1 for RSA keys.
func (k *TEEKey) MarshalPEM() (secret.Bytes, error) {
	if k.rsa != nil {
		der := x509.MarshalPKCS1PrivateKey(k.rsa)
		return secret.New(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der})), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.ecdh)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("writing the TEE key: %w", err)
	}
	return secret.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// String implements fmt.Stringer, and keeps the private half out of printed structures.
func (k *TEEKey) String() string { return "TEE key " + secret.Redacted }

// GoString implements fmt.GoStringer for the same reason.
func (k *TEEKey) GoString() string { return k.String() }
