// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What cosign writes ("Signature Specification", sigstore/cosign specs/SIGNATURE_SPEC.md).
const (
	// PayloadMediaType is that of a layer which holds what was signed.
	PayloadMediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	// Annotation is the one of such a layer that holds the signature, in base64.
	Annotation = "dev.cosignproject.cosign/signature"
)

const (
	// maxManifest is the size in bytes of a manifest of signatures; registries hold no larger ones.
	maxManifest = 4 << 20
	// maxSignatures is how many signatures one manifest may have.
	maxSignatures = 256
	// maxAnnotations is the size in bytes of the annotations of one signature: its certificate, the chain, the entry of a log.
	maxAnnotations = 64 << 10
	// maxPayload is the size in bytes of what is signed: some 250, and annotations of the signer's.
	maxPayload = 64 << 10
)

// Tag returns the tag under which cosign keeps the signatures of a manifest, in the repository of the image.
func Tag(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() + ".sig" }

// cosignSignatures reads the signatures of a manifest. Whatever is wrong with one of them is no reason not to look at the others.
func cosignSignatures(ctx context.Context, source Source, s subject) found {
	if source == nil {
		return found{problems: []error{errors.New("there is no registry to ask for signatures")}}
	}
	tag := Tag(s.digest)
	text, _, err := source.Manifest(ctx, tag)
	switch {
	case errors.Is(err, ErrNotFound):
		return found{}
	case err != nil:
		return found{problems: []error{fmt.Errorf("the manifest %s: %w", tag, err)}}
	case len(text) > maxManifest:
		return found{problems: []error{fmt.Errorf("the manifest %s has %d bytes, more than %d", tag, len(text), maxManifest)}}
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return found{problems: []error{fmt.Errorf("the manifest %s is none: %w", tag, err)}}
	}
	if n := len(manifest.Layers); n > maxSignatures {
		return found{problems: []error{fmt.Errorf("the manifest %s has %d signatures, more than %d: remove those that are no longer used", tag, n, maxSignatures)}}
	}
	var f found
	payloads := map[digest.Digest][]byte{} // signatures of several keys often share one
	for i, layer := range manifest.Layers {
		if layer.MediaType != PayloadMediaType || layer.Annotations[Annotation] == "" {
			continue // an attachment of another kind
		}
		if n := annotations(layer); n > maxAnnotations {
			f.problems = append(f.problems, fmt.Errorf("signature %d of %s: annotations of %d bytes, more than %d", i+1, tag, n, maxAnnotations))
			continue
		}
		payload, ok := payloads[layer.Digest]
		if !ok {
			if payload, err = readPayload(ctx, source, layer); err != nil {
				f.problems = append(f.problems, fmt.Errorf("signature %d of %s: %w", i+1, tag, err))
				continue
			}
			payloads[layer.Digest] = payload
		}
		c := candidate{subject: s, claims: claimed(payload)}
		if c.stored, err = storedSigstore(layer, payload); err != nil {
			f.problems = append(f.problems, fmt.Errorf("signature %d of %s: %w", i+1, tag, err))
			continue
		}
		f.candidates = append(f.candidates, c)
	}
	return f
}

func annotations(layer ocispec.Descriptor) int {
	n := 0
	for key, value := range layer.Annotations {
		n += len(key) + len(value)
	}
	return n
}

func readPayload(ctx context.Context, source Source, layer ocispec.Descriptor) ([]byte, error) {
	if err := layer.Digest.Validate(); err != nil {
		return nil, err
	}
	if layer.Size > maxPayload {
		return nil, fmt.Errorf("a payload of %d bytes, more than %d", layer.Size, maxPayload)
	}
	r, _, err := source.Blob(ctx, layer.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	payload, err := io.ReadAll(io.LimitReader(r, maxPayload+1))
	switch {
	case err != nil:
		return nil, err
	case len(payload) > maxPayload:
		return nil, fmt.Errorf("a payload of more than %d bytes", maxPayload)
	case layer.Digest.Algorithm().FromBytes(payload) != layer.Digest:
		return nil, fmt.Errorf("the payload is not the one that the digest %s names", layer.Digest)
	}
	return payload, nil
}

// storedSigstore is the form in which image/v5 keeps a signature of cosign's in a file.
func storedSigstore(layer ocispec.Descriptor, payload []byte) ([]byte, error) {
	body, err := json.Marshal(struct {
		MediaType   string            `json:"mimeType"`
		Payload     []byte            `json:"payload"`
		Annotations map[string]string `json:"annotations"`
	}{layer.MediaType, payload, layer.Annotations})
	return append([]byte("\x00sigstore-json\n"), body...), err
}
