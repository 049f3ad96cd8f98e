// SPDX-License-Identifier: Apache-2.0

//go:build containers_image_openpgp

package signature

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
)

const app = "registry.example.com/team/app"

// repository is one in memory; it hands out whatever was put into it.
type repository struct {
	manifests map[string][]byte
	blobs     map[digest.Digest][]byte
	asked     []string
}

func newRepository() *repository {
	return &repository{manifests: map[string][]byte{}, blobs: map[digest.Digest][]byte{}}
}

func (r *repository) Manifest(_ context.Context, reference string) ([]byte, string, error) {
	r.asked = append(r.asked, reference)
	text, ok := r.manifests[reference]
	if !ok {
		return nil, "", fmt.Errorf("the manifest %s: %w", reference, ErrNotFound)
	}
	return text, ocispec.MediaTypeImageManifest, nil
}

func (r *repository) Blob(_ context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	blob, ok := r.blobs[d]
	if !ok {
		return nil, 0, fmt.Errorf("the blob %s: %w", d, ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(blob)), int64(len(blob)), nil
}

// attach adds a signature of a manifest to those that are there.
func (r *repository) attach(t testing.TB, subject digest.Digest, s signed) {
	t.Helper()
	var m ocispec.Manifest
	if text, ok := r.manifests[Tag(subject)]; ok {
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
	}
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	m.Layers = append(m.Layers, r.put(s))
	r.manifests[Tag(subject)] = encode(t, m)
}

func (r *repository) put(s signed) ocispec.Descriptor {
	d := digest.FromBytes(s.payload)
	r.blobs[d] = s.payload
	return ocispec.Descriptor{MediaType: s.mediaType, Digest: d, Size: int64(len(s.payload)), Annotations: s.annotations}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pod is an index, the platform's manifest in it, and the repository that holds them.
type pod struct {
	repository *repository
	index      []byte
	instance   []byte
}

func newPod(t testing.TB) pod {
	t.Helper()
	instance := encode(t, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest})
	index := encode(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("of another platform")},
			{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(instance), Size: int64(len(instance))}}})
	return pod{newRepository(), index, instance}
}

func (p pod) indexDigest() digest.Digest    { return digest.FromBytes(p.index) }
func (p pod) instanceDigest() digest.Digest { return digest.FromBytes(p.instance) }

// name is how a pod names the index.
func (p pod) name(t testing.TB, repository string) reference.Named {
	t.Helper()
	return withDigest(t, repository, p.indexDigest())
}

func (p pod) image() Image {
	return Image{Manifest: p.index, Instance: p.instance, Source: p.repository}
}

func (p pod) verify(t testing.TB, policy *Policy, repository string) error {
	t.Helper()
	return policy.Verify(t.Context(), p.name(t, repository), p.image())
}

// signed is a signature in the form of cosign's layers.
type signed struct {
	mediaType   string
	payload     []byte
	annotations map[string]string
}

func payload(d digest.Digest, name, kind string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, name, d, kind)
}

// cosign signs as `cosign sign --key` does: the repository has no tag.
func cosign(t testing.TB, key crypto.Signer, d digest.Digest, name string) signed {
	t.Helper()
	return signPayload(t, key, payload(d, name, "cosign container image signature"))
}

