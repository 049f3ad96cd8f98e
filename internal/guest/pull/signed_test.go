// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/internal/guest/signature"
)

// cosign signs an image under a name, and pushes the signature to where cosign does.
func (r *testRegistry) cosign(t *testing.T, key *ecdsa.PrivateKey, name string, d digest.Digest) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},`+
		`"type":"cosign container image signature"},"optional":null}`, name, d)
	sum := sha256.Sum256(payload)
	signed, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	config := []byte("{}")
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: r.pushBlob(t, config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{
			MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: r.pushBlob(t, payload), Size: int64(len(payload)),
			Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signed)},
		}},
	}
	tag := strings.ReplaceAll(d.String(), ":", "-") + ".sig"
	r.do(t, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, manifest.MediaType, encode(t, manifest))
}

// The real policy, asked by the real puller: an image, or an index, is signed under the name that the user writes, and a
// mirror has it.
func TestPullSigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keyData := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	policy, err := signature.Parse(fmt.Appendf(nil, `{"default":[{"type":"reject"}],"transports":{"docker":{"example.com":[`+
		`{"type":"sigstoreSigned","keyData":%q}]}}}`, keyData), nil)
	if signature.CodeOf(err) == signature.CodeUnsupported {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		sign func(reg *testRegistry, image, index digest.Digest)
		code signature.Code
	}{
		{"the index is signed", func(reg *testRegistry, _, index digest.Digest) { reg.cosign(t, key, "example.com/"+repository, index) }, ""},
		{"the image is signed", func(reg *testRegistry, image, _ digest.Digest) { reg.cosign(t, key, "example.com/"+repository, image) }, ""},
		{"nothing is signed", func(*testRegistry, digest.Digest, digest.Digest) {}, signature.CodeRequired},
		{"by another key", func(reg *testRegistry, _, index digest.Digest) {
			reg.cosign(t, other, "example.com/"+repository, index)
		}, signature.CodeInvalid},
		{"under the mirror's name", func(reg *testRegistry, _, index digest.Digest) { reg.cosign(t, key, reg.host()+"/"+repository, index) }, signature.CodeIdentity},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := newRegistry(t, true)
			ours := ocispec.Platform{OS: "linux", Architecture: newPuller(t, reg, nil).platform.Architecture}
			d, images := index(t, reg, ours)
			tt.sign(reg, images[0], d)
			p := newPuller(t, reg, func(c *Config) {
				c.Policy = policy
				c.Registries = mirrored(false, reg.host(), "127.0.0.1:1")
			})
			for range 2 { // the second time its layers are there
				_, err := p.Pull(t.Context(), "example.com/"+repository+":v1@"+d.String())
				refused := CodeOf(err) == CodePolicyRefused && strings.Contains(err.Error(), string(tt.code))
				if tt.code == "" && err != nil || tt.code != "" && !refused {
					t.Errorf("%v, want %q", err, tt.code)
				}
			}
		})
	}
}
