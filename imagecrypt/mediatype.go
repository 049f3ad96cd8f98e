// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const encryptedSuffix = "+encrypted"

// Encrypted says whether a layer of this media type is encrypted.
func Encrypted(mediaType string) bool { return strings.HasSuffix(mediaType, encryptedSuffix) }

// PlainMediaType is the media type of what is in a layer of an encrypted one; others are returned as they are.
func PlainMediaType(mediaType string) string { return strings.TrimSuffix(mediaType, encryptedSuffix) }

// plainTypes are the media types of layers that can be encrypted, by their OCI names: Docker's manifests have none for
// encrypted layers.
var plainTypes = map[string]string{
	ocispec.MediaTypeImageLayer:                                    ocispec.MediaTypeImageLayer,
	ocispec.MediaTypeImageLayerGzip:                                ocispec.MediaTypeImageLayerGzip,
	ocispec.MediaTypeImageLayerZstd:                                ocispec.MediaTypeImageLayerZstd,
	"application/vnd.docker.image.rootfs.diff.tar":                 ocispec.MediaTypeImageLayer,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":            ocispec.MediaTypeImageLayerGzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":            ocispec.MediaTypeImageLayerZstd,
	"application/vnd.oci.image.layer.nondistributable.v1.tar":      "application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
}

// EncryptedMediaType is the media type of a layer once it is encrypted. There is none for what is no layer, or is
// encrypted already.
func EncryptedMediaType(mediaType string) (string, bool) {
	plain, ok := plainTypes[mediaType]
	if !ok {
		return "", false
	}
	return plain + encryptedSuffix, true
}
