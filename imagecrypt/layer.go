// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/secret"
)

// Annotations of encrypted layers.
const (
	annotations         = "org.opencontainers.image.enc."
	annotationPublic    = annotations + "pubopts"
	annotationKeys      = annotations + "keys."
	annotationProviders = annotationKeys + "provider."
	// AnnotationPackets holds the packets of the Confidential Containers' key provider, base64, separated by commas.
	AnnotationPackets = annotationProviders + Provider
	// Provider is the name of that key provider, in annotations and in the configuration of skopeo and others.
	Provider = "attestation-agent"
)

// maxPackets caps the packets of a layer: each may cost a question to the key broker.
const maxPackets = 16

// Packets returns the packets that a layer carries; each of them opens it. Providers may go by any name: the packets of
// the usual one come first.
func Packets(layer ocispec.Descriptor) ([]*Packet, error) {
	var texts, others []string
	for _, name := range slices.Sorted(maps.Keys(layer.Annotations)) {
		switch value := layer.Annotations[name]; {
		case name == AnnotationPackets:
			texts = append(strings.Split(value, ","), texts...)
		case strings.HasPrefix(name, annotationProviders):
			texts = append(texts, strings.Split(value, ",")...)
		case strings.HasPrefix(name, annotationKeys):
			others = append(others, strings.TrimPrefix(name, annotationKeys))
		}
		if len(texts) > maxPackets {
			return nil, refuse(CodePacketMalformed, "layer %s has more than %d packets", layer.Digest, maxPackets)
		}
	}
	if len(texts) == 0 && len(others) > 0 {
		return nil, refuse(CodeProviderUnsupported,
			"layer %s was encrypted for %s, not for a key of the key broker: encrypt it with `nacre image encrypt`",
			layer.Digest, clip(strings.Join(others, ", ")))
	}
	if len(texts) == 0 {
		return nil, refuse(CodeLayerMalformed, "layer %s is encrypted, and no annotation says for which key", layer.Digest)
	}
	packets := make([]*Packet, 0, len(texts))
	for _, text := range texts {
		if len(text) > base64.StdEncoding.EncodedLen(maxPacket) {
			return nil, refuse(CodePacketMalformed, "layer %s: a packet of more than %d bytes", layer.Digest, maxPacket)
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, failed(CodePacketMalformed, err, "layer %s: a packet is no base64", layer.Digest)
		}
		p, err := ParsePacket(raw)
		if err != nil {
			return nil, err
		}
		packets = append(packets, p)
	}
	return packets, nil
}

// Open returns the plaintext of an encrypted layer: compressed or not, as [PlainMediaType] says. The layer's key comes from
// the first of its packets that keys opens.
//
// Only the end of the stream tells whether it was authentic, with an error of [CodeLayerUnauthentic] in place of io.EOF.
// Whoever acts on plaintext before must be able to undo it.
func Open(ctx context.Context, layer ocispec.Descriptor, r io.Reader, keys KeySource) (io.Reader, error) {
	if !Encrypted(layer.MediaType) {
		return nil, refuse(CodeLayerMalformed, "layer %s is not encrypted: its media type is %s",
			layer.Digest, clip(layer.MediaType))
	}
	public, err := base64.StdEncoding.DecodeString(layer.Annotations[annotationPublic])
	if err != nil {
		return nil, failed(CodeLayerMalformed, err, "the public options of layer %s are no base64", layer.Digest)
	}
	want, err := parsePublic(public)
	if err != nil {
		return nil, failed(CodeLayerMalformed, err, "the public options of layer %s", layer.Digest)
	}
	packets, err := Packets(layer)
	if err != nil {
		return nil, err
	}
	var options secret.Bytes
	var refusals []error
	for _, p := range packets {
		if options, err = Unwrap(ctx, *p, keys); err == nil {
			break
		}
		refusals = append(refusals, err)
	}
	if err != nil {
		return nil, errors.Join(refusals...)
	}
	defer options.Wipe()
	return open(options, want, layer, r)
}

func open(options secret.Bytes, want []byte, layer ocispec.Descriptor, r io.Reader) (io.Reader, error) {
	p, err := parsePrivate(options.Reveal())
	if err != nil {
		return nil, failed(CodeKeyWrong, err, "the private options of layer %s", layer.Digest)
	}
	defer clear(p.key)
	stream, mac, err := newStream(p)
	if err != nil {
		return nil, failed(CodeKeyWrong, err, "the key of layer %s", layer.Digest)
	}
	return &opener{r: r, stream: stream, mac: mac, want: want, layer: layer}, nil
}

