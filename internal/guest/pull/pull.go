// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/internal/guest/unpack"
)

// Unpacker unpacks the tar stream layer into the empty directory dir, and reads it to its end. [unpack.Sandbox] is
// the real one.
type Unpacker interface {
	Unpack(ctx context.Context, dir string, layer io.Reader) (unpack.Stats, error)
}

// Limits bound what a registry may ask of the guest. A field that is zero takes the default.
type Limits struct {
	ManifestBytes int64 // of a manifest or index; default 4 MiB, which every registry takes
	ConfigBytes   int64 // of a configuration; default 4 MiB
	Layers        int   // default 256; overlayfs stacks no more than 500
	Bytes         int64 // of the configuration and all layers, compressed; default 64 GiB
	LayerBytes    int64 // of one layer's tar archive; default 64 GiB
	UnpackedBytes int64 // of the tar archives of all layers that are not there yet; default 128 GiB
}

func (l Limits) withDefaults() Limits {
	set(&l.ManifestBytes, 4<<20)
	set(&l.ConfigBytes, 4<<20)
	set(&l.Layers, 256)
	set(&l.Bytes, 64<<30)
	set(&l.LayerBytes, 64<<30)
	set(&l.UnpackedBytes, 128<<30)
	return l
}

func set[T int | int64](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Config is what a [Puller] needs. Only WorkDir and Unpack must be set.
type Config struct {
	// WorkDir holds <WorkDir>/layers. It must lie where the host cannot read: in the guest's memory, or on an
	// encrypted disk.
	WorkDir string
	Unpack  Unpacker

	// ExtraRoots are PEM certificates to trust in addition to the system's: authorities, or registries' own.
	ExtraRoots []string
	Proxy      Proxy
	// Registries says where images are fetched from: TOML as in containers-registries.conf(5).
	Registries Text
	// Credentials is what to show to registries: an auth.json as docker's.
	Credentials Text
	// Resources gets what Registries and Credentials name by URI, when an image is pulled. Nil where there is no trustee.
	Resources *Resources
	// Keys gives the keys of encrypted layers. Nil is none: encrypted images are refused.
	Keys imagecrypt.KeySource
	// Policy is asked at every pull, before anything but the manifest is fetched. Nil is none: every image may be used.
	Policy Policy

	Parallel int // layers of one image at a time; default 3
	Retry    Retry
	Limits   Limits
	Now      func() time.Time // for the validity of certificates; default time.Now
	Log      *slog.Logger     // default slog.Default()
}

func (c Config) roots() (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's certificate authorities: %w", err)
	}
	for i, text := range c.ExtraRoots {
		if !roots.AppendCertsFromPEM([]byte(text)) {
			return nil, fmt.Errorf("extra root certificate %d holds no certificate in PEM", i+1)
		}
	}
	return roots, nil
}

// Puller pulls images. It may be used by many at a time.
type Puller struct {
	transport http.RoundTripper
	resources *Resources
	// fixedRegistries and fixedAuths are those of the configuration itself; nil where they are resources.
	fixedRegistries *registries
	fixedAuths      authFile
	registriesText  Text
	authsText       Text
	keys            imagecrypt.KeySource
	policy          Policy
	unpack          Unpacker
	store           *store
	parallel        int
	retry           Retry
	limits          Limits
	platform        ocispec.Platform
	log             *slog.Logger
}

// New makes a Puller, and the directory for its layers.
func New(cfg Config) (*Puller, error) {
	if cfg.WorkDir == "" || cfg.Unpack == nil {
		return nil, fmt.Errorf("pulling images takes a directory and an unpacker")
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.WorkDir, "layers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of layers: %w", err)
	}
	p := &Puller{
		transport: transport,
		resources: cfg.Resources,
		keys:      cfg.Keys,
		policy:    cfg.Policy,
		unpack:    cfg.Unpack,
		store:     &store{dir: dir, layers: map[string]*slot{}},
		parallel:  cfg.Parallel,
		retry:     cfg.Retry.withDefaults(),
		limits:    cfg.Limits.withDefaults(),
		platform:  ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		log:       cfg.Log,
	}
	set(&p.parallel, 3)
	if err := p.settings(cfg); err != nil {
		return nil, err
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	return p, nil
}

