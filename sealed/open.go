// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/strictjson"
)

// Resources fetches what a trustee holds.
type Resources interface {
	Resource(ctx context.Context, uri kbs.ResourceURI) (secret.Bytes, error)
}

// Pins say whose sealed secrets are opened. The zero value opens none.
type Pins struct {
	// Resources are the trustee's resources that hold verifying keys, as JWK. A key id that names one of them is taken.
	Resources []kbs.ResourceURI
	// Keys are keys that are known here, by key id.
	Keys map[string]VerifyingKey
	// UnsafeUnverified opens every sealed secret, whoever made it, signed or not.
	UnsafeUnverified bool
}

// Open verifies a sealed secret and returns its value. Every error is an *[Error], or one of resources, wrapped.
func Open(ctx context.Context, text string, pins Pins, resources Resources) (secret.Bytes, error) {
	payload, err := verified(ctx, text, pins, resources)
	if err != nil {
		return secret.Bytes{}, err
	}
	uri, err := payload.Resource()
	if err != nil {
		return secret.Bytes{}, err
	}
	value, err := resources.Resource(ctx, uri)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("fetching what the sealed secret names: %w", err)
	}
	if payload.Vault != nil {
		return value, nil
	}
	defer value.Wipe()
	return payload.Envelope.Open(value)
}

func verified(ctx context.Context, text string, pins Pins, resources Resources) (*Payload, error) {
	if pins.UnsafeUnverified {
		return UnsafePayload(text)
	}
	s, err := Parse(text)
	if err != nil {
		return nil, err
	}
	key, err := pins.key(ctx, s.KeyID, resources)
	if err != nil {
		return nil, err
	}
	return s.Verify(key)
}

// key finds the verifying key of a key id. It asks the trustee for pinned resources only, and each time: a key that its
// owner has replaced is not taken any more.
func (p Pins) key(ctx context.Context, kid string, resources Resources) (VerifyingKey, error) {
	if key, ok := p.Keys[kid]; ok {
		return key, nil
	}
	uri, err := kbs.ParseResourceURI(kid)
	if err != nil || !p.pinned(uri) {
		return VerifyingKey{}, refuse(KeyNotPinned, "the sealed secret names the key %q, which the pod's init-data does not: its "+
			"owner writes it into cdh.toml, [sealed_secrets] keys = [%q]", clip(kid), clip(kid))
	}
	jwk, err := resources.Resource(ctx, uri)
	if err != nil {
		return VerifyingKey{}, fmt.Errorf("fetching the key that verifies the sealed secret: %w", err)
	}
	defer jwk.Wipe()
	key, err := ParseVerifyingKey(jwk.Reveal())
	if err != nil {
		return VerifyingKey{}, fmt.Errorf("resource %s: %w", uri, err)
	}
	return key, nil
}

func (p Pins) pinned(uri kbs.ResourceURI) bool {
	for _, pin := range p.Resources {
		if pin.String() == uri.String() { // canonical: the host is no part of a name
			return true
		}
	}
	return false
}

// Sizes in bytes.
const (
	keySize = 32 // of AES-256
	gcmIV   = 12
	gcmTag  = 16
)

// Open decrypts the data key under the key encryption key, and the data under that. Whose envelope it is, is not its question.
func (e *Envelope) Open(kek secret.Bytes) (secret.Bytes, error) {
	if kek.Len() != keySize {
		return secret.Bytes{}, refuse(EnvelopeInvalid, "the resource %s has %d bytes; a key encryption key has %d", clip(e.KeyID), kek.Len(), keySize)
	}
	annotations, err := strictjson.ParseObject(orEmpty(e.Annotations), MaxText)
	if err != nil {
		return secret.Bytes{}, refuse(EnvelopeInvalid, "annotations: %w", err)
	}
	keyIV, err := annotations.Text("iv")
	if err != nil {
		return secret.Bytes{}, refuse(EnvelopeInvalid, "annotations: %w: it is the IV of encrypted_key", err)
	}
	var raw [4][]byte
	for i, field := range []struct{ name, text string }{
		{"annotations.iv", keyIV}, {"encrypted_key", e.EncryptedKey}, {"iv", e.IV}, {"encrypted_data", e.EncryptedData},
	} {
		if raw[i], err = decodeStandard(field.name, field.text); err != nil {
			return secret.Bytes{}, err
		}
	}
	dek, err := openGCM(kek.Reveal(), raw[0], raw[1])
	if err != nil {
		return secret.Bytes{}, refuse(EnvelopeInvalid, "encrypted_key: %w: it was not encrypted under the key %s", err, clip(e.KeyID))
	}
	defer clear(dek)
	if len(dek) != keySize {
		return secret.Bytes{}, refuse(EnvelopeInvalid, "the data key has %d bytes, want %d", len(dek), keySize)
	}
	var value []byte
	if e.WrapType == WrapA256CTR {
		value, err = ctr(dek, raw[2], raw[3])
	} else {
		value, err = openGCM(dek, raw[2], raw[3])
	}
	if err != nil {
		return secret.Bytes{}, refuse(EnvelopeInvalid, "encrypted_data: %w", err)
	}
	return secret.New(value), nil
}

// decodeStandard reads base64 with padding, RFC 4648 §4, in its one form.
func decodeStandard(name, text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, refuse(EnvelopeInvalid, "%s: %w", name, errLineBreak)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, refuse(EnvelopeInvalid, "%s: not base64: %w", name, err)
	}
	return raw, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func openGCM(key, iv, sealed []byte) ([]byte, error) {
	if len(iv) != gcmIV {
		return nil, fmt.Errorf("an IV of %d bytes, want %d", len(iv), gcmIV)
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, iv, sealed, nil)
}

func ctr(key, iv, data []byte) ([]byte, error) {
	if len(iv) != aes.BlockSize {
		return nil, fmt.Errorf("an IV of %d bytes, want %d", len(iv), aes.BlockSize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(data))
	cipher.NewCTR(block, iv).XORKeyStream(out, data)
	return out, nil
}
