// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/internal/guest/cdh"
	"github.com/nacre-project/nacre/internal/guest/pull"
	"github.com/nacre-project/nacre/internal/guest/signature"
	"github.com/nacre-project/nacre/internal/guest/unpack"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// hub is the confidential data hub, cdh.Service.
type hub interface {
	Resource(ctx context.Context, uri kbs.ResourceURI) (secret.Bytes, error)
}

// newPuller makes the puller of images. All that it knows of registries, credentials, policies and authorities is the
// init-data's, or comes from the trustee that the init-data names: nothing is the host's.
func newPuller(config cdh.Image, from hub, dir string, log *slog.Logger) (*pull.Puller, error) {
	owner := owner{from}
	resources := pull.NewResources(owner.resource, 0)
	puller := pull.Config{
		WorkDir: dir, Unpack: &unpack.Sandbox{}, Log: log,
		ExtraRoots: config.ExtraRoots, Parallel: config.Parallel,
		Proxy:      pull.Proxy{HTTPS: config.HTTPSProxy, HTTP: config.HTTPProxy, NoProxy: config.NoProxy},
		Registries: pull.Text(config.Registries), Credentials: pull.Text(config.Credentials), Resources: resources,
		Keys: owner,
	}
	if config.Policy == (cdh.Text{}) {
		return pull.New(puller)
	}
	policy := &imagePolicy{policy: pull.Text(config.Policy), places: pull.Text(config.Signatures), resources: resources}
	puller.Policy = policy
	images, err := pull.New(puller)
	if err != nil {
		return nil, err
	}
	policy.fetch = images.Fetch
	if err := policy.check(); err != nil {
		return nil, err
	}
	return images, nil
}

// owner asks the trustee by URI.
type owner struct{ hub hub }

func (o owner) resource(ctx context.Context, uri string) (secret.Bytes, error) {
	parsed, err := kbs.ParseResourceURI(uri)
	if err != nil {
		return secret.Bytes{}, err
	}
	value, err := o.hub.Resource(ctx, parsed)
	if refusal, ok := errors.AsType[*cdh.Error](err); ok && refusal.Kind == cdh.NotFound {
		return secret.Bytes{}, fmt.Errorf("%w: %w", signature.ErrNotFound, err)
	}
	return value, err
}

// Key implements imagecrypt.KeySource.
func (o owner) Key(ctx context.Context, kid string) (secret.Bytes, error) {
	return o.resource(ctx, kid)
}

// imagePolicy is the signature policy as it stands when an image is used: the trustee's may change while the pod runs.
type imagePolicy struct {
	policy, places pull.Text
	resources      *pull.Resources
	fetch          signature.Fetch
}

// check refuses what the init-data itself says wrong, before anything runs.
func (p *imagePolicy) check() error {
	if p.policy.Inline == "" {
		return nil
	}
	policy, err := signature.Parse([]byte(p.policy.Inline), p.key)
	if err == nil && p.places.Inline != "" {
		_, err = policy.WithLookaside([]byte(p.places.Inline), p.fetch)
	}
	return err
}

// Verify implements [pull.Policy].
func (p *imagePolicy) Verify(ctx context.Context, name reference.Named, image signature.Image) error {
	text, err := p.policy.Read(ctx, p.resources, "signature policy")
	if err != nil {
		return err
	}
	policy, err := signature.Parse(text, p.key)
	if err != nil {
		return err
	}
	if p.places != (pull.Text{}) {
		text, err := p.places.Read(ctx, p.resources, "places of signatures")
		if err != nil {
			return err
		}
		if policy, err = policy.WithLookaside(text, p.fetch); err != nil {
			return err
		}
	}
	return policy.Verify(ctx, name, image)
}

func (p *imagePolicy) key(ctx context.Context, uri string) ([]byte, error) {
	value, err := p.resources.Get(ctx, uri)
	return value.Reveal(), err
}
