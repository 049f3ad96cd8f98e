// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/secret"
)

const kid = "kbs:///default/image-key/1"

// keys are a key broker's.
type keys struct {
	held  map[string][]byte
	asked atomic.Int64
}

var errDenied = errors.New("policy_denied, request id 42")

func (k *keys) Key(_ context.Context, kid string) (secret.Bytes, error) {
	k.asked.Add(1)
	key, ok := k.held[kid]
	if !ok {
		return secret.Bytes{}, errDenied
	}
	return secret.New(bytes.Clone(key)), nil
}

func newKeys() *keys {
	key := make([]byte, imagecrypt.KeySize)
	_, _ = rand.Read(key)
	return &keys{held: map[string][]byte{kid: key}}
}

// encrypted makes of a layer one that is encrypted for kid.
func (k *keys) encrypted(t testing.TB, l testLayer, wrapType string) testLayer {
	t.Helper()
	blob := compressed(t, l.compression, l.archive)
	mediaType := []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}[l.compression]
	recipient := imagecrypt.Recipient{KeyID: kid, Key: secret.New(bytes.Clone(k.held[kid])), WrapType: wrapType}
	r, finish, err := imagecrypt.Seal(ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob)}, bytes.NewReader(blob), recipient)
	if err != nil {
		t.Fatal(err)
	}
	if l.blob, err = io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	if l.annotations, err = finish(); err != nil {
		t.Fatal(err)
	}
	l.mediaType = mediaType + "+encrypted"
	return l
}