// newStream makes the layer's cipher and its MAC, which is keyed with the same key.
func newStream(p *private) (cipher.Stream, hash.Hash, error) {
	block, err := aes.NewCipher(p.key)
	if err != nil {
		return nil, nil, err
	}
	return cipher.NewCTR(block, p.nonce), hmac.New(sha256.New, p.key), nil
}

// opener decrypts, and compares the MAC at the end.
type opener struct {
	r      io.Reader
	stream cipher.Stream
	mac    hash.Hash
	want   []byte
	layer  ocispec.Descriptor
	err    error
}

func (o *opener) Read(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.r.Read(b)
	o.mac.Write(b[:n])
	o.stream.XORKeyStream(b[:n], b[:n])
	if errors.Is(err, io.EOF) && !hmac.Equal(o.mac.Sum(nil), o.want) {
		err = refuse(CodeLayerUnauthentic, "layer %s is not what was encrypted: its bytes, or its annotations, were changed",
			o.layer.Digest)
	}
	o.err = err
	return n, err
}

// Recipient is a key that a layer's key is to be wrapped by.
type Recipient struct {
	KeyID    string       // where guests find the key: kbs:///repository/type/tag
	Key      secret.Bytes // KeySize bytes
	WrapType string       // A256GCM or A256CTR; "" is A256GCM
}

// Seal encrypts a layer, which r reads as it is stored (compressed, or not), with a new key that each of the recipients
// can unwrap. After the end of the ciphertext, and not before, the function returns the annotations that the encrypted
// layer's descriptor needs beside its other ones; its media type is [EncryptedMediaType].
func Seal(layer ocispec.Descriptor, r io.Reader, to ...Recipient) (io.Reader, func() (map[string]string, error), error) {
	if _, ok := EncryptedMediaType(layer.MediaType); !ok {
		return nil, nil, refuse(CodeLayerMalformed, "a blob of type %s is no layer that can be encrypted", clip(layer.MediaType))
	}
	if len(to) == 0 || len(to) > maxPackets {
		return nil, nil, refuse(CodeLayerMalformed, "encrypting a layer for %d keys: want 1 to %d", len(to), maxPackets)
	}
	p := &private{key: make([]byte, KeySize), nonce: make([]byte, aes.BlockSize), digest: layer.Digest}
	defer clear(p.key)
	_, _ = rand.Read(p.key) // never fails
	_, _ = rand.Read(p.nonce)
	text, err := p.marshal()
	if err != nil {
		return nil, nil, err
	}
	options := secret.New(text)
	defer options.Wipe()
	var packets []string
	for _, recipient := range to {
		wrapType := recipient.WrapType
		if wrapType == "" {
			wrapType = A256GCM
		}
		packet, err := Wrap(recipient.KeyID, recipient.Key, wrapType, options)
		if err != nil {
			return nil, nil, err
		}
		raw, err := json.Marshal(packet)
		if err != nil {
			return nil, nil, err
		}
		packets = append(packets, base64.StdEncoding.EncodeToString(raw))
	}
	stream, mac, err := newStream(p)
	if err != nil {
		return nil, nil, err
	}
	s := &sealer{r: r, stream: stream, mac: mac}
	return s, func() (map[string]string, error) {
		if !errors.Is(s.err, io.EOF) {
			return nil, errors.New("the annotations of an encrypted layer are known when all of it was read")
		}
		public, err := marshalPublic(mac.Sum(nil))
		if err != nil {
			return nil, err
		}
		return map[string]string{
			annotationPublic:  base64.StdEncoding.EncodeToString(public),
			AnnotationPackets: strings.Join(packets, ","),
		}, nil
	}, nil
}

// sealer encrypts, and counts what comes out into the MAC.
type sealer struct {
	r      io.Reader
	stream cipher.Stream
	mac    hash.Hash
	err    error
}

func (s *sealer) Read(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(b)
	s.stream.XORKeyStream(b[:n], b[:n])
	s.mac.Write(b[:n])
	s.err = err
	return n, err
}
