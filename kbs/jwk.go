// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/nacre-project/nacre/strictjson"
)

// Algorithm is a kind of TEE key and the way a resource is encrypted to it.
type Algorithm string

// The algorithms, by the names that stock guests' configuration gives them.
const (
	ECDHP256   Algorithm = "ECDH-ES+A256KW-P256"
	ECDHP521   Algorithm = "ECDH-ES+A256KW-P521"
	RSAOAEP256 Algorithm = "RSA-OAEP-256"
)

// Values of the JWK and JWE members that are in use.
const (
	ktyEC      = "EC"
	ktyRSA     = "RSA"
	crvP256    = "P-256"
	crvP521    = "P-521"
	algECDH    = "ECDH-ES+A256KW"
	algRSAOAEP = "RSA-OAEP-256"
	encA256GCM = "A256GCM"
)

// Bounds of an RSA key in bits, and its exponent.
const (
	minRSABits  = 2048
	maxRSABits  = 4096
	rsaExponent = 65537
)

// maxJWKSize caps a JWK's text, in bytes.
const maxJWKSize = 16 << 10

// JWK is a TEE public key, with the members that the protocol knows. Values are text, as they were received, since
// they are hashed as such; [JWK.Validate] says whether they make a key.
type JWK struct {
	KTY string // EC or RSA
	ALG string // ECDH-ES+A256KW or RSA-OAEP-256
	CRV string // EC: P-256 or P-521
	X   string // EC: base64url, 32 or 66 bytes, big endian
	Y   string // EC: as X
	N   string // RSA: base64url, big endian, without leading zeros
	E   string // RSA: base64url, AQAB
}

// ParseJWK reads a JWK and validates it. Members that the protocol does not know are dropped.
func ParseJWK(text []byte) (JWK, error) {
	members, err := strictjson.ParseObject(text, maxJWKSize)
	if err != nil {
		return JWK{}, err
	}
	return jwkOf(members)
}

func jwkOf(members strictjson.Object) (JWK, error) {
	var k JWK
	var err error
	if k.KTY, err = members.Text("kty"); err != nil {
		return JWK{}, err
	}
	for name, s := range k.fields() {
		if *s, err = members.Text(name); err != nil {
			return JWK{}, err
		}
	}
	if err := k.Validate(); err != nil {
		return JWK{}, err
	}
	return k, nil
}

// fields are the members that a key of k's type has, by name.
func (k *JWK) fields() map[string]*string {
	switch k.KTY {
	case ktyEC:
		return map[string]*string{"kty": &k.KTY, "crv": &k.CRV, "alg": &k.ALG, "x": &k.X, "y": &k.Y}
	case ktyRSA:
		return map[string]*string{"kty": &k.KTY, "alg": &k.ALG, "n": &k.N, "e": &k.E}
	}
	return map[string]*string{"kty": &k.KTY}
}

// members is the JSON object that k is, for writing and hashing.
func (k JWK) members() map[string]any {
	out := map[string]any{}
	for name, s := range k.fields() {
		out[name] = *s
	}
	return out
}

// MarshalJSON writes the members of the key's type, sorted.
func (k JWK) MarshalJSON() ([]byte, error) { return appendCanonical(nil, k.members()) }

