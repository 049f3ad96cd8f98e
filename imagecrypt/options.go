// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"crypto/aes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-project/nacre/strictjson"
)

// cipherName is the only cipher of layers that there is.
const cipherName = "AES_256_CTR_HMAC_SHA256"

// maxOptions caps public and private options, in bytes of JSON.
const maxOptions = 16 << 10

// private is what opens a layer.
type private struct {
	key    []byte
	nonce  []byte        // the counter's start
	digest digest.Digest // of the plaintext, if whoever encrypted it knew
}

// parsePrivate reads {"symkey":"<base64>","digest":"sha256:…","cipheroptions":{"nonce":"<base64>"}}. Its errors tell
// nothing of the content, which is secret when the key was right.
func parsePrivate(text []byte) (*private, error) {
	malformed := errors.New("they are malformed")
	members, err := strictjson.ParseObject(text, maxOptions)
	if err != nil {
		return nil, malformed
	}
	p := new(private)
	if p.key, err = decode(members, "symkey", KeySize); err != nil {
		return nil, err
	}
	inner, err := members.Object("cipheroptions")
	if err != nil {
		return nil, malformed
	}
	if p.nonce, err = decode(inner, "nonce", aes.BlockSize); err != nil {
		return nil, err
	}
	if members["digest"].Present() {
		text, err := members.Text("digest")
		if err != nil {
			return nil, malformed
		}
		p.digest = digest.Digest(text)
	}
	return p, nil
}

func (p *private) marshal() ([]byte, error) {
	return json.Marshal(struct {
		Key     []byte            `json:"symkey"`
		Digest  digest.Digest     `json:"digest"`
		Options map[string][]byte `json:"cipheroptions"`
	}{p.key, p.digest, map[string][]byte{"nonce": p.nonce}})
}

// parsePublic reads {"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"<base64>","cipheroptions":{}} and returns the HMAC.
func parsePublic(text []byte) ([]byte, error) {
	members, err := strictjson.ParseObject(text, maxOptions)
	if err != nil {
		return nil, err
	}
	name, err := members.Text("cipher")
	if err != nil {
		return nil, err
	}
	if name != cipherName {
		return nil, fmt.Errorf("cipher %q, only %s is known", clip(name), cipherName)
	}
	// Others let a nonce that stands here win over the private one. Nobody writes it, and nothing would authenticate it: the
	// HMAC is of the ciphertext alone.
	if members["cipheroptions"].Present() {
		inner, err := members.Object("cipheroptions")
		if err != nil {
			return nil, err
		}
		if len(inner) > 0 {
			return nil, errors.New("they hold cipheroptions, which belong into the wrapped options")
		}
	}
	return decode(members, "hmac", sha256.Size)
}

func marshalPublic(hmac []byte) ([]byte, error) {
	return json.Marshal(struct {
		Cipher  string            `json:"cipher"`
		HMAC    []byte            `json:"hmac"`
		Options map[string][]byte `json:"cipheroptions"`
	}{cipherName, hmac, map[string][]byte{}})
}

// decode returns a base64 member that must have size bytes.
func decode(members strictjson.Object, name string, size int) ([]byte, error) {
	text, err := members.Text(name)
	if err != nil {
		return nil, fmt.Errorf("no %s", name)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("%s: want %d bytes in base64", name, size)
	}
	return b, nil
}
