// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/strictjson"
)

// MaxEnvelopeSize caps an envelope's JSON text, in bytes.
const MaxEnvelopeSize = 4 << 20

// MaxPlaintextSize is the longest resource that fits into an envelope, in bytes.
const MaxPlaintextSize = MaxEnvelopeSize/4*3 - 4<<10

const (
	cekSize = 32 // A256GCM
	ivSize  = 12
	tagSize = 16
)

// Envelope is a resource encrypted to a TEE key: a flattened JWE (RFC 7516 section 7.2.2). All members are base64url
// without padding.
type Envelope struct {
	Protected    string `json:"protected"`     // the header's JSON text; also, as it stands, what the tag authenticates
	EncryptedKey string `json:"encrypted_key"` // the content key, for the recipient
	IV           string `json:"iv"`            // 12 bytes
	Ciphertext   string `json:"ciphertext"`
	Tag          string `json:"tag"` // 16 bytes
}

// ParseEnvelope reads the answer to a resource request.
func ParseEnvelope(text []byte) (*Envelope, error) {
	members, err := strictjson.ParseObject(text, MaxEnvelopeSize)
	if err != nil {
		return nil, fmt.Errorf("parsing the resource envelope: %w", err)
	}
	for _, name := range []string{"header", "unprotected", "recipients", "aad"} {
		if members[name].Present() { // each changes how the rest is to be read
			return nil, fmt.Errorf("parsing the resource envelope: member %q is not supported", name)
		}
	}
	e := &Envelope{}
	if err := members.Texts(map[string]*string{"protected": &e.Protected, "encrypted_key": &e.EncryptedKey,
		"iv": &e.IV, "ciphertext": &e.Ciphertext, "tag": &e.Tag}); err != nil {
		return nil, fmt.Errorf("parsing the resource envelope: %w", err)
	}
	return e, nil
}

// header is the protected header. Its text is exact: stock guests do not authenticate the text that they received,
// but what they get when they parse it and write it again as alg, enc and the other members sorted.
type header struct {
	alg string
	epk JWK // EC: the sender's ephemeral key
}

func (h header) text() string {
	if h.alg != algECDH {
		return fmt.Sprintf(`{"alg":%q,"enc":%q}`, h.alg, encA256GCM)
	}
	return fmt.Sprintf(`{"alg":%q,"enc":%q,"epk":{"crv":%q,"kty":%q,"x":%q,"y":%q}}`,
		h.alg, encA256GCM, h.epk.CRV, h.epk.KTY, h.epk.X, h.epk.Y)
}

// Seal encrypts plaintext to a TEE key.
func Seal(key JWK, plaintext []byte) (*Envelope, error) {
	e, err := seal(key, plaintext)
	if err != nil {
		return nil, fmt.Errorf("encrypting to the TEE key: %w", err)
	}
	return e, nil
}

func seal(key JWK, plaintext []byte) (*Envelope, error) {
	if len(plaintext) > MaxPlaintextSize {
		return nil, fmt.Errorf("%d bytes, at most %d fit", len(plaintext), MaxPlaintextSize)
	}
	algorithm, err := key.Algorithm()
	if err != nil {
		return nil, err
	}
	cek := make([]byte, cekSize)
	if _, err := rand.Read(cek); err != nil {
		return nil, err
	}
	defer clear(cek)
	h := header{alg: key.ALG}
	var encryptedKey []byte
	if algorithm == RSAOAEP256 {
		public, err := key.rsa()
		if err != nil {
			return nil, err
		}
		if encryptedKey, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public, cek, nil); err != nil {
			return nil, err
		}
	} else {
		public, err := key.ecdh()
		if err != nil {
			return nil, err
		}
		ephemeral, err := public.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		shared, err := ephemeral.ECDH(public)
		if err != nil {
			return nil, err
		}
		h.epk = ecJWK(key.CRV, ephemeral.PublicKey())
		if encryptedKey, err = keyWrap(concatKDF(shared, algECDH, nil, nil, cekSize), cek); err != nil {
			return nil, err
		}
	}
	aead, err := contentCipher(cek)
	if err != nil {
		return nil, err
	}
	protected := encodeBase64URL([]byte(h.text()))
	sealed := aead.Seal(nil, nil, plaintext, []byte(protected)) // iv, ciphertext, tag
	return &Envelope{
		Protected:    protected,
		EncryptedKey: encodeBase64URL(encryptedKey),
		IV:           encodeBase64URL(sealed[:ivSize]),
		Ciphertext:   encodeBase64URL(sealed[ivSize : len(sealed)-tagSize]),
		Tag:          encodeBase64URL(sealed[len(sealed)-tagSize:]),
	}, nil
}

