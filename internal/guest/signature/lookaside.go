// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.podman.io/image/v5/docker/reference"
	"sigs.k8s.io/yaml"

	"github.com/nacre-project/nacre/kbs"
)

const (
	// maxSimpleSignatures is how many simple signatures of one manifest are looked at.
	maxSimpleSignatures = 32
	// maxSimpleSignature is the size in bytes of one.
	maxSimpleSignature = 64 << 10
	// maxPlaces is the size in bytes of the configuration that names the places.
	maxPlaces = 256 << 10
)

// Fetch returns what is at an http or https URL. The error wraps [ErrNotFound] when the server says that there is nothing. What it returns
// is not trusted; whoever implements it bounds size and time.
type Fetch = func(ctx context.Context, url string) ([]byte, error)

// lookaside says where simple signatures are, for registries do not hold them. nil knows no place.
type lookaside struct {
	places   map[string]string // by scope
	fallback string
	fetch    Fetch
}

// WithLookaside returns the policy with places for simple signatures, in the form of containers-registries.d(5), of which it reads
// "default-docker" and "docker", and in each "sigstore" or "lookaside":
//
//	docker:
//	  quay.io/example:
//	    lookaside: https://signatures.example.com/store
//	  quay.io/other:
//	    lookaside: kbs:///signatures/other
//
// Below an http or https URL the N-th signature is at <repository path>@sha256=<hex>/signature-<N>; N counts from 1. Below
// kbs:///<repository>/<type> it is the resource with the tag sha256-<hex>.signature-<N>. fetch may be nil when all places are in the trustee.
func (p *Policy) WithLookaside(configYAML []byte, fetch Fetch) (*Policy, error) {
	if len(configYAML) > maxPlaces {
		return nil, refuse(CodePolicyMalformed, "the places of signatures have %d bytes, more than %d", len(configYAML), maxPlaces)
	}
	type place struct {
		Sigstore         string `json:"sigstore"`
		Lookaside        string `json:"lookaside"`
		SigstoreStaging  string `json:"sigstore-staging"`
		LookasideStaging string `json:"lookaside-staging"`
		Attachments      bool   `json:"use-sigstore-attachments"`
	}
	var config struct {
		Default *place            `json:"default-docker"`
		Docker  map[string]*place `json:"docker"`
	}
	if err := yaml.UnmarshalStrict(configYAML, &config); err != nil {
		return nil, failed(CodePolicyMalformed, err, "the places of signatures")
	}
	l := &lookaside{places: map[string]string{}, fetch: fetch}
	read := func(p *place) (string, error) {
		if p == nil {
			return "", nil
		}
		base := p.Lookaside
		if base == "" {
			base = p.Sigstore
		}
		return strings.TrimSuffix(base, "/"), l.check(base)
	}
	var err error
	if l.fallback, err = read(config.Default); err != nil {
		return nil, failed(CodePolicyMalformed, err, "the place of signatures in default-docker")
	}
	for scope, p := range config.Docker {
		if err = checkScope(scope); err == nil {
			l.places[scope], err = read(p)
		}
		if err != nil {
			return nil, failed(CodePolicyMalformed, err, "the place of signatures for %q", scope)
		}
	}
	with := *p
	with.places = l
	return &with, nil
}

// check refuses places that cannot be read.
func (l *lookaside) check(base string) error {
	if base == "" {
		return nil
	}
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "kbs":
		resource, err := kbs.ParseResourceURI(strings.TrimSuffix(base, "/") + "/tag")
		if err == nil && (len(resource.Path) != 3 || !strings.HasPrefix(base, "kbs:///")) {
			err = fmt.Errorf("%s: want kbs:///repository/type, to which the name of a signature is added", base)
		}
		return err
	case "http", "https":
		if l.fetch == nil {
			return fmt.Errorf("%s: http is not spoken here; put the signatures into the trustee, and name the place as kbs:///repository/type", base)
		}
		if u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("%s: want a host and a path only", base)
		}
		return nil
	default:
		return fmt.Errorf("%q: signatures are read over http and https and from the trustee (kbs:///repository/type), and no file of the guest is the owner's", base)
	}
}

// signatures reads the simple signatures of a manifest, up to the first number that does not exist.
func (l *lookaside) signatures(ctx context.Context, keys Keys, name reference.Canonical, s subject) found {
	base := l.place(name)
	if base == "" {
		return found{problems: []error{fmt.Errorf("no place is known that could have simple signatures of %s: name one in the image configuration (sigstore_config)", name.Name())}}
	}
	var f found
	for n := 1; n <= maxSimpleSignatures; n++ {
		blob, where, err := l.read(ctx, keys, base, name, s, n)
		if errors.Is(err, ErrNotFound) {
			return f
		}
		if err != nil {
			f.problems = append(f.problems, fmt.Errorf("%s: %w", where, err))
			return f
		}
		if len(blob) > maxSimpleSignature {
			err = fmt.Errorf("%d bytes, more than %d", len(blob), maxSimpleSignature)
		} else {
			blob, err = unpacked(blob)
		}
		if err != nil { // one that is none is no reason not to look at the next
			f.problems = append(f.problems, fmt.Errorf("%s: %w", where, err))
			continue
		}
		f.candidates = append(f.candidates, candidate{subject: s, stored: append([]byte("\x00simple-signing\n"), blob...), claims: claimedSimple(blob)})
	}
	return f
}

func (l *lookaside) place(name reference.Canonical) string {
	if l == nil {
		return ""
	}
	for _, scope := range scopes(name) {
		if base, ok := l.places[scope]; ok {
			return base
		}
	}
	return l.fallback
}

func (l *lookaside) read(ctx context.Context, keys Keys, base string, name reference.Canonical, s subject, n int) (blob []byte, where string, err error) {
	if strings.HasPrefix(base, "kbs:") {
		where = fmt.Sprintf("%s/%s-%s.signature-%d", base, s.digest.Algorithm(), s.digest.Encoded(), n)
		if keys == nil {
			return nil, where, errors.New("there is no trustee")
		}
		blob, err = keys(ctx, where)
		return blob, where, err
	}
	where = fmt.Sprintf("%s/%s@%s=%s/signature-%d", base, reference.Path(name), s.digest.Algorithm(), s.digest.Encoded(), n)
	blob, err = l.fetch(ctx, where)
	return blob, where, err
}
