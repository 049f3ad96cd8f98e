// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"encoding/json"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
)

// Image is what was pulled under a name.
type Image struct {
	// Manifest is the index or manifest that the reference's digest names, as the registry delivered it.
	Manifest []byte
	// Instance is the platform's manifest when Manifest is an index that lists it, and nil otherwise.
	Instance []byte
	// Source is where the signatures of the image are.
	Source Source
}

// Source reads from the repository of one image. What it returns is not trusted.
type Source interface {
	// Manifest returns a manifest and its media type by tag or digest. The error wraps [ErrNotFound] when the registry says that
	// there is none.
	Manifest(ctx context.Context, reference string) ([]byte, string, error)
	// Blob opens a blob and returns its size, or -1 when that is not known. The caller verifies the digest.
	Blob(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error)
}

// subject is one manifest whose signature speaks for the image.
type subject struct {
	manifest []byte
	digest   digest.Digest
}

// subjects returns the manifest that the name pins and, when that is an index, the instance of it that is used. It
// relies on nothing that the caller may have verified already.
func (i Image) subjects(name reference.Canonical) ([]subject, error) {
	if name.Digest().Algorithm().FromBytes(i.Manifest) != name.Digest() {
		return nil, refuse(CodeDigest, "the manifest is not the one that %s names", name)
	}
	list := []subject{{i.Manifest, name.Digest()}}
	if i.Instance == nil {
		return list, nil
	}
	var index ocispec.Index
	if err := json.Unmarshal(i.Manifest, &index); err != nil {
		return nil, failed(CodeDigest, err, "the index %s", name.Digest())
	}
	for _, m := range index.Manifests {
		if m.Digest.Validate() == nil && m.Digest.Algorithm().FromBytes(i.Instance) == m.Digest {
			return append(list, subject{i.Instance, m.Digest}), nil
		}
	}
	return nil, refuse(CodeDigest, "the index %s does not list the manifest that is to be used, %s", name.Digest(),
		digest.FromBytes(i.Instance))
}