// contentCipher is AES-256-GCM that draws its own nonces and puts them in front: there is no way to use one twice.
func contentCipher(cek []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// errNotOurs is all that a failed opening says, so that nobody learns from errors which step failed.
var errNotOurs = errors.New(
	"the envelope does not open with this TEE key: it was made for another key, or changed on its way",
)

// Open decrypts an envelope that was sealed to this key. What is authenticated is the protected header as received.
func (k *TEEKey) Open(e *Envelope) (secret.Bytes, error) {
	plaintext, err := k.open(e)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("opening the resource envelope: %w", err)
	}
	return secret.New(plaintext), nil
}

func (k *TEEKey) open(e *Envelope) ([]byte, error) {
	h, err := k.parseHeader(e.Protected)
	if err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	var encryptedKey, sealed []byte
	for _, part := range []struct {
		name string
		text string
		into *[]byte
		size int // 0: any
	}{
		{"encrypted_key", e.EncryptedKey, &encryptedKey, 0},
		{"iv", e.IV, &sealed, ivSize},
		{"ciphertext", e.Ciphertext, &sealed, 0},
		{"tag", e.Tag, &sealed, tagSize},
	} {
		raw, err := decodeBase64URL(part.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
		if part.size != 0 && len(raw) != part.size {
			return nil, fmt.Errorf("%s has %d bytes, want %d", part.name, len(raw), part.size)
		}
		*part.into = append(*part.into, raw...)
	}
	if k.ecdh != nil && len(encryptedKey) != cekSize+len(keyWrapIV) {
		return nil, fmt.Errorf("encrypted_key has %d bytes, want %d", len(encryptedKey), cekSize+len(keyWrapIV))
	}
	cek, err := k.contentKey(h, encryptedKey)
	if err != nil || len(cek) != cekSize {
		return nil, errNotOurs
	}
	defer clear(cek)
	aead, err := contentCipher(cek)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, sealed, []byte(e.Protected))
	if err != nil {
		return nil, errNotOurs
	}
	return plaintext, nil
}

// parseHeader accepts a protected header that fits the key. The members that would change how the envelope is read
// are refused, others skipped.
func (k *TEEKey) parseHeader(protected string) (header, error) {
	raw, err := decodeBase64URL(protected)
	if err != nil {
		return header{}, err
	}
	members, err := strictjson.ParseObject(raw, maxJWKSize)
	if err != nil {
		return header{}, err
	}
	for _, name := range []string{"crit", "zip", "apu", "apv"} {
		if members[name].Present() {
			return header{}, fmt.Errorf("member %q is not supported", name)
		}
	}
	h, enc := header{}, ""
	if err := members.Texts(map[string]*string{"alg": &h.alg, "enc": &enc}); err != nil {
		return header{}, err
	}
	if h.alg != k.public.ALG {
		return header{}, fmt.Errorf("alg %q, but the TEE key is for %s", clip(h.alg), k.public.ALG)
	}
	if enc != encA256GCM {
		return header{}, fmt.Errorf("enc %q is not supported, want %s", clip(enc), encA256GCM)
	}
	if h.alg != algECDH {
		return h, nil
	}
	epk, err := members.Object("epk")
	if err != nil {
		return header{}, err
	}
	h.epk.ALG = algECDH
	if err := epk.Texts(map[string]*string{"kty": &h.epk.KTY, "crv": &h.epk.CRV, "x": &h.epk.X, "y": &h.epk.Y}); err != nil {
		return header{}, fmt.Errorf("epk: %w", err)
	}
	if h.epk.KTY != ktyEC || h.epk.CRV != k.public.CRV {
		return header{}, fmt.Errorf("epk: kty %q and crv %q, but the TEE key is on %s",
			clip(h.epk.KTY), clip(h.epk.CRV), k.public.CRV)
	}
	return h, nil
}

// contentKey recovers the content key.
func (k *TEEKey) contentKey(h header, encryptedKey []byte) ([]byte, error) {
	if k.rsa != nil {
		return rsa.DecryptOAEP(sha256.New(), nil, k.rsa, encryptedKey, nil)
	}
	epk, err := h.epk.ecdh()
	if err != nil {
		return nil, err
	}
	shared, err := k.ecdh.ECDH(epk)
	if err != nil {
		return nil, err
	}
	return keyUnwrap(concatKDF(shared, algECDH, nil, nil, cekSize), encryptedKey)
}
