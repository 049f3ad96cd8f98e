// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/imagecrypt"
)

// maxIndexDepth is how deep indexes may stand in indexes.
const maxIndexDepth = 3

// Encryption encrypts images. Its ciphertext is kept in files until it is written.
type Encryption struct {
	Recipients []imagecrypt.Recipient
	// Layers are the layers to encrypt, in each image: 0 is the first one, -1 the last. None means all.
	Layers []int
	// Dir is where files are kept; whoever names it removes it.
	Dir string
	// Progress is told what takes long; nil tells nobody.
	Progress *Progress

	// Encrypted and Total count layers; Left counts manifests that are no images and were left out.
	Encrypted, Total, Left int

	done map[digest.Digest]sealedLayer // by the digest of the plaintext: what images share stays shared
}

type sealedLayer struct {
	descriptor ocispec.Descriptor
	path       string
}

// Encrypt makes the encrypted image, or the index of encrypted images, of one that is not.
func (e *Encryption) Encrypt(ctx context.Context, s *Stored) (*Stored, error) {
	if e.done == nil {
		e.done = map[digest.Digest]sealedLayer{}
	}
	encrypted := new(Stored)
	var described partial.Describable
	var err error
	if s.Index != nil {
		encrypted.Index, err = e.index(ctx, s.Index, 1)
		described = encrypted.Index
	} else {
		encrypted.Image, err = e.image(ctx, s.Image)
		described = encrypted.Image
	}
	if err != nil {
		return nil, err
	}
	if e.Encrypted == 0 {
		return nil, errors.New("there is no layer to encrypt: all are encrypted already, or the image has none")
	}
	d, err := partial.Descriptor(described)
	if err != nil {
		return nil, err
	}
	encrypted.Descriptor = *d
	return encrypted, nil
}

func (e *Encryption) index(ctx context.Context, index v1.ImageIndex, depth int) (v1.ImageIndex, error) {
	if depth > maxIndexDepth {
		return nil, fmt.Errorf("indexes in indexes, more than %d deep", maxIndexDepth)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var add []mutate.IndexAddendum
	for _, d := range manifest.Manifests {
		var child mutate.Appendable
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "":
			// Provenance and lists of contents tell what is in the layers, and are of an image that this one is not.
			e.Left++
			continue
		case d.MediaType.IsIndex():
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, fmt.Errorf("index %s: %w", d.Digest, err)
			}
			if child, err = e.index(ctx, inner, depth+1); err != nil {
				return nil, err
			}
		case d.MediaType.IsImage():
			image, err := index.Image(d.Digest)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", d.Digest, err)
			}
			if child, err = e.image(ctx, image); err != nil {
				return nil, fmt.Errorf("image %s: %w", d.Digest, err)
			}
		default:
			return nil, fmt.Errorf("the index has %s, of type %s, which is no image", d.Digest, d.MediaType)
		}
		add = append(add, mutate.IndexAddendum{Add: child, Descriptor: v1.Descriptor{Platform: d.Platform, Annotations: d.Annotations}})
	}
	made := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), add...)
	if len(manifest.Annotations) > 0 {
		annotated, ok := mutate.Annotations(made, manifest.Annotations).(v1.ImageIndex)
		if !ok {
			return nil, errors.New("an index with annotations is none")
		}
		made = annotated
	}
	return made, nil
}