func signPayload(t testing.TB, key crypto.Signer, text []byte) signed {
	t.Helper()
	sum := sha256.Sum256(text)
	raw, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return signed{PayloadMediaType, text, map[string]string{Annotation: base64.StdEncoding.EncodeToString(raw)}}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// demand is a policy of one requirement for all images.
func demand(t testing.TB, requirement any, keys Keys) *Policy {
	t.Helper()
	return mustParse(t, string(encode(t, map[string]any{"default": []any{requirement}})), keys)
}

type members map[string]any

// by demands a signature by a key.
func by(t testing.TB, key crypto.Signer) members {
	t.Helper()
	return members{"type": "sigstoreSigned", "keyData": base64Of(publicPEM(t, key))}
}

// authority issues certificates as Fulcio does, and enters signatures into a log as Rekor does.
type authority struct {
	rootKey *ecdsa.PrivateKey
	root    *x509.Certificate
	log     *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	a := authority{rootKey: newKey(t), log: newKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: theTime.Add(-time.Hour), NotAfter: theTime.Add(time.Hour)}
	a.root = issue(t, template, template, a.rootKey.Public(), a.rootKey)
	return a
}

// theTime is when the log says that a signature was made.
var theTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func issue(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func certificatePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// keyless says how a signature with a certificate differs from the good one.
type keyless struct {
	issuer, email string
	from, until   time.Time
	at            time.Time
}

const (
	issuer  = "https://accounts.example.com"
	builder = "builder@example.com"
)

func good() keyless {
	return keyless{issuer: issuer, email: builder, from: theTime.Add(-time.Minute), until: theTime.Add(9 * time.Minute), at: theTime}
}

func (a authority) sign(t testing.TB, how keyless, d digest.Digest, name string) signed {
	t.Helper()
	key := newKey(t)
	certificate := issue(t, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: how.from, NotAfter: how.until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, EmailAddresses: []string{how.email},
		// Fulcio's extension with the issuer of the OpenID token, as a bare string.
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(how.issuer)}}},
		a.root, key.Public(), a.rootKey)
	s := cosign(t, key, d, name)
	s.annotations["dev.sigstore.cosign/certificate"] = certificatePEM(certificate)
	s.annotations["dev.sigstore.cosign/chain"] = certificatePEM(a.root)
	a.enter(t, s, certificatePEM(certificate), how.at)
	return s
}

// enter puts the log's promise beside a signature that a key or certificate in PEM verifies.
func (a authority) enter(t testing.TB, s signed, by string, at time.Time) {
	t.Helper()
	sum := sha256.Sum256(s.payload)
	body := encode(t, members{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": members{
		"data":      members{"hash": members{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}},
		"signature": members{"content": s.annotations[Annotation], "publicKey": members{"content": base64Of(by)}},
	}})
	// encoding/json writes the members of a map sorted and these without blanks: RFC 8785's form.
	entry := encode(t, map[string]any{"body": body, "integratedTime": at.Unix(), "logIndex": 7, "logID": "c0ffee"})
	digest := sha256.Sum256(entry)
	promise, err := ecdsa.SignASN1(rand.Reader, a.log, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	s.annotations["dev.sigstore.cosign/bundle"] = string(encode(t, map[string]any{"SignedEntryTimestamp": promise, "Payload": json.RawMessage(entry)}))
}

// demand is the requirement that the good signature meets.
func (a authority) demand(t testing.TB) members {
	t.Helper()
	return members{"type": "sigstoreSigned", "rekorPublicKeyData": base64Of(publicPEM(t, a.log)),
		"fulcio": members{"caData": base64Of(certificatePEM(a.root)), "oidcIssuer": issuer, "subjectEmail": builder}}
}

// person has an OpenPGP key.
type person struct{ entity *openpgp.Entity }

func newPerson(t testing.TB) person {
	t.Helper()
	e, err := openpgp.NewEntity("A. Person", "", "person@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return person{e}
}

func (p person) keyring(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.entity.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// sign makes a simple signature, as `podman push --sign-by` does.
func (p person) sign(t testing.TB, d digest.Digest, name string) []byte {
	t.Helper()
	return signText(t, p, fmt.Appendf(nil,
		`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"atomic container signature"},"optional":{}}`, name, d))
}

func signText(t testing.TB, p person, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := openpgp.Sign(&b, p.entity, nil, &packet.Config{})
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressed wraps a message as gpg does.
func compressed(t testing.TB, message []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packet.SerializeCompressed(nopCloser{&b}, packet.CompressionZLIB, nil)
	if err == nil {
		_, err = w.Write(message)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
