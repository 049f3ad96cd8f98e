// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// errand is one pull: the places where its image may be had, in the order of the registry configuration, and what it
// has come to so far.
type errand struct {
	sessions []*session
	keys     keyring
	unpacked atomic.Int64 // bytes of tar archives
}

// errand finds out where to go for an image, and what to show there. Both may have changed since the last time.
func (p *Puller) errand(ctx context.Context, ref reference) (*errand, error) {
	places, err := p.registries(ctx)
	if err != nil {
		return nil, err
	}
	endpoints, err := places.endpoints(ref)
	if err != nil {
		return nil, err
	}
	auths, err := p.auths(ctx)
	if err != nil {
		return nil, err
	}
	e := &errand{keys: newKeyring(p.keys)}
	for _, at := range endpoints {
		s := &session{transport: p.transport, at: at, retry: p.retry, scheme: "https"}
		if at.insecure {
			s.scheme = "http"
		}
		s.credential, s.lost = auths.find(at)
		if at.insecure && s.credential != nil {
			s.lost = refuse(CodePlaintextRefused, "%s is configured as insecure, and there are credentials for it, which "+
				"are not sent in the clear", at.registry)
		}
		e.sessions = append(e.sessions, s)
	}
	return e, nil
}

func (p *Puller) registries(ctx context.Context) (*registries, error) {
	if p.fixedRegistries != nil {
		return p.fixedRegistries, nil
	}
	text, err := p.registriesText.Read(ctx, p.resources, "registry configuration")
	if err != nil {
		return nil, err
	}
	return parseRegistries(text)
}

func (p *Puller) auths(ctx context.Context) (authFile, error) {
	if p.authsText.URI == "" {
		return p.fixedAuths, nil
	}
	text, err := p.authsText.Read(ctx, p.resources, "registry credentials")
	if err != nil {
		return nil, err
	}
	return parseAuthFile(text)
}

// try calls f for one place after the other until it succeeds, or fails with what no other place could change. The
// error is of all of them.
func (e *errand) try(ctx context.Context, f func(*session) error) error {
	var failures attempts
	for _, s := range e.sessions {
		err := s.isLost()
		if err == nil {
			err = f(s)
		}
		if err == nil {
			return nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || !slices.Contains(placeCodes, CodeOf(err)) {
			break
		}
		if slices.Contains(lostCodes, CodeOf(err)) {
			s.lose(err)
		}
	}
	if len(failures) == 1 {
		return failures[0]
	}
	return failures
}

// document fetches a small blob or manifest whole, and returns it only if it is what its digest says.
func (e *errand) document(
	ctx context.Context, kind string, d ocispec.Descriptor, accept string, limit int64,
) (text []byte, err error) {
	err = e.try(ctx, func(s *session) (err error) {
		text, err = s.document(ctx, kind, d, accept, limit)
		return err
	})
	return text, err
}

var (
	// lostCodes are those of errors after which a place is not asked again in this pull.
	lostCodes = []Code{CodeUnreachable, CodeUnauthorized, CodePlaintextRefused, CodeDigestMismatch, CodeSettingsInvalid}
	// placeCodes are those of errors that another place may not have.
	placeCodes = append([]Code{CodeNotFound, CodeTooLarge, CodePolicyRefused}, lostCodes...)
)

// attempts is what went wrong in each of several places.
type attempts []error

func (a attempts) Error() string {
	var texts []string
	for _, err := range a {
		if text := err.Error(); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; then: ")
}

// Unwrap begins with the last: that of the registry itself, which has the last word.
func (a attempts) Unwrap() []error {
	last := slices.Clone(a)
	slices.Reverse(last)
	return last
}

func (s *session) isLost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

func (s *session) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = err
	}
}