// UnmarshalJSON is [ParseJWK].
func (k *JWK) UnmarshalJSON(text []byte) error {
	parsed, err := ParseJWK(text)
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

var _ json.Unmarshaler = (*JWK)(nil)

// Algorithm says how to encrypt to the key.
func (k JWK) Algorithm() (Algorithm, error) {
	switch {
	case k.KTY == ktyEC && k.ALG == algECDH && k.CRV == crvP256:
		return ECDHP256, nil
	case k.KTY == ktyEC && k.ALG == algECDH && k.CRV == crvP521:
		return ECDHP521, nil
	case k.KTY == ktyRSA && k.ALG == algRSAOAEP:
		return RSAOAEP256, nil
	case k.ALG == "RSA1_5":
		return "", errors.New("alg RSA1_5 is refused: its padding lets an observer decrypt; use RSA-OAEP-256")
	}
	return "", fmt.Errorf("a key of kty %q, crv %q, alg %q is not supported", clip(k.KTY), clip(k.CRV), clip(k.ALG))
}

// Validate says whether k is a key that a resource may be encrypted to: an algorithm in use, a point on its curve, a
// modulus of 2048 to 4096 bits.
func (k JWK) Validate() error {
	algorithm, err := k.Algorithm()
	if err != nil {
		return err
	}
	if algorithm == RSAOAEP256 {
		_, err = k.rsa()
	} else {
		_, err = k.ecdh()
	}
	return err
}

// curveOf is the curve of an EC algorithm, and the bytes in a coordinate.
func curveOf(crv string) (curve ecdh.Curve, size int, err error) {
	switch crv {
	case crvP256:
		return ecdh.P256(), 32, nil
	case crvP521:
		return ecdh.P521(), 66, nil
	}
	return nil, 0, fmt.Errorf("curve %q is not supported", clip(crv))
}

// ecdh is the point of an EC key. That it lies on the curve is checked.
func (k JWK) ecdh() (*ecdh.PublicKey, error) {
	curve, size, err := curveOf(k.CRV)
	if err != nil {
		return nil, err
	}
	point := []byte{4} // SEC 1 section 2.3.3: uncompressed
	for _, coordinate := range []struct{ name, text string }{{"x", k.X}, {"y", k.Y}} {
		raw, err := decodeBase64URL(coordinate.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", coordinate.name, err)
		}
		if len(raw) != size {
			return nil, fmt.Errorf("%s has %d bytes, a %s coordinate has %d", coordinate.name, len(raw), k.CRV, size)
		}
		point = append(point, raw...)
	}
	public, err := curve.NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("the point is not on %s: %w", k.CRV, err)
	}
	return public, nil
}

// rsa is the public key of an RSA key.
func (k JWK) rsa() (*rsa.PublicKey, error) {
	modulus, err := decodeBase64URL(k.N)
	if err != nil {
		return nil, fmt.Errorf("n: %w", err)
	}
	exponent, err := decodeBase64URL(k.E)
	if err != nil {
		return nil, fmt.Errorf("e: %w", err)
	}
	n := new(big.Int).SetBytes(modulus)
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits || len(modulus)*8 != (bits+7)/8*8 {
		return nil, fmt.Errorf("a modulus of %d bits in %d bytes, want %d to %d bits and no leading zeros",
			bits, len(modulus), minRSABits, maxRSABits)
	}
	if n.Bit(0) == 0 {
		return nil, errors.New("the modulus is even")
	}
	if e := new(big.Int).SetBytes(exponent); !e.IsInt64() || e.Int64() != rsaExponent || len(exponent) != 3 {
		return nil, fmt.Errorf("the exponent is not %d", rsaExponent)
	}
	return &rsa.PublicKey{N: n, E: rsaExponent}, nil
}

// ecJWK is the JWK of a point.
func ecJWK(crv string, public *ecdh.PublicKey) JWK {
	point := public.Bytes()[1:]
	return JWK{KTY: ktyEC, ALG: algECDH, CRV: crv,
		X: encodeBase64URL(point[:len(point)/2]), Y: encodeBase64URL(point[len(point)/2:])}
}

// rsaJWK is the JWK of an RSA key.
func rsaJWK(public *rsa.PublicKey) JWK {
	return JWK{KTY: ktyRSA, ALG: algRSAOAEP, N: encodeBase64URL(public.N.Bytes()),
		E: encodeBase64URL(big.NewInt(int64(public.E)).Bytes())}
}

func encodeBase64URL(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// decodeBase64URL is strict, so that a value has one spelling: no padding, no line breaks, no stray last bits.
func decodeBase64URL(text string) ([]byte, error) {
	for i := range len(text) {
		if text[i] == '\r' || text[i] == '\n' { // which encoding/base64 skips
			return nil, errors.New("a line break in base64url")
		}
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}
