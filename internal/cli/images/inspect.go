// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/imagecrypt"
)

// Report says what an image is, without its layers being read.
type Report struct {
	Reference string        `json:"reference"` // by digest
	Digest    string        `json:"digest"`
	MediaType string        `json:"media_type"`
	Images    []ImageReport `json:"images"`
}

// ImageReport is one platform's image.
type ImageReport struct {
	Platform string        `json:"platform,omitempty"` // only an index tells
	Digest   string        `json:"digest"`
	Config   string        `json:"config"` // its digest
	Layers   []LayerReport `json:"layers"`
}

// LayerReport is one layer. Size is in bytes, as stored.
type LayerReport struct {
	MediaType string      `json:"media_type"`
	Digest    string      `json:"digest"`
	Size      int64       `json:"size"`
	Encrypted bool        `json:"encrypted"`
	Keys      []KeyReport `json:"keys,omitempty"`    // each opens it
	Problem   string      `json:"problem,omitempty"` // why nothing here says which key does
}

// KeyReport is a key that opens a layer.
type KeyReport struct {
	KeyID    string `json:"kid"`
	Provider string `json:"provider"`
	WrapType string `json:"wrap_type,omitempty"`
}

// Inspect reports on what was opened at a place.
func Inspect(p Place, s *Stored) (*Report, error) {
	r := &Report{Reference: p.Pinned(s.Descriptor.Digest), Digest: s.Descriptor.Digest.String(), MediaType: string(s.Descriptor.MediaType)}
	var err error
	if s.Index != nil {
		err = r.index(s.Index, 1)
	} else {
		err = r.image(s.Image, s.Descriptor)
	}
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", p, err)
	}
	return r, nil
}

func (r *Report) index(index v1.ImageIndex, depth int) error {
	if depth > maxIndexDepth {
		return fmt.Errorf("indexes in indexes, more than %d deep", maxIndexDepth)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range manifest.Manifests {
		switch {
		case d.MediaType.IsIndex():
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return err
			}
			if err := r.index(inner, depth+1); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			image, err := index.Image(d.Digest)
			if err != nil {
				return fmt.Errorf("image %s: %w", d.Digest, err)
			}
			if err := r.image(image, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Report) image(image v1.Image, d v1.Descriptor) error {
	text, err := image.RawManifest()
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return fmt.Errorf("the manifest of %s: %w", d.Digest, err)
	}
	report := ImageReport{Digest: d.Digest.String(), Config: manifest.Config.Digest.String(), Layers: []LayerReport{}}
	if d.Platform != nil {
		report.Platform = d.Platform.String()
	}
	for _, layer := range manifest.Layers {
		l := LayerReport{
			MediaType: layer.MediaType, Digest: layer.Digest.String(), Size: layer.Size, Encrypted: imagecrypt.Encrypted(layer.MediaType),
		}
		if l.Encrypted {
			packets, err := imagecrypt.Packets(layer)
			if err != nil {
				l.Problem = err.Error()
			}
			for _, p := range packets {
				l.Keys = append(l.Keys, KeyReport{p.KeyID, p.Provider, p.WrapType})
			}
		}
		report.Layers = append(report.Layers, l)
	}
	r.Images = append(r.Images, report)
	return nil
}
