// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/strictjson"
)

// Provider is an identity provider: somebody other than the trustee's owner whose tokens make administrators, as those
// of upstream's tools do. A token needs a claim role, a string, and exp.
type Provider struct {
	Name     string        // for the log and the audit trail
	Keys     []ProviderKey // any of them may have signed
	Issuer   string        // iss that tokens must have; "": any, or none
	Audience string        // aud that tokens must have; "": any, or none
	Roles    []string      // of administrators; each may do everything. None: Role
	// UnsafeAnyLifetime lets tokens count until their exp, however far that is, and without iat. One that leaks then
	// cannot be taken back but by another key.
	UnsafeAnyLifetime bool
}

// ProviderKey is a public key, and which signatures of it count. The zero value is none.
type ProviderKey struct {
	key        crypto.PublicKey // *ecdsa, *rsa or ed25519
	id         string           // kid that tokens must name; "": any, or none
	algorithms []jose.SignatureAlgorithm
}

const (
	minRSA          = 2048 // bits
	maxProviderKeys = 64
	// MaxKeyFile caps the file of a public key or key set, in bytes.
	MaxKeyFile = 256 << 10
)

// providerAlgorithms are all that some key may sign with. Neither "none" nor any HMAC is among them.
var providerAlgorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256, jose.ES384, jose.ES512,
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}

// algorithms are those that a public key's type and size allow.
func algorithms(key crypto.PublicKey) ([]jose.SignatureAlgorithm, error) {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	case *ecdsa.PublicKey:
		switch name := key.Curve.Params().Name; name {
		case "P-256":
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case "P-384":
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case "P-521":
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		default:
			return nil, fmt.Errorf("its curve is %s, want P-256, P-384 or P-521", name)
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return nil, fmt.Errorf("it is an RSA key of %d bits, at least %d are needed", bits, minRSA)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	}
	return nil, fmt.Errorf("it is a %T, want a public key of EC, RSA or Ed25519", key)
}

// ParseProviderKey reads an EC, RSA or Ed25519 public key in PEM (PKIX).
func ParseProviderKey(text []byte) (ProviderKey, error) {
	key, err := parsePKIX(text)
	if err != nil {
		return ProviderKey{}, err
	}
	allowed, err := algorithms(key)
	return ProviderKey{key: key, algorithms: allowed}, err
}

// ParseKeySet reads a JWK set (RFC 7517 §5) of public keys. Keys that are for encryption are left out; any other that
// cannot be used is an error, for its owner expects it to count. A key's kid and alg hold.
func ParseKeySet(text []byte) ([]ProviderKey, error) {
	set, err := strictjson.ParseObject(text, MaxKeyFile)
	if err != nil {
		return nil, err
	}
	list, err := set.Array("keys")
	if err != nil {
		return nil, err
	}
	if len(list) > maxProviderKeys {
		return nil, fmt.Errorf("it has %d keys, at most %d", len(list), maxProviderKeys)
	}
	var keys []ProviderKey
	for i, value := range list {
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(value.Raw()); err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if jwk.Use == "enc" {
			continue
		}
		if !jwk.IsPublic() {
			return nil, fmt.Errorf("key %d is a secret; give the trustee public keys only", i)
		}
		key, err := fromJWK(jwk)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it signs anything")
	}
	return keys, nil
}

func fromJWK(jwk jose.JSONWebKey) (ProviderKey, error) {
	if jwk.Use != "" && jwk.Use != "sig" {
		return ProviderKey{}, fmt.Errorf("its use is %q, want sig", jwk.Use)
	}
	allowed, err := algorithms(jwk.Key)
	if err != nil {
		return ProviderKey{}, err
	}
	if jwk.Algorithm != "" {
		if !slices.Contains(allowed, jose.SignatureAlgorithm(jwk.Algorithm)) {
			return ProviderKey{}, fmt.Errorf("its alg is %q, and a key of its type signs with %v", jwk.Algorithm, allowed)
		}
		allowed = []jose.SignatureAlgorithm{jose.SignatureAlgorithm(jwk.Algorithm)}
	}
	return ProviderKey{key: jwk.Key, id: jwk.KeyID, algorithms: allowed}, nil
}

// parsePKIX reads a public key in PEM.
func parsePKIX(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("no PEM block of type PUBLIC KEY")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// fingerprint names the key: the first 16 hex digits of the SHA-256 of its PKIX form.
func (k ProviderKey) fingerprint() string {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil { // it was parsed, so it cannot be
		return "?"
	}
	digest := sha256.Sum256(der)
	return hex.EncodeToString(digest[:8])
}

// provided checks a token against the identity providers. The first that takes it decides who the caller is.
func (a *Authenticator) provided(token string) (Identity, error) {
	parsed, err := jwt.ParseSigned(token, providerAlgorithms)
	if err != nil {
		return Identity{}, fmt.Errorf("parse the token: %w", err)
	}
	if len(parsed.Headers) != 1 {
		return Identity{}, fmt.Errorf("the token has %d signatures, want one", len(parsed.Headers))
	}
	header := parsed.Headers[0]
	if err := ownKeys(header); err != nil {
		return Identity{}, err
	}
	refused := errors.New("no identity provider's key signed the token")
	for _, p := range a.config.Providers {
		for _, key := range p.Keys {
			if !slices.Contains(key.algorithms, jose.SignatureAlgorithm(header.Algorithm)) ||
				key.id != "" && key.id != header.KeyID {
				continue
			}
			var claims providerClaims
			if err := parsed.Claims(key.key, &claims); errors.Is(err, jose.ErrCryptoFailure) {
				continue
			} else if err != nil {
				return Identity{}, fmt.Errorf("read the token: %w", err)
			}
			if err := a.checkProvided(p, claims); err != nil {
				refused = fmt.Errorf("identity provider %s: %w", p.Name, err)
				continue
			}
			return Identity{Role: claims.Role, Key: p.Name + "/" + key.fingerprint()}, nil
		}
	}
	return Identity{}, refused
}

// ownKeys refuses tokens that bring along the key to verify them with, or ask for what not every reader understands.
func ownKeys(header jose.Header) error {
	if header.JSONWebKey != nil {
		return errors.New("the token's header has a jwk")
	}
	for _, name := range []jose.HeaderKey{"jku", "x5u", "crit"} {
		if _, has := header.ExtraHeaders[name]; has {
			return fmt.Errorf("the token's header has a %s", name)
		}
	}
	return nil
}

// providerClaims is the content of an identity provider's token, as far as it counts.
type providerClaims struct {
	kbs.AdminClaims
	Issuer string `json:"iss"`
}

func (a *Authenticator) checkProvided(p Provider, c providerClaims) error {
	roles := p.Roles
	if len(roles) == 0 {
		roles = []string{Role}
	}
	if !slices.Contains(roles, c.Role) {
		return fmt.Errorf("the token's role is %q, want one of %q", c.Role, roles)
	}
	if p.Issuer != "" && c.Issuer != p.Issuer {
		return fmt.Errorf("the token is issued by %q, not by %q", c.Issuer, p.Issuer)
	}
	if p.Audience != "" && !c.Audience.Contains(p.Audience) {
		return fmt.Errorf("the token is meant for %q, not for %q", []string(c.Audience), p.Audience)
	}
	return a.current(c.AdminClaims, p.UnsafeAnyLifetime)
}