func (e *Encryption) image(ctx context.Context, image v1.Image) (v1.Image, error) {
	text, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, fmt.Errorf("the manifest: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	selected, err := selection(e.Layers, len(manifest.Layers))
	if err != nil {
		return nil, err
	}
	made := &encryptedImage{config: config, layers: map[v1.Hash]partial.CompressedLayer{}}
	for i, layer := range manifest.Layers {
		e.Total++
		hash, err := v1.NewHash(layer.Digest.String())
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		blob, err := image.LayerByDigest(hash)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if !selected[i] || imagecrypt.Encrypted(layer.MediaType) {
			manifest.Layers[i].MediaType = ociType(layer.MediaType)
			made.layers[hash] = blob
			continue
		}
		if layer.MediaType == "" || len(layer.URLs) > 0 {
			return nil, fmt.Errorf("layer %d lies elsewhere (%d URLs) or has no type: choose the others with --layer", i, len(layer.URLs))
		}
		sealed, err := e.layer(ctx, layer, blob)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		e.Encrypted++
		manifest.Layers[i] = sealed.descriptor
		if hash, err = v1.NewHash(sealed.descriptor.Digest.String()); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		made.layers[hash] = fileLayer{sealed, hash, e.Progress}
	}
	manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	manifest.MediaType = ocispec.MediaTypeImageManifest
	manifest.Config.MediaType = ociType(manifest.Config.MediaType)
	if made.manifest, err = json.Marshal(manifest); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(made)
}

// selection says which of n layers are meant.
func selection(layers []int, n int) ([]bool, error) {
	selected := make([]bool, n)
	for i := range selected {
		selected[i] = len(layers) == 0
	}
	for _, l := range layers {
		i := l
		if i < 0 {
			i += n
		}
		if i < 0 || i >= n {
			return nil, fmt.Errorf("there is no layer %d: the image has %d, 0 is the first one and -1 the last", l, n)
		}
		selected[i] = true
	}
	return selected, nil
}

// ociType is the OCI name of what Docker's manifests call otherwise: there are no Docker names for encrypted layers, and a
// manifest has those of one kind.
func ociType(mediaType string) string {
	if mediaType == string(types.DockerConfigJSON) {
		return ocispec.MediaTypeImageConfig
	}
	if encrypted, ok := imagecrypt.EncryptedMediaType(mediaType); ok {
		return imagecrypt.PlainMediaType(encrypted)
	}
	return mediaType
}

// layer encrypts a layer into a file.
func (e *Encryption) layer(ctx context.Context, layer ocispec.Descriptor, blob v1.Layer) (s sealedLayer, err error) {
	if s, ok := e.done[layer.Digest]; ok {
		return s, nil
	}
	if err := layer.Digest.Validate(); err != nil {
		return s, err
	}
	mediaType, ok := imagecrypt.EncryptedMediaType(layer.MediaType)
	if !ok {
		return s, fmt.Errorf("a blob of type %s is no layer that can be encrypted", layer.MediaType)
	}
	body, err := blob.Compressed()
	if err != nil {
		return s, err
	}
	defer body.Close()
	verifier := layer.Digest.Verifier()
	plain := io.TeeReader(io.LimitReader(&cancellable{ctx, body}, layer.Size+1), verifier)
	r, annotations, err := imagecrypt.Seal(layer, e.Progress.reader(plain, "encrypting", layer.Digest, layer.Size), e.Recipients...)
	if err != nil {
		return s, err
	}
	file, err := os.CreateTemp(e.Dir, "layer-")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	ciphertext := digest.Canonical.Digester()
	n, err := io.Copy(io.MultiWriter(file, ciphertext.Hash()), r)
	if err != nil {
		return s, fmt.Errorf("encrypting %s: %w", layer.Digest, err)
	}
	if n != layer.Size || !verifier.Verified() {
		return s, fmt.Errorf("%s is not what was read under that digest", layer.Digest)
	}
	s = sealedLayer{path: file.Name(), descriptor: ocispec.Descriptor{
		MediaType: mediaType, Digest: ciphertext.Digest(), Size: n, Annotations: map[string]string{},
	}}
	made, err := annotations()
	if err != nil {
		return s, err
	}
	for _, from := range []map[string]string{layer.Annotations, made} {
		for name, value := range from {
			s.descriptor.Annotations[name] = value
		}
	}
	e.done[layer.Digest] = s
	return s, nil
}

// cancellable stops reading when its context ends.
type cancellable struct {
	ctx context.Context //nolint:containedctx // a reader's life is one call of layer
	r   io.Reader
}

func (c *cancellable) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// encryptedImage is what partial makes an image of.
type encryptedImage struct {
	manifest, config []byte
	layers           map[v1.Hash]partial.CompressedLayer
}

func (i *encryptedImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (i *encryptedImage) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *encryptedImage) RawConfigFile() ([]byte, error)      { return i.config, nil }

func (i *encryptedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	layer, ok := i.layers[h]
	if !ok {
		return nil, fmt.Errorf("there is no layer %s", h)
	}
	return layer, nil
}

// fileLayer is an encrypted layer in its file.
type fileLayer struct {
	sealedLayer
	hash     v1.Hash
	progress *Progress
}

func (l fileLayer) Digest() (v1.Hash, error) { return l.hash, nil }
func (l fileLayer) Size() (int64, error)     { return l.descriptor.Size, nil }
func (l fileLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.descriptor.MediaType), nil
}
func (l fileLayer) Compressed() (io.ReadCloser, error) {
	file, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{l.progress.reader(file, "writing", l.descriptor.Digest, l.descriptor.Size), file}, nil
}
