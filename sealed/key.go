// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/strictjson"
)

const (
	maxJWK         = 16 << 10
	coordinateSize = 32 // bytes of a coordinate of P-256, and of a private key
)

// VerifyingKey is the public key of somebody who seals secrets. The zero value verifies nothing.
type VerifyingKey struct{ public *ecdsa.PublicKey }

// ParseVerifyingKey reads a JWK (RFC 7517): kty EC, crv P-256, x and y. Where it says what it is for, that must be
// verifying ES256 signatures. A JWK with a private part is refused: whoever may fetch it could sign with it.
func ParseVerifyingKey(jwk []byte) (VerifyingKey, error) {
	members, public, err := parseJWK(jwk)
	if err != nil {
		return VerifyingKey{}, refuse(KeyInvalid, "verification key: %w", err)
	}
	if _, private := members["d"]; private {
		return VerifyingKey{}, refuse(KeyInvalid, "verification key: this is the private key; guests get the public one, without member d")
	}
	return VerifyingKey{public}, nil
}

// JWK is the key as a JWK, with kid in it.
func (k VerifyingKey) JWK(kid string) ([]byte, error) {
	return formatJWK(k.public, kid, nil)
}

// SigningKey is the private key of somebody who seals secrets.
type SigningKey struct{ private *ecdsa.PrivateKey }

// NewSigningKey makes a key.
func NewSigningKey() (SigningKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return SigningKey{}, fmt.Errorf("making a signing key: %w", err)
	}
	return SigningKey{k}, nil
}

// ParseSigner reads a JWK with its private part, member d. The key id is its member kid, "" if it has none.
func ParseSigner(jwk secret.Bytes) (Signer, error) {
	s, err := parseSigner(jwk.Reveal())
	if err != nil {
		return Signer{}, refuse(KeyInvalid, "signing key: %w", err)
	}
	return s, nil
}

func parseSigner(jwk []byte) (Signer, error) {
	members, public, err := parseJWK(jwk)
	if err != nil {
		return Signer{}, err
	}
	d, err := number(members, "d")
	if err != nil {
		return Signer{}, err
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		return Signer{}, errors.New("member d is not a private key of P-256")
	}
	if !private.PublicKey.Equal(public) {
		return Signer{}, errors.New("members x and y are not those of the private key d")
	}
	s := Signer{Key: SigningKey{private}}
	if _, named := members["kid"]; named {
		if s.KeyID, err = members.Text("kid"); err != nil {
			return Signer{}, err
		}
	}
	return s, nil
}

// Verifying is the public half.
func (k SigningKey) Verifying() VerifyingKey { return VerifyingKey{&k.private.PublicKey} }

// PrivateJWK is the key as a JWK, with kid and the private part in it.
func (k SigningKey) PrivateJWK(kid string) (secret.Bytes, error) {
	d, err := k.private.Bytes()
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("writing the signing key: %w", err)
	}
	text, err := formatJWK(&k.private.PublicKey, kid, d)
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.New(text), nil
}

// String implements fmt.Stringer.
func (k SigningKey) String() string { return "signing key " + secret.Redacted }

// GoString implements fmt.GoStringer.
func (k SigningKey) GoString() string { return k.String() }

// parseJWK reads a key for ES256. Members that are not known are passed over, as RFC 7517 §4 demands.
func parseJWK(text []byte) (strictjson.Object, *ecdsa.PublicKey, error) {
	members, err := strictjson.ParseObject(text, maxJWK)
	if err != nil {
		return nil, nil, fmt.Errorf("not a JWK: %w", err)
	}
	for name, want := range map[string]string{"kty": "EC", "crv": "P-256"} {
		if got, err := members.Text(name); err != nil {
			return nil, nil, err
		} else if got != want {
			return nil, nil, fmt.Errorf("%s is %q, want %s", name, clip(got), want)
		}
	}
	for name, want := range map[string]string{"alg": algES256, "use": "sig"} {
		if _, there := members[name]; !there {
			continue
		}
		if got, err := members.Text(name); err != nil || got != want {
			return nil, nil, fmt.Errorf("%s is %q, want %s", name, clip(got), want)
		}
	}
	x, err := number(members, "x")
	if err != nil {
		return nil, nil, err
	}
	y, err := number(members, "y")
	if err != nil {
		return nil, nil, err
	}
	point := append(append([]byte{4}, x...), y...) // SEC 1 §2.3.3, uncompressed
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return nil, nil, errors.New("x and y are not a point of P-256")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, nil, errors.New("x and y are not a point of P-256")
	}
	return members, public, nil
}

// number reads a coordinate or a private key: 32 bytes, big endian, base64url.
func number(o strictjson.Object, name string) ([]byte, error) {
	text, err := o.Text(name)
	if err != nil {
		return nil, err
	}
	raw, err := decode(name, text)
	if err != nil || len(raw) != coordinateSize {
		return nil, fmt.Errorf("member %q is not %d bytes in base64url", name, coordinateSize)
	}
	return raw, nil
}

func formatJWK(public *ecdsa.PublicKey, kid string, d []byte) ([]byte, error) {
	if public == nil {
		return nil, errors.New("writing a JWK: there is no key")
	}
	point, err := public.Bytes() // 4 ‖ x ‖ y
	if err != nil {
		return nil, fmt.Errorf("writing a JWK: %w", err)
	}
	return json.Marshal(struct {
		KTY string `json:"kty"`
		CRV string `json:"crv"`
		ALG string `json:"alg"`
		Use string `json:"use"`
		KID string `json:"kid,omitempty"`
		X   string `json:"x"`
		Y   string `json:"y"`
		D   string `json:"d,omitempty"`
	}{"EC", "P-256", algES256, "sig", kid, encode(point[1 : 1+coordinateSize]), encode(point[1+coordinateSize:]), encode(d)})
}