// settings parses what the configuration says of registries itself; what it names by URI waits for the first pull.
func (p *Puller) settings(cfg Config) (err error) {
	p.registriesText, p.authsText = cfg.Registries, cfg.Credentials
	switch {
	case cfg.Registries.Inline != "":
		if p.fixedRegistries, err = parseRegistries([]byte(cfg.Registries.Inline)); err != nil {
			return err
		}
	case cfg.Registries.URI == "":
		p.fixedRegistries = &defaultRegistries
	}
	if cfg.Credentials.Inline != "" {
		p.authsText = Text{}
		p.fixedAuths, err = parseAuthFile([]byte(cfg.Credentials.Inline))
	}
	return err
}

// Image is an image whose layers are there, verified and unpacked.
type Image struct {
	// Reference is as it was asked for.
	Reference string
	// IndexDigest names the index that the reference pinned, "" if it pinned the manifest.
	IndexDigest string
	// ManifestDigest names the manifest of the image for this platform.
	ManifestDigest string
	// Config is what the image says of how to run it.
	Config ocispec.ImageConfig
	// Layers are the layers' directories, bottom first.
	Layers []string
}

// Pull fetches what ref names by digest (registry/repository@sha256:…) and is not there yet, and verifies it.
func (p *Puller) Pull(ctx context.Context, ref string) (*Image, error) {
	start := time.Now()
	parsed, err := parseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("pulling an image: %w", err)
	}
	image, err := p.pull(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("pulling %s: %w", ref, err)
	}
	p.log.InfoContext(ctx, "image pulled", "image", ref, "manifest", image.ManifestDigest,
		"layers", len(image.Layers), "took", time.Since(start))
	return image, nil
}

func (p *Puller) pull(ctx context.Context, ref reference) (*Image, error) {
	e, err := p.errand(ctx, ref)
	if err != nil {
		return nil, err
	}
	image := &Image{Reference: ref.text, ManifestDigest: ref.digest.String()}
	manifest, err := p.manifest(ctx, e, ocispec.Descriptor{Digest: ref.digest})
	if err != nil {
		return nil, err
	}
	pinned, instance := manifest.text, []byte(nil)
	if manifest.isIndex() {
		chosen, err := manifest.choose(p.platform)
		if err != nil {
			return nil, err
		}
		image.IndexDigest, image.ManifestDigest = image.ManifestDigest, chosen.Digest.String()
		if manifest, err = p.manifest(ctx, e, chosen); err != nil {
			return nil, err
		}
		if manifest.isIndex() {
			return nil, refuse(CodeUnsupported, "the index names another index")
		}
		instance = manifest.text
	}
	if err := p.verify(ctx, e, ref, pinned, instance); err != nil {
		return nil, err
	}
	if err := manifest.checkBlobs(p.limits); err != nil {
		return nil, err
	}
	text, err := e.document(ctx, "blobs", *manifest.Config, "", p.limits.ConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("the image's configuration: %w", err)
	}
	config, layers, err := manifest.parseConfig(text, p.platform)
	if err != nil {
		return nil, err
	}
	image.Config = config.Config
	image.Layers, err = p.layers(ctx, e, layers)
	return image, err
}

var manifestTypes = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerIndex, dockerManifest,
}, ", ")

func (p *Puller) manifest(ctx context.Context, e *errand, d ocispec.Descriptor) (*document, error) {
	text, err := e.document(ctx, "manifests", d, manifestTypes, p.limits.ManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	return parseDocument(text)
}

// layers fetches layers, some at a time, and returns their directories. The first failure ends all.
func (p *Puller) layers(ctx context.Context, e *errand, layers []layer) ([]string, error) {
	dirs := make([]string, len(layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.parallel)
	for i, l := range layers {
		group.Go(func() (err error) {
			dirs[i], err = p.layer(ctx, e, l)
			return err
		})
	}
	return dirs, group.Wait()
}
