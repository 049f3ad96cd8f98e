// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"net"
	"net/netip"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// reference names one image by its content.
type reference struct {
	text       string
	registry   string // host[:port], "index.docker.io" where none was written
	repository string
	digest     digest.Digest
	// unqualified says that the text names no registry.
	unqualified bool
}

const maxReference = 1024

// repositoryName is OCI distribution-spec 1.1, "Pulling manifests".
var repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// parseReference takes [registry/]repository[:tag]@algorithm:hex. The tag is for people, and not looked at.
func parseReference(text string) (reference, error) {
	if len(text) > maxReference {
		return reference{}, refuse(CodeReferenceInvalid, "a reference of %d bytes, more than %d", len(text), maxReference)
	}
	if !strings.Contains(text, "@") {
		return reference{}, refuse(CodeNotPinned, "%q names no digest, and a tag means whatever the registry says today: "+
			"write repository@sha256:… (`crane digest %s` prints it)", text, text)
	}
	parsed, err := name.NewDigest(text)
	if err != nil {
		return reference{}, failed(CodeReferenceInvalid, err, "%q", text)
	}
	d := digest.Digest(parsed.DigestStr())
	if err := d.Validate(); err != nil {
		return reference{}, failed(CodeReferenceInvalid, err, "%q", text)
	}
	if !hostName.MatchString(parsed.RegistryStr()) {
		return reference{}, refuse(CodeReferenceInvalid, "%q: no registry has the name %q", text, parsed.RegistryStr())
	}
	if !repositoryName.MatchString(parsed.RepositoryStr()) { // the parser knows no order of the characters it allows
		return reference{}, refuse(CodeReferenceInvalid, "%q: no repository has the name %q", text, parsed.RepositoryStr())
	}
	unqualified := parsed.RegistryStr() == dockerHost && !strings.HasPrefix(text, dockerName+"/") &&
		!strings.HasPrefix(text, dockerHost+"/")
	return reference{text, parsed.RegistryStr(), parsed.RepositoryStr(), d, unqualified}, nil
}

// local says whether a registry is named by a loopback, private or link-local address. A name does not count: what it
// resolves to is the adversary's choice.
func local(registry string) bool {
	host, _, err := net.SplitHostPort(registry)
	if err != nil {
		host = strings.Trim(registry, "[]")
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	return addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast()
}
