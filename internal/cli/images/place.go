// SPDX-License-Identifier: Apache-2.0

// Package images reads, encrypts and writes container images where their owner has them: in registries and in OCI layout
// directories, for one platform or several.
//
// It runs on the owner's side. It believes a registry as far as digests go: what a manifest names is checked against its
// digest. It neither gets nor keeps keys, and verifies no signatures.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Place is where an image is: oci:DIR[:TAG], or a reference to a registry, which docker:// may stand before.
type Place struct {
	reference name.Reference // nil: in a layout
	dir, tag  string
}

// ParsePlace reads a place as users write it.
func ParsePlace(text string) (Place, error) {
	if rest, ok := strings.CutPrefix(text, "oci:"); ok {
		p := Place{dir: rest}
		// A tag has no slash; a colon before the last one belongs to the path.
		if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
			p.dir, p.tag = rest[:i], rest[i+1:]
		}
		if p.dir == "" {
			return Place{}, fmt.Errorf("%q names no directory: want oci:DIR or oci:DIR:TAG", text)
		}
		return p, nil
	}
	reference, err := name.ParseReference(strings.TrimPrefix(text, "docker://"))
	if err != nil {
		return Place{}, fmt.Errorf("%q is neither a reference to a registry nor oci:DIR: %w", text, err)
	}
	return Place{reference: reference}, nil
}

// String is the place as users write it.
func (p Place) String() string {
	switch {
	case p.reference != nil:
		return p.reference.Name()
	case p.tag != "":
		return "oci:" + p.dir + ":" + p.tag
	}
	return "oci:" + p.dir
}

// Pinned names what is at the place by its digest, as pods should; for a layout, which has no such names, it is the place.
func (p Place) Pinned(d v1.Hash) string {
	if p.reference == nil {
		return p.String()
	}
	return p.reference.Context().Name() + "@" + d.String()
}

// ByDigest says whether the place is named by a digest, which nothing else can be written to.
func (p Place) ByDigest() bool {
	_, ok := p.reference.(name.Digest)
	return ok
}

// Stored is an image as it is stored, or an index of images for several platforms.
type Stored struct {
	Descriptor v1.Descriptor
	Image      v1.Image      // or nil
	Index      v1.ImageIndex // or nil
}

// Open finds what is at the place. Layers are read later.
func (p Place) Open(ctx context.Context, options ...remote.Option) (*Stored, error) {
	s, err := p.open(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", p, err)
	}
	var manifest interface{ RawManifest() ([]byte, error) } = s.Image
	if s.Index != nil {
		manifest = s.Index
	}
	text, err := manifest.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", p, err)
	}
	if got := digest.FromBytes(text); got.String() != s.Descriptor.Digest.String() {
		return nil, fmt.Errorf("opening %s: the manifest is not that of the digest %s", p, s.Descriptor.Digest)
	}
	return s, nil
}

func (p Place) open(ctx context.Context, options []remote.Option) (*Stored, error) {
	if p.reference != nil {
		got, err := remote.Get(p.reference, append(options, remote.WithContext(ctx))...)
		if err != nil {
			return nil, err
		}
		s := &Stored{Descriptor: got.Descriptor}
		if got.MediaType.IsIndex() {
			s.Index, err = got.ImageIndex()
		} else {
			s.Image, err = got.Image()
		}
		return s, err
	}
	root, err := layout.ImageIndexFromPath(p.dir)
	if err != nil {
		return nil, fmt.Errorf("%w; is it an OCI layout directory, with a file index.json?", err)
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	for _, d := range manifest.Manifests {
		if p.tag == "" || d.Annotations[ocispec.AnnotationRefName] == p.tag {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return nil, errors.New("the layout has no such image")
	case len(found) > 1:
		return nil, fmt.Errorf("the layout has %d such images: name one, as oci:DIR:TAG", len(found))
	}
	s := &Stored{Descriptor: found[0]}
	if s.Descriptor.MediaType.IsIndex() {
		s.Index, err = root.ImageIndex(s.Descriptor.Digest)
	} else {
		s.Image, err = root.Image(s.Descriptor.Digest)
	}
	return s, err
}

// Write puts an image there, with all its layers, over what the place's tag named.
func (p Place) Write(ctx context.Context, s *Stored, options ...remote.Option) error {
	if err := p.write(ctx, s, options); err != nil {
		return fmt.Errorf("writing %s: %w", p, err)
	}
	return nil
}

func (p Place) write(ctx context.Context, s *Stored, options []remote.Option) error {
	if p.reference != nil {
		options = append(options, remote.WithContext(ctx))
		if s.Index != nil {
			return remote.WriteIndex(p.reference, s.Index, options...)
		}
		return remote.Write(p.reference, s.Image, options...)
	}
	path, err := layout.FromPath(p.dir)
	if _, missing := os.Stat(filepath.Join(p.dir, "index.json")); errors.Is(missing, fs.ErrNotExist) {
		path, err = layout.Write(p.dir, empty.Index)
	}
	if err != nil {
		return err
	}
	same := match.Digests(s.Descriptor.Digest)
	var with []layout.Option
	if p.tag != "" {
		same = match.Annotation(ocispec.AnnotationRefName, p.tag)
		with = append(with, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: p.tag}))
	}
	if s.Index != nil {
		return path.ReplaceIndex(s.Index, same, with...)
	}
	return path.ReplaceImage(s.Image, same, with...)
}
