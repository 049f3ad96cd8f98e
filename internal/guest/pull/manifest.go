// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"encoding/json"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/imagecrypt"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// layer is one layer as manifest and configuration agree on it.
type layer struct {
	blob        ocispec.Descriptor
	diffID      digest.Digest // of the tar archive
	compression compression
	encrypted   bool
}

type compression int

const (
	uncompressed compression = iota
	gzipped
	zstandard
)

// compressions lists the media types of layers: OCI image-spec, media-types.md, and Docker's before it.
var compressions = map[string]compression{
	ocispec.MediaTypeImageLayer:                                    uncompressed,
	ocispec.MediaTypeImageLayerGzip:                                gzipped,
	ocispec.MediaTypeImageLayerZstd:                                zstandard,
	"application/vnd.oci.image.layer.nondistributable.v1.tar":      uncompressed,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": gzipped,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": zstandard,
	"application/vnd.docker.image.rootfs.diff.tar":                 uncompressed,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":            gzipped,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":            zstandard,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    gzipped,
}

// zstdWindow is the most memory that a frame may ask for; `zstd --ultra -22` needs as much.
const zstdWindow = 128 << 20

func (c compression) open(r io.Reader) (io.ReadCloser, error) {
	switch c {
	case gzipped:
		return gzip.NewReader(r) // reads all members
	case zstandard:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// document is what a digest in a reference may name. The media type that a server's header gives does not count: it
// is not bound by the digest, and could make a manifest of what its author wrote as an index.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`

	text []byte // all of it
}

func parseDocument(text []byte) (*document, error) {
	d := document{text: text}
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, failed(CodeMalformed, err, "the manifest is no JSON of the kind")
	}
	if d.SchemaVersion != 2 {
		return nil, refuse(CodeUnsupported, "a manifest of schema version %d, not 2", d.SchemaVersion)
	}
	index := len(d.Manifests) > 0
	image := d.Config != nil || len(d.Layers) > 0
	switch {
	case index && image:
		return nil, refuse(CodeMalformed, "the manifest is an image's and an index at once")
	case index:
		if d.MediaType != "" && d.MediaType != ocispec.MediaTypeImageIndex && d.MediaType != dockerIndex {
			return nil, refuse(CodeMalformed, "an index that calls itself %q", d.MediaType)
		}
	case d.Config != nil:
		if d.MediaType != "" && d.MediaType != ocispec.MediaTypeImageManifest && d.MediaType != dockerManifest {
			return nil, refuse(CodeMalformed, "a manifest that calls itself %q", d.MediaType)
		}
	default:
		return nil, refuse(CodeUnsupported, "the digest names neither an image nor an index of images")
	}
	return &d, nil
}

func (d *document) isIndex() bool { return len(d.Manifests) > 0 }

// choose returns the index's image for a platform: the first that fits, one without a variant before the others, for
// a variant is a demand.
func (d *document) choose(platform ocispec.Platform) (ocispec.Descriptor, error) {
	var chosen *ocispec.Descriptor
	for i, m := range d.Manifests {
		if m.Platform == nil || m.Platform.OS != platform.OS || m.Platform.Architecture != platform.Architecture {
			continue
		}
		if chosen == nil || chosen.Platform.Variant != "" && m.Platform.Variant == "" {
			chosen = &d.Manifests[i]
		}
	}
	if chosen == nil {
		return ocispec.Descriptor{}, refuse(CodeUnsupported, "the index has no image for %s/%s",
			platform.OS, platform.Architecture)
	}
	return *chosen, checkDescriptor(*chosen)
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return failed(CodeMalformed, err, "the digest %q", d.Digest)
	}
	if d.Size < 0 {
		return refuse(CodeMalformed, "%s has a size of %d", d.Digest, d.Size)
	}
	return nil
}

// checkBlobs looks at what an image's manifest says of its blobs, before any is fetched.
func (d *document) checkBlobs(limits Limits) error {
	if d.Config.MediaType != ocispec.MediaTypeImageConfig && d.Config.MediaType != dockerConfig {
		return refuse(CodeUnsupported, "its configuration is of type %q: not a container image", d.Config.MediaType)
	}
	if d.Config.Size > limits.ConfigBytes {
		return refuse(CodeTooLarge, "a configuration of %d bytes, more than %d", d.Config.Size, limits.ConfigBytes)
	}
	if len(d.Layers) > limits.Layers {
		return refuse(CodeTooLarge, "%d layers, more than %d", len(d.Layers), limits.Layers)
	}
	left := limits.Bytes
	for _, l := range append([]ocispec.Descriptor{*d.Config}, d.Layers...) {
		if err := checkDescriptor(l); err != nil {
			return err
		}
		if l.Size > left {
			return refuse(CodeTooLarge, "the image is larger than %d bytes, compressed", limits.Bytes)
		}
		left -= l.Size
	}
	return nil
}

// parseConfig parses the image's configuration, and pairs the manifest's layers with its diff_ids.
func (d *document) parseConfig(text []byte, platform ocispec.Platform) (*ocispec.Image, []layer, error) {
	var config ocispec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, nil, failed(CodeMalformed, err, "the image's configuration is no JSON of the kind")
	}
	if config.OS != platform.OS || config.Architecture != platform.Architecture {
		return nil, nil, refuse(CodeUnsupported, "the image is for %q/%q, not %s/%s",
			config.OS, config.Architecture, platform.OS, platform.Architecture)
	}
	if config.RootFS.Type != "layers" || len(config.RootFS.DiffIDs) != len(d.Layers) {
		return nil, nil, refuse(CodeMalformed, "the manifest has %d layers and the configuration %d of type %q",
			len(d.Layers), len(config.RootFS.DiffIDs), config.RootFS.Type)
	}
	layers := make([]layer, len(d.Layers))
	for i, blob := range d.Layers {
		diffID := config.RootFS.DiffIDs[i]
		if err := diffID.Validate(); err != nil {
			return nil, nil, failed(CodeMalformed, err, "the diff_id %q", diffID)
		}
		compression, known := compressions[imagecrypt.PlainMediaType(blob.MediaType)]
		if !known {
			return nil, nil, refuse(CodeUnsupported, "layer %d is of type %q", i+1, blob.MediaType)
		}
		layers[i] = layer{blob, diffID, compression, imagecrypt.Encrypted(blob.MediaType)}
	}
	return &config, layers, nil
}
