// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// Signer seals: a key, and the id by which guests know it. An id that is a resource URI lets them fetch the public half from
// their trustee.
type Signer struct {
	KeyID string
	Key   SigningKey
}

// SealVault names a resource of the trustee as the secret.
func (s Signer) SealVault(resource kbs.ResourceURI) (string, error) {
	return s.Seal(Payload{Vault: &Vault{Provider: ProviderKBS, Name: resource.String()}})
}

// SealEnvelope encrypts a value under a fresh data key, and that under the key encryption key, which is a resource of the
// trustee of 32 bytes.
func (s Signer) SealEnvelope(resource kbs.ResourceURI, kek, value secret.Bytes) (string, error) {
	if kek.Len() != keySize {
		return "", fmt.Errorf("sealing a secret: a key encryption key of %d bytes, want %d", kek.Len(), keySize)
	}
	dek := secret.New(random(keySize))
	defer dek.Wipe()
	keyIV, encryptedKey, err := sealGCM(kek, dek)
	if err != nil {
		return "", err
	}
	iv, data, err := sealGCM(dek, value)
	if err != nil {
		return "", err
	}
	annotations, err := json.Marshal(map[string]string{"iv": keyIV})
	if err != nil {
		return "", fmt.Errorf("sealing a secret: %w", err)
	}
	return s.Seal(Payload{Envelope: &Envelope{
		Provider: ProviderKBS, KeyID: resource.String(), EncryptedKey: encryptedKey, EncryptedData: data, IV: iv,
		WrapType: WrapA256GCM, Annotations: annotations,
	}})
}

// Seal signs a payload.
func (s Signer) Seal(p Payload) (string, error) {
	text, err := p.MarshalJSON()
	if err != nil {
		return "", fmt.Errorf("sealing a secret: %w", err)
	}
	if _, err := ParsePayload(text); err != nil {
		return "", fmt.Errorf("sealing a secret: %w", err)
	}
	header, err := formatHeader(s.KeyID)
	if err != nil {
		return "", fmt.Errorf("sealing a secret: %w", err)
	}
	out := &Secret{KeyID: s.KeyID, header: header, payload: encode(text), signature: make([]byte, signatureSize)}
	digest := sha256.Sum256([]byte(out.header + "." + out.payload))
	r, sig, err := ecdsa.Sign(rand.Reader, s.Key.private, digest[:])
	if err != nil {
		return "", fmt.Errorf("sealing a secret: %w", err)
	}
	r.FillBytes(out.signature[:signatureSize/2])
	sig.FillBytes(out.signature[signatureSize/2:])
	sealed := out.Format()
	if len(sealed) > MaxText {
		return "", fmt.Errorf("sealing a secret: %d bytes, a guest takes at most %d: put the value into the trustee and seal its name", len(sealed), MaxText)
	}
	return sealed, nil
}

// sealGCM returns the IV and the ciphertext with its tag, in standard base64.
func sealGCM(key, value secret.Bytes) (iv, sealed string, err error) {
	gcm, err := newGCM(key.Reveal())
	if err != nil {
		return "", "", fmt.Errorf("sealing a secret: %w", err)
	}
	nonce := random(gcmIV)
	out := gcm.Seal(nil, nonce, value.Reveal(), nil)
	return base64.StdEncoding.EncodeToString(nonce), base64.StdEncoding.EncodeToString(out), nil
}

// NewKey makes a key encryption key.
func NewKey() secret.Bytes { return secret.New(random(keySize)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // does not fail
	return b
}
