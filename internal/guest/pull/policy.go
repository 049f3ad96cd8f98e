// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	imageref "go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/internal/guest/signature"
)

// Policy decides whether an image may be used under the name that the user wrote. [signature.Policy] is the real one.
type Policy interface {
	Verify(ctx context.Context, name imageref.Named, image signature.Image) error
}

// verify asks the policy, on every use: what it said once of an image, or under another name, does not count. Mirrors
// are places to look for signatures, and their names nothing that the policy hears of.
func (p *Puller) verify(ctx context.Context, e *errand, ref reference, manifest, instance []byte) error {
	if p.policy == nil {
		return nil
	}
	name, err := ref.named()
	if err != nil {
		return err
	}
	err = e.try(ctx, func(s *session) error {
		image := signature.Image{Manifest: manifest, Instance: instance, Source: &source{s, p.limits.ManifestBytes}}
		if err := p.policy.Verify(ctx, name, image); err != nil {
			return failed(CodePolicyRefused, err, "%s", ref.text)
		}
		return nil
	})
	if err != nil && CodeOf(err) != CodePolicyRefused { // the last of several places could not be asked
		return failed(CodePolicyRefused, err, "%s could not be verified", ref.text)
	}
	return err
}

// named returns the reference as policies take it. Another library reads the text, which must find the same in it: a
// policy on one name is not to let pass another.
func (r reference) named() (imageref.Named, error) {
	name, err := imageref.ParseNormalizedNamed(r.text)
	if err != nil {
		return nil, failed(CodeReferenceInvalid, err, "%q is no name that a signature policy could speak of", r.text)
	}
	pinned, ok := name.(imageref.Canonical)
	if !ok || pinned.Digest() != r.digest || imageref.Path(name) != r.repository ||
		canonical(imageref.Domain(name)) != canonical(r.registry) {
		return nil, refuse(CodeReferenceInvalid, "%q can be read in two ways: write registry/repository@digest", r.text)
	}
	return name, nil
}

// maxLookaside is the size in bytes of a signature that lies outside of a registry.
const maxLookaside = 64 << 10

// Fetch returns what is at an https URL, for a policy whose signatures lie outside of registries. There are no
// credentials for it, and no redirection is followed.
func (p *Puller) Fetch(ctx context.Context, address string) (text []byte, err error) {
	target, err := url.Parse(address)
	if err != nil || target.Scheme != "https" || target.Host == "" {
		return nil, refuse(CodePlaintextRefused, "%q is no https URL", address)
	}
	err = p.retry.do(ctx, func() error {
		text, err = p.fetch(ctx, target)
		return err
	})
	return text, absent(err)
}

func (p *Puller) fetch(ctx context.Context, target *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", userAgent)
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		return nil, unreachable(err, "%s", target.Host)
	}
	defer response.Body.Close()
	switch status := response.StatusCode; {
	case status == http.StatusNotFound:
		return nil, refuse(CodeNotFound, "%s: nothing at %s", target.Host, target.Path)
	case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError:
		return nil, &temporary{refuse(CodeUnreachable, "%s: status %d", target.Host, status), retryAfter(response.Header)}
	case status != http.StatusOK:
		return nil, refuse(CodeUnreachable, "%s: status %d for %s", target.Host, status, target.Path)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxLookaside+1))
	if err != nil {
		return nil, unreachable(err, "reading from %s", target.Host)
	}
	if len(text) > maxLookaside {
		return nil, refuse(CodeTooLarge, "%s: a signature of more than %d bytes", target.Host, maxLookaside)
	}
	return text, nil
}

// source shows one place to a policy that looks for signatures.
type source struct {
	session *session
	limit   int64 // bytes of a manifest or blob
}

// tagName is OCI distribution-spec 1.1, "Pulling manifests".
var tagName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// Manifest implements [signature.Source].
func (s *source) Manifest(ctx context.Context, reference string) (text []byte, mediaType string, err error) {
	if d := digest.Digest(reference); d.Validate() == nil {
		text, err = s.session.document(ctx, "manifests", ocispec.Descriptor{Digest: d}, manifestTypes, s.limit)
		return text, "", absent(err)
	}
	if !tagName.MatchString(reference) {
		return nil, "", refuse(CodeReferenceInvalid, "%q is no tag", reference)
	}
	err = s.session.retry.do(ctx, func() error {
		var header http.Header
		text, header, err = s.session.read(ctx, "manifests", reference, manifestTypes, s.limit)
		mediaType = header.Get("Content-Type")
		return err
	})
	return text, mediaType, absent(err)
}

// Blob implements [signature.Source]. A signature is small: it is there, and is what its digest says, before the caller
// reads it.
func (s *source) Blob(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	if err := d.Validate(); err != nil {
		return nil, 0, failed(CodeMalformed, err, "the digest %q", d)
	}
	text, err := s.session.document(ctx, "blobs", ocispec.Descriptor{Digest: d}, "", s.limit)
	if err != nil {
		return nil, 0, absent(err)
	}
	return io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
}

// absent says in the words of package signature that there is nothing.
func absent(err error) error {
	if CodeOf(err) == CodeNotFound {
		return fmt.Errorf("%w: %w", signature.ErrNotFound, err)
	}
	return err
}