func TestPullEncrypted(t *testing.T) {
	reg := newRegistry(t, true)
	k := newKeys()
	image := testImage{layers: []testLayer{
		k.encrypted(t, testLayer{archive: archive(t, "plain", "0")}, ""),
		k.encrypted(t, testLayer{archive: archive(t, "gzip", "1"), compression: gzipped}, ""),
		k.encrypted(t, testLayer{archive: archive(t, "zstd", "2"), compression: zstandard}, imagecrypt.A256CTR),
		{archive: archive(t, "open", "3"), compression: gzipped},
	}}
	d, _ := reg.push(t, image)
	p := newPuller(t, reg, func(c *Config) { c.Keys = k })
	got, err := p.Pull(t.Context(), reg.ref(d))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"plain", "gzip", "zstd", "open"} {
		if text := content(t, filepath.Join(got.Layers[i], name)); text != fmt.Sprint(i) {
			t.Errorf("layer %d: %q", i, text)
		}
	}
	if n := k.asked.Load(); n != 1 {
		t.Errorf("the key of three layers was asked for %d times", n)
	}
	k.held = nil // it is there, and the same image
	if again, err := p.Pull(t.Context(), reg.ref(d)); err != nil || again.Layers[0] != got.Layers[0] {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestPullEncryptedRefused(t *testing.T) {
	k := newKeys()
	l := k.encrypted(t, large(t), "")
	flip := func(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 1; return b }
	tests := []struct {
		name   string
		change func(l *testLayer, k *keys)
		code   imagecrypt.Code
	}{
		{"no key", func(_ *testLayer, k *keys) { k.held = nil }, imagecrypt.CodeKeyUnavailable},
		{"another key", func(_ *testLayer, k *keys) { k.held = newKeys().held }, imagecrypt.CodeKeyWrong},
		{"a short key", func(_ *testLayer, k *keys) { k.held = map[string][]byte{kid: []byte("short")} }, imagecrypt.CodeKeyWrong},
		{"changed at its beginning", func(l *testLayer, _ *keys) { l.blob = flip(l.blob, 0) }, imagecrypt.CodeLayerUnauthentic},
		{"changed inside", func(l *testLayer, _ *keys) { l.blob = flip(l.blob, len(l.blob)/2) }, imagecrypt.CodeLayerUnauthentic},
		{"changed at its end", func(l *testLayer, _ *keys) { l.blob = flip(l.blob, len(l.blob)-1) }, imagecrypt.CodeLayerUnauthentic},
		{"cut short", func(l *testLayer, _ *keys) { l.blob = l.blob[:len(l.blob)-1] }, imagecrypt.CodeLayerUnauthentic},
		{"longer", func(l *testLayer, _ *keys) { l.blob = append(bytes.Clone(l.blob), 0) }, imagecrypt.CodeLayerUnauthentic},
		{"no annotation", func(l *testLayer, _ *keys) { l.annotations = nil }, imagecrypt.CodeLayerMalformed},
		{"no packet", func(l *testLayer, _ *keys) {
			l.annotations = map[string]string{"org.opencontainers.image.enc.pubopts": l.annotations["org.opencontainers.image.enc.pubopts"]}
		}, imagecrypt.CodeLayerMalformed},
		{"a packet of nothing", func(l *testLayer, _ *keys) {
			l.annotations = map[string]string{
				"org.opencontainers.image.enc.pubopts": l.annotations["org.opencontainers.image.enc.pubopts"],
				imagecrypt.AnnotationPackets:           base64.StdEncoding.EncodeToString([]byte("{}")),
			}
		}, imagecrypt.CodePacketMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := newRegistry(t, true)
			changed, owner := l, &keys{held: k.held}
			tt.change(&changed, owner)
			d, _ := reg.push(t, testImage{layers: []testLayer{changed}})
			err := refused(t, newPuller(t, reg, func(c *Config) { c.Keys = owner }), reg.ref(d), CodeNotDecrypted)
			if imagecrypt.CodeOf(err) != tt.code {
				t.Errorf("%v, want %s", err, tt.code)
			}
			if tt.name == "no key" && !errors.Is(err, errDenied) {
				t.Errorf("the broker's reason is lost: %v", err)
			}
		})
	}
	t.Run("no broker", func(t *testing.T) {
		reg := newRegistry(t, true)
		d, _ := reg.push(t, testImage{layers: []testLayer{l}})
		refused(t, newPuller(t, reg, nil), reg.ref(d), CodeNotDecrypted)
	})
	t.Run("changed on the way", func(t *testing.T) {
		reg := newRegistry(t, true)
		d, manifest := reg.push(t, testImage{layers: []testLayer{l}})
		reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
			_, _ = w.Write(flip(l.blob, len(l.blob)/2))
		})
		refused(t, newPuller(t, reg, func(c *Config) { c.Keys = k }), reg.ref(d), CodeDigestMismatch)
	})
}

// An image of the adversary's names the contents of a layer that was decrypted for another, and has neither its blob
// nor its key.
func TestAttackContentsOfADecryptedLayer(t *testing.T) {
	reg := newRegistry(t, true)
	k := newKeys()
	confidential := testLayer{archive: archive(t, "confidential", "x"), compression: gzipped}
	d, _ := reg.push(t, testImage{layers: []testLayer{k.encrypted(t, confidential, "")}})
	p := newPuller(t, reg, func(c *Config) { c.Keys = k })
	if _, err := p.Pull(t.Context(), reg.ref(d)); err != nil {
		t.Fatal(err)
	}
	claim := func(blob []byte, mediaType string) digest.Digest {
		d, _ := reg.push(t, testImage{layers: []testLayer{{archive: confidential.archive, blob: blob, mediaType: mediaType}}})
		return d
	}
	for name, d := range map[string]digest.Digest{
		"as a plain layer":      claim([]byte("nothing"), ocispec.MediaTypeImageLayer),
		"as an encrypted layer": claim([]byte("nothing"), ocispec.MediaTypeImageLayerGzip+"+encrypted"),
	} {
		if image, err := p.Pull(t.Context(), reg.ref(d)); err == nil {
			t.Errorf("%s: %s", name, content(t, filepath.Join(image.Layers[0], "confidential")))
		}
	}
}
