// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/nacre-project/nacre/secret"
)

// Signer signs tokens with one P-256 key (ES256). It is safe for concurrent use.
type Signer struct {
	private *ecdsa.PrivateKey
	public  jose.JSONWebKey
	head    string // of every token: the protected header in base64url, and a dot
}

// NewSigner makes a signer of a P-256 key. The key's id is its RFC 7638 thumbprint.
func NewSigner(private *ecdsa.PrivateKey) (*Signer, error) {
	if private == nil || private.Curve != elliptic.P256() {
		return nil, errors.New("token signer: want a P-256 key")
	}
	public, err := publicJWK(&private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("token signer: %w", err)
	}
	// Verifiers find the key by id. Trustee's want it in the header too, and trust it there only if told to.
	embedded := public
	embedded.KeyID = ""
	head, err := json.Marshal(header{string(jose.ES256), embedded, public.KeyID, "JWT"})
	if err != nil {
		return nil, fmt.Errorf("token signer: %w", err)
	}
	return &Signer{private: private, public: public, head: base64.RawURLEncoding.EncodeToString(head) + "."}, nil
}

// header is the protected header of a token, members sorted.
type header struct {
	Alg string          `json:"alg"`
	JWK jose.JSONWebKey `json:"jwk"`
	Kid string          `json:"kid"`
	Typ string          `json:"typ"`
}

// GenerateSigner makes a signer with a new key.
func GenerateSigner() (*Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("token signer: generating a key: %w", err)
	}
	return NewSigner(private)
}

// ParseSigner reads the PKCS#8 PEM that [Signer.MarshalPEM] writes.
func ParseSigner(pemText []byte) (*Signer, error) {
	block, _ := pem.Decode(pemText)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("token signer: no PEM block of type PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("token signer: %w", err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("token signer: the key is a %T, want ECDSA on P-256", key)
	}
	return NewSigner(private)
}

// MarshalPEM writes the private key as PKCS#8 PEM.
func (s *Signer) MarshalPEM() (secret.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.private)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("writing the token signer's key: %w", err)
	}
	return secret.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// KeyID is the id that tokens name the key by.
func (s *Signer) KeyID() string { return s.public.KeyID }

// Public is the key that tokens verify with.
func (s *Signer) Public() Key {
	return Key{ID: s.public.KeyID, Public: &s.private.PublicKey}
}

// sizeES256 is half the length of a signature, in bytes: r and s are as long as the curve's order. (RFC 7518, 3.4)
const sizeES256 = 32

// Sign makes a compact JWS of a token. (RFC 7515, 7.1)
func (s *Signer) Sign(t Token) (string, error) {
	payload, err := t.MarshalJSON()
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	if len(payload) > MaxSize/4*3-4096 {
		return "", fmt.Errorf("signing a token: %d bytes of claims are too many", len(payload))
	}
	coding := base64.RawURLEncoding
	compact := make([]byte, 0, len(s.head)+coding.EncodedLen(len(payload))+1+coding.EncodedLen(2*sizeES256))
	compact = append(compact, s.head...)
	compact = coding.AppendEncode(compact, payload)
	digest := sha256.Sum256(compact)
	r, v, err := ecdsa.Sign(rand.Reader, s.private, digest[:])
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	var signature [2 * sizeES256]byte
	r.FillBytes(signature[:sizeES256])
	v.FillBytes(signature[sizeES256:])
	compact = append(compact, '.')
	return string(coding.AppendEncode(compact, signature[:])), nil
}

// Key is a key that tokens verify with, and the id that they name it by.
type Key struct {
	ID     string
	Public *ecdsa.PublicKey // on P-256
}

// publicJWK is the JWK of a key, with its thumbprint as id.
func publicJWK(public *ecdsa.PublicKey) (jose.JSONWebKey, error) {
	jwk := jose.JSONWebKey{Key: public, Algorithm: string(jose.ES256)}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return jwk, err
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	return jwk, nil
}

// JWKS is the JSON Web Key Set that a verifier publishes.
func JWKS(keys ...Key) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public, KeyID: key.ID, Algorithm: string(jose.ES256)})
	}
	out, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("writing the key set: %w", err)
	}
	return out, nil
}

// ParseJWKS reads a JSON Web Key Set and keeps the keys that tokens may be signed with: P-256, for ES256, with an id.
func ParseJWKS(text []byte) ([]Key, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("reading the key set: %d bytes, at most %d are allowed", len(text), MaxSize)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("reading the key set: %w", err)
	}
	var keys []Key
	for _, jwk := range set.Keys {
		public, ok := jwk.Key.(*ecdsa.PublicKey)
		if ok && public.Curve == elliptic.P256() && jwk.KeyID != "" &&
			(jwk.Algorithm == "" || jwk.Algorithm == string(jose.ES256)) {
			keys = append(keys, Key{ID: jwk.KeyID, Public: public})
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("reading the key set: no P-256 key with an id in it")
	}
	return keys, nil
}
