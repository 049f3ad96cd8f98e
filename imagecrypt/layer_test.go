// SPDX-License-Identifier: Apache-2.0

package imagecrypt_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containers/ocicrypt/blockcipher"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/secret"
)

const (
	pubopts   = "org.opencontainers.image.enc.pubopts"
	packets   = "org.opencontainers.image.enc.keys.provider.attestation-agent"
	layerType = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func TestMediaTypes(t *testing.T) {
	for plain, encrypted := range map[string]string{
		"application/vnd.oci.image.layer.v1.tar":                       "application/vnd.oci.image.layer.v1.tar+encrypted",
		"application/vnd.oci.image.layer.v1.tar+gzip":                  "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
		"application/vnd.oci.image.layer.v1.tar+zstd":                  "application/vnd.oci.image.layer.v1.tar+zstd+encrypted",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip+encrypted",
	} {
		if got, ok := imagecrypt.EncryptedMediaType(plain); !ok || got != encrypted {
			t.Errorf("%s, encrypted, is %s", plain, got)
		}
		if got := imagecrypt.PlainMediaType(encrypted); got != plain || !imagecrypt.Encrypted(encrypted) || imagecrypt.Encrypted(plain) {
			t.Errorf("%s, decrypted, is %s", encrypted, got)
		}
	}
	docker := "application/vnd.docker.image.rootfs.diff.tar.gzip"
	if got, ok := imagecrypt.EncryptedMediaType(docker); !ok || got != layerType+"+encrypted" {
		t.Errorf("%s, encrypted, is %s", docker, got)
	}
	for _, none := range []string{"", "application/json", layerType + "+encrypted", "application/vnd.in-toto+json"} {
		if got, ok := imagecrypt.EncryptedMediaType(none); ok {
			t.Errorf("%s, encrypted, is %s", none, got)
		}
	}
}

// sealed encrypts a layer and returns its descriptor and bytes.
func sealed(t testing.TB, plain []byte, to ...imagecrypt.Recipient) (ocispec.Descriptor, []byte) {
	t.Helper()
	if len(to) == 0 {
		to = []imagecrypt.Recipient{{KeyID: kid, Key: secret.New([]byte(key))}}
	}
	layer := ocispec.Descriptor{MediaType: layerType, Digest: digest.FromBytes(plain), Size: int64(len(plain))}
	r, annotations, err := imagecrypt.Seal(layer, bytes.NewReader(plain), to...)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	layer = ocispec.Descriptor{MediaType: layerType + "+encrypted", Digest: digest.FromBytes(ciphertext), Size: int64(len(ciphertext))}
	if layer.Annotations, err = annotations(); err != nil {
		t.Fatal(err)
	}
	return layer, ciphertext
}

func open(t testing.TB, layer ocispec.Descriptor, ciphertext []byte, source keys) ([]byte, error) {
	t.Helper()
	r, err := imagecrypt.Open(t.Context(), layer, bytes.NewReader(ciphertext), source)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func TestSealAndOpen(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 10 << 10, 100_000} {
		plain := noise(n)
		layer, ciphertext := sealed(t, plain)
		if got, err := open(t, layer, ciphertext, keys{kid: key}); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
		if n > 15 && bytes.Contains(ciphertext, plain[:16]) {
			t.Errorf("%d bytes: the ciphertext holds the plaintext", n)
		}
		r, err := imagecrypt.Open(t.Context(), layer, iotest.HalfReader(bytes.NewReader(ciphertext)), keys{kid: key})
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, plain); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// One of several keys is enough, whatever its place.
func TestSeveralRecipients(t *testing.T) {
	plain := noise(100)
	layer, ciphertext := sealed(t, plain,
		imagecrypt.Recipient{KeyID: kid, Key: secret.New([]byte(key))},
		imagecrypt.Recipient{KeyID: "kbs:///default/key/2", Key: secret.New([]byte(other)), WrapType: imagecrypt.A256CTR})
	for name, source := range map[string]keys{
		"first":                 {kid: key},
		"second":                {"kbs:///default/key/2": other},
		"second, first changed": {kid: other, "kbs:///default/key/2": other},
	} {
		if got, err := open(t, layer, ciphertext, source); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := open(t, layer, ciphertext, keys{})
	if imagecrypt.CodeOf(err) != imagecrypt.CodeKeyUnavailable || !strings.Contains(err.Error(), "key/1") || !strings.Contains(err.Error(), "key/2") {
		t.Errorf("without keys: %v", err)
	}
	// Others may call the provider something else.
	layer.Annotations["org.opencontainers.image.enc.keys.provider.coco"] = layer.Annotations[packets]
	delete(layer.Annotations, packets)
	if got, err := open(t, layer, ciphertext, keys{kid: key}); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("another provider name: %v", err)
	}
}

// What ocicrypt's own cipher encrypts we open, and the other way round.
func TestOcicryptAgrees(t *testing.T) {
	handler, err := blockcipher.NewLayerBlockCipherHandler()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 16, 10<<10 + 1, 50_000} {
		plain := noise(n)
		r, finalize, err := handler.Encrypt(bytes.NewReader(plain), blockcipher.AES256CTR)
		if err != nil {
			t.Fatal(err)
		}
		ciphertext, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		opts, err := finalize()
		if err != nil {
			t.Fatal(err)
		}
		opts.Private.Digest = digest.FromBytes(plain)
		layer := ocispec.Descriptor{MediaType: layerType + "+encrypted", Digest: digest.FromBytes(ciphertext)}
		packet, err := imagecrypt.Wrap(kid, secret.New([]byte(key)), imagecrypt.A256GCM, secret.New(encode(t, opts.Private)))
		if err != nil {
			t.Fatal(err)
		}
		layer.Annotations = map[string]string{pubopts: base64.StdEncoding.EncodeToString(encode(t, opts.Public)),
			packets: base64.StdEncoding.EncodeToString(encode(t, packet))}
		if got, err := open(t, layer, ciphertext, keys{kid: key}); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes of theirs: got %d, %v", n, len(got), err)
		}

		layer, ciphertext = sealed(t, plain)
		packed, err := imagecrypt.Packets(layer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := imagecrypt.Unwrap(t.Context(), *packed[0], keys{kid: key})
		if err != nil {
			t.Fatal(err)
		}
		opts = blockcipher.LayerBlockCipherOptions{}
		if err := json.Unmarshal(private.Reveal(), &opts.Private); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(public(t, layer), &opts.Public); err != nil {
			t.Fatal(err)
		}
		if opts.Private.Digest != digest.FromBytes(plain) {
			t.Errorf("%d bytes of ours: the digest is %s", n, opts.Private.Digest)
		}
		r, _, err = handler.Decrypt(bytes.NewReader(ciphertext), opts)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes of ours: got %d, %v", n, len(got), err)
		}
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func public(t testing.TB, layer ocispec.Descriptor) []byte {
	t.Helper()
	text, err := base64.StdEncoding.DecodeString(layer.Annotations[pubopts])
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSealRefuses(t *testing.T) {
	to := imagecrypt.Recipient{KeyID: kid, Key: secret.New([]byte(key))}
	for name, c := range map[string]struct {
		mediaType string
		to        []imagecrypt.Recipient
	}{
		"no layer":          {"application/json", []imagecrypt.Recipient{to}},
		"encrypted already": {layerType + "+encrypted", []imagecrypt.Recipient{to}},
		"nobody":            {layerType, nil},
		"too many":          {layerType, make([]imagecrypt.Recipient, 17)},
		"no key":            {layerType, []imagecrypt.Recipient{{KeyID: kid}}},
	} {
		if _, _, err := imagecrypt.Seal(ocispec.Descriptor{MediaType: c.mediaType}, nil, c.to...); err == nil {
			t.Errorf("%s: was sealed", name)
		}
	}
	r, annotations, err := imagecrypt.Seal(ocispec.Descriptor{MediaType: layerType}, strings.NewReader("abc"), to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if got, err := annotations(); err == nil {
		t.Errorf("annotations before the end: %v", got)
	}
}

func TestBrokenStream(t *testing.T) {
	layer, ciphertext := sealed(t, noise(1000))
	for _, broken := range []error{io.ErrUnexpectedEOF, errors.New("broken")} {
		r, err := imagecrypt.Open(t.Context(), layer, io.MultiReader(bytes.NewReader(ciphertext[:500]), iotest.ErrReader(broken)), keys{kid: key})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, broken) || imagecrypt.CodeOf(err) != "" {
			t.Errorf("%v became %v", broken, err)
		}
	}
}

// unauthentic says that a layer is read to its end, and refused there and not before.
func unauthentic(t *testing.T, layer ocispec.Descriptor, ciphertext []byte) {
	t.Helper()
	got, err := open(t, layer, ciphertext, keys{kid: key})
	if imagecrypt.CodeOf(err) != imagecrypt.CodeLayerUnauthentic || len(got) != len(ciphertext) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(ciphertext), err)
	}
}

func TestAttackChangedCiphertext(t *testing.T) {
	layer, ciphertext := sealed(t, noise(5000))
	for _, i := range []int{0, 16, 4999} {
		changed := bytes.Clone(ciphertext)
		changed[i] ^= 0x80
		unauthentic(t, layer, changed)
	}
}

func TestAttackOtherLength(t *testing.T) {
	layer, ciphertext := sealed(t, noise(5000))
	for _, n := range []int{0, 1, 4096, 4999} {
		unauthentic(t, layer, ciphertext[:n])
	}
	unauthentic(t, layer, append(bytes.Clone(ciphertext), 0))
}

func TestAttackSwappedAnnotations(t *testing.T) {
	one, oneText := sealed(t, noise(5000))
	two, twoText := sealed(t, noise(5001))
	one.Annotations, two.Annotations = two.Annotations, one.Annotations
	unauthentic(t, one, oneText)
	unauthentic(t, two, twoText)
	one.Annotations, two.Annotations = two.Annotations, one.Annotations
	one.Annotations[packets], two.Annotations[packets] = two.Annotations[packets], one.Annotations[packets]
	unauthentic(t, one, oneText)
	unauthentic(t, two, twoText)
}

func TestAttackHMAC(t *testing.T) {
	layer, ciphertext := sealed(t, noise(5000))
	var opts blockcipher.PublicLayerBlockCipherOptions
	if err := json.Unmarshal(public(t, layer), &opts); err != nil {
		t.Fatal(err)
	}
	opts.Hmac[31] ^= 1
	layer.Annotations[pubopts] = base64.StdEncoding.EncodeToString(encode(t, opts))
	unauthentic(t, layer, ciphertext)
}

// Public options that are not what was written are refused before a key is asked for.
func TestAttackPublicOptions(t *testing.T) {
	const mac = `"hmac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	for name, text := range map[string]string{
		"none":           ``,
		"no JSON":        `x`,
		"no cipher":      `{` + mac + `,"cipheroptions":{}}`,
		"another cipher": `{"cipher":"NONE",` + mac + `,"cipheroptions":{}}`,
		"no HMAC":        `{"cipher":"AES_256_CTR_HMAC_SHA256","cipheroptions":{}}`,
		"an empty HMAC":  `{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"","cipheroptions":{}}`,
		"a short HMAC":   `{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"AAAA","cipheroptions":{}}`,
	} {
		layer, ciphertext := sealed(t, noise(100))
		layer.Annotations[pubopts] = base64.StdEncoding.EncodeToString([]byte(text))
		if _, err := open(t, layer, ciphertext, keys{}); imagecrypt.CodeOf(err) != imagecrypt.CodeLayerMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	layer, ciphertext := sealed(t, noise(100))
	layer.Annotations[pubopts] += "!"
	if _, err := open(t, layer, ciphertext, keys{}); imagecrypt.CodeOf(err) != imagecrypt.CodeLayerMalformed {
		t.Errorf("no base64: %v", err)
	}
}

// The HMAC does not cover the counter's start. One in the public options, which others prefer to the wrapped one, would
// make another plaintext of an authentic ciphertext.
func TestAttackPublicNonce(t *testing.T) {
	layer, ciphertext := sealed(t, noise(100))
	var opts blockcipher.PublicLayerBlockCipherOptions
	if err := json.Unmarshal(public(t, layer), &opts); err != nil {
		t.Fatal(err)
	}
	opts.CipherOptions["nonce"] = make([]byte, 16)
	layer.Annotations[pubopts] = base64.StdEncoding.EncodeToString(encode(t, opts))
	if _, err := open(t, layer, ciphertext, keys{kid: key}); imagecrypt.CodeOf(err) != imagecrypt.CodeLayerMalformed {
		t.Errorf("got %v", err)
	}
}

// asked counts how often a key is asked for.
type asked int

func (a *asked) Key(context.Context, string) (secret.Bytes, error) {
	*a++
	return secret.Bytes{}, errNoKey
}

// Each packet may cost a question to the key broker.
func TestAttackManyPackets(t *testing.T) {
	layer, ciphertext := sealed(t, noise(100))
	layer.Annotations[packets] = strings.Repeat(layer.Annotations[packets]+",", 99) + layer.Annotations[packets]
	var n asked
	_, err := imagecrypt.Open(t.Context(), layer, bytes.NewReader(ciphertext), &n)
	if imagecrypt.CodeOf(err) != imagecrypt.CodePacketMalformed || n > 0 {
		t.Errorf("asked %d times: %v", n, err)
	}
}

func TestLayersThatAreNotForTheKeyBroker(t *testing.T) {
	good, ciphertext := sealed(t, noise(100))
	for name, c := range map[string]struct {
		change func(layer *ocispec.Descriptor)
		code   imagecrypt.Code
		says   string
	}{
		"plain":        {func(l *ocispec.Descriptor) { l.MediaType = layerType }, imagecrypt.CodeLayerMalformed, layerType},
		"no packet":    {func(l *ocispec.Descriptor) { delete(l.Annotations, packets) }, imagecrypt.CodeLayerMalformed, "which key"},
		"no base64":    {func(l *ocispec.Descriptor) { l.Annotations[packets] = "?" }, imagecrypt.CodePacketMalformed, "base64"},
		"empty packet": {func(l *ocispec.Descriptor) { l.Annotations[packets] += "," }, imagecrypt.CodePacketMalformed, "JSON"},
		"for a public key": {func(l *ocispec.Descriptor) {
			delete(l.Annotations, packets)
			l.Annotations["org.opencontainers.image.enc.keys.jwe"] = "e30="
		}, imagecrypt.CodeProviderUnsupported, "encrypted for jwe"},
	} {
		layer := good
		layer.Annotations = maps.Clone(good.Annotations)
		c.change(&layer)
		_, err := open(t, layer, ciphertext, keys{kid: key})
		if imagecrypt.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	layer, ciphertext := sealed(b, noise(8<<20))
	b.SetBytes(int64(len(ciphertext)))
	for b.Loop() {
		r, err := imagecrypt.Open(b.Context(), layer, bytes.NewReader(ciphertext), keys{kid: key})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}
