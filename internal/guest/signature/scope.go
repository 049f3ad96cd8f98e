// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"errors"
	"fmt"
	"strings"

	"go.podman.io/image/v5/docker/policyconfiguration"
	"go.podman.io/image/v5/docker/reference"
)

// scopes returns the names under which the policy may speak of an image, the most specific first: the reference with tag and digest, with
// the digest, with the tag, its repository, each namespace above, the host, and wildcards of the host's domain. Each is a whole name: nothing
// matches by being a part of another string.
func scopes(name reference.Canonical) []string {
	repository := reference.TrimNamed(name)
	list := []string{repository.Name() + "@" + name.Digest().String()}
	if tagged, ok := name.(reference.NamedTagged); ok {
		list = []string{name.String(), list[0], repository.Name() + ":" + tagged.Tag()}
	}
	return append(list, policyconfiguration.DockerReferenceNamespaces(repository)...)
}

// checkScope refuses a scope that no reference could match: one that was meant to demand a signature would demand nothing.
func checkScope(scope string) error {
	host, wildcard := strings.CutPrefix(scope, "*.")
	switch {
	case scope == "":
		return nil
	case scope != strings.ToLower(scope) && !strings.ContainsAny(scope, ":@"):
		return errors.New("hosts and repositories are written in small letters")
	case wildcard:
		if _, err := reference.ParseNamed("any." + host + "/a/b"); err != nil || strings.ContainsAny(host, "/:") {
			return errors.New("a wildcard stands for the first names of a host, and nothing follows the host: *.example.com")
		}
		return nil
	}
	_, whole := reference.ParseNamed(scope)
	_, prefix := reference.ParseNamed(scope + "/a/b") // of a host, or of a namespace
	if whole != nil && prefix != nil {
		return fmt.Errorf("no image has a name that it matches; names are written in full (docker.io/library/busybox): %w", whole)
	}
	return nil
}

// written checks the name of an image and brings its host into small letters, as hosts have no others: two spellings of one registry
// must not be two scopes.
func written(name reference.Named) (reference.Canonical, error) {
	if name == nil {
		return nil, refuse(CodeReferenceInvalid, "no name")
	}
	text := name.String()
	host := reference.Domain(name)
	lower, err := reference.ParseNamed(strings.ToLower(host) + strings.TrimPrefix(text, host))
	if err != nil {
		return nil, failed(CodeReferenceInvalid, err, "%q", text)
	}
	canonical, ok := lower.(reference.Canonical)
	if !ok {
		return nil, refuse(CodeReferenceInvalid, "%q names no digest, and a signature is one of a digest: write %s@sha256:…", text, text)
	}
	return canonical, nil
}
