// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/nacre-project/nacre/secret"
)

// AdminKey is an owner's Ed25519 key pair. Its private half stays with the owner; a broker knows the public half and
// the role that goes with it.
type AdminKey struct{ private secret.Bytes } // an ed25519.PrivateKey

// AdminClaims is the content of an administrator's token, a JWT signed with EdDSA. Times are Unix seconds.
type AdminClaims struct {
	Role      string           `json:"role"`
	Audience  jwt.Audience     `json:"aud,omitempty"`
	IssuedAt  *jwt.NumericDate `json:"iat,omitempty"`
	Expiry    *jwt.NumericDate `json:"exp,omitempty"`
	NotBefore *jwt.NumericDate `json:"nbf,omitempty"` // not needed; when it is there, it counts
}

// NewAdminKey makes a key pair.
func NewAdminKey() (AdminKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return AdminKey{}, fmt.Errorf("generating the admin key: %w", err)
	}
	return AdminKey{secret.New(private)}, nil
}

// ParseAdminKey reads the PKCS#8 PEM that [AdminKey.MarshalPEM] writes.
func ParseAdminKey(pemText []byte) (AdminKey, error) {
	block, _ := pem.Decode(pemText)
	if block == nil || block.Type != "PRIVATE KEY" {
		return AdminKey{}, errors.New("reading the admin key: no PEM block of type PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return AdminKey{}, fmt.Errorf("reading the admin key: %w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return AdminKey{}, fmt.Errorf("reading the admin key: it is a %T, want Ed25519", key)
	}
	return AdminKey{secret.New(private)}, nil
}

// MarshalPEM writes the private half as PKCS#8 PEM.
func (k AdminKey) MarshalPEM() (secret.Bytes, error) {
	private, err := k.reveal()
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("writing the admin key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("writing the admin key: %w", err)
	}
	return secret.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// reveal is the private half. Only the zero AdminKey has none.
func (k AdminKey) reveal() (ed25519.PrivateKey, error) {
	if k.private.Len() != ed25519.PrivateKeySize {
		return nil, errors.New("there is no key: use NewAdminKey or ParseAdminKey")
	}
	return k.private.Reveal(), nil
}

// Public is the public half, nil for the zero AdminKey.
func (k AdminKey) Public() ed25519.PublicKey {
	private, err := k.reveal()
	if err != nil {
		return nil
	}
	return private.Public().(ed25519.PublicKey)
}

// PublicPEM writes the public half as PKIX PEM, for the broker's configuration.
func (k AdminKey) PublicPEM() ([]byte, error) {
	private, err := k.reveal()
	if err != nil {
		return nil, fmt.Errorf("writing the public admin key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("writing the public admin key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Token makes a bearer token for a role at a broker.
func (k AdminKey) Token(now time.Time, lifetime time.Duration, audience, role string) (string, error) {
	private, err := k.reveal()
	if err != nil {
		return "", fmt.Errorf("making an admin token: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: private},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("making an admin token: %w", err)
	}
	token, err := jwt.Signed(signer).Claims(AdminClaims{
		Role:     role,
		Audience: jwt.Audience{audience},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(lifetime)),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("making an admin token: %w", err)
	}
	return token, nil
}

// String implements fmt.Stringer, and keeps the private half out of printed structures.
func (k AdminKey) String() string { return "admin key " + secret.Redacted }

// GoString implements fmt.GoStringer for the same reason.
func (k AdminKey) GoString() string { return k.String() }
