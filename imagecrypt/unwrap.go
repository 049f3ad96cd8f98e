// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/nacre-project/nacre/secret"
)

// KeySize is the size of the keys that wrap, and of layers' keys, in bytes.
const KeySize = 32

// KeySource gives the keys that wrapped layers' keys.
type KeySource interface {
	// Key returns the KeySize bytes of the key that packets call kid. kid is what a packet says and so foreign; it is
	// up to the source to refuse what is no name of a key.
	Key(ctx context.Context, kid string) (secret.Bytes, error)
}

// Unwrapper undoes what a key provider did: from a packet it returns the private options, JSON.
type Unwrapper interface {
	UnwrapKey(ctx context.Context, packet Packet) (secret.Bytes, error)
}

// Unwrap returns the private options, JSON, that a packet of provider kbs wraps. It has checked that they are such: with
// A256CTR nothing else tells that the key was wrong.
func Unwrap(ctx context.Context, p Packet, keys KeySource) (secret.Bytes, error) {
	if p.Provider != ProviderKBS {
		return secret.Bytes{}, refuse(CodeProviderUnsupported,
			"the layer's key was wrapped by the provider %q, not by a key of the key broker (kbs)", clip(p.Provider))
	}
	size, known := ivSizes[p.WrapType]
	if !known {
		return secret.Bytes{}, refuse(CodeProviderUnsupported,
			"the layer's key was wrapped with %q; %s and %s are known", clip(p.WrapType), A256GCM, A256CTR)
	}
	if len(p.IV) != size {
		return secret.Bytes{}, refuse(CodePacketMalformed, "an IV of %d bytes, %s has one of %d", len(p.IV), p.WrapType, size)
	}
	key, err := keys.Key(ctx, p.KeyID)
	if err != nil {
		return secret.Bytes{}, failed(CodeKeyUnavailable, err, "getting the key %s that opens the layer", clip(p.KeyID))
	}
	block, err := newCipher(key)
	if err != nil {
		return secret.Bytes{}, failed(CodeKeyWrong, err, "what is stored at %s opens no layer", clip(p.KeyID))
	}
	plain := make([]byte, 0, len(p.WrappedData))
	if p.WrapType == A256GCM {
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("unwrapping a layer's key: %w", err)
		}
		if plain, err = gcm.Open(plain, p.IV, p.WrappedData, nil); err != nil {
			return secret.Bytes{}, wrongKey(p.KeyID)
		}
	} else {
		plain = plain[:len(p.WrappedData)]
		cipher.NewCTR(block, p.IV).XORKeyStream(plain, p.WrappedData)
	}
	if _, err := parsePrivate(plain); err != nil {
		clear(plain)
		return secret.Bytes{}, wrongKey(p.KeyID)
	}
	return secret.New(plain), nil
}

func wrongKey(kid string) error {
	return refuse(CodeKeyWrong,
		"the key at %s is not the one that the layer was encrypted with, or the layer's annotations were changed", clip(kid))
}

// Wrap makes a packet of provider kbs: options, the private options as JSON, wrapped by the key that guests find at kid.
func Wrap(kid string, key secret.Bytes, wrapType string, options secret.Bytes) (*Packet, error) {
	size, known := ivSizes[wrapType]
	if !known {
		return nil, fmt.Errorf("wrapping with %q: %s and %s are known", clip(wrapType), A256GCM, A256CTR)
	}
	if _, err := parsePrivate(options.Reveal()); err != nil {
		return nil, fmt.Errorf("what is to be wrapped are no private options of a layer: %w", err)
	}
	block, err := newCipher(key)
	if err != nil {
		return nil, fmt.Errorf("the key for %s: %w", clip(kid), err)
	}
	p := &Packet{Version: PacketVersion, Provider: ProviderKBS, KeyID: kid, IV: make([]byte, size), WrapType: wrapType}
	_, _ = rand.Read(p.IV) // never fails
	if wrapType == A256GCM {
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("wrapping a layer's key: %w", err)
		}
		p.WrappedData = gcm.Seal(nil, p.IV, options.Reveal(), nil)
	} else {
		p.WrappedData = make([]byte, options.Len())
		cipher.NewCTR(block, p.IV).XORKeyStream(p.WrappedData, options.Reveal())
	}
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("wrapping a layer's key: %w", err)
	}
	return p, nil
}

// ivSizes are the sizes of initialisation vectors in bytes, by the ways to wrap.
var ivSizes = map[string]int{A256GCM: 12, A256CTR: aes.BlockSize}

func newCipher(key secret.Bytes) (cipher.Block, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("it has %d bytes, a key has %d", key.Len(), KeySize)
	}
	return aes.NewCipher(key.Reveal())
}
