// SPDX-License-Identifier: Apache-2.0

//go:build linux && containers_image_openpgp

package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// signingStory is a registry on loopback, and a directory with the owner's files.
type signingStory struct {
	t    *testing.T
	host string
	dir  string
}

func newSigningStory(t *testing.T) *signingStory {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	return &signingStory{t, server.Listener.Addr().String(), t.TempDir()}
}

func (s *signingStory) path(file string) string { return filepath.Join(s.dir, file) }

func (s *signingStory) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(file), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// push puts an image, and an index with it, into the registry; both are different each time.
func (s *signingStory) push(repository string) (image, index string) {
	s.t.Helper()
	one, err := random.Image(64, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	both := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	reference, err := name.ParseReference(s.host + "/" + repository + ":v1")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.WriteIndex(reference, both); err != nil {
		s.t.Fatal(err)
	}
	digest, err := one.Digest()
	if err != nil {
		s.t.Fatal(err)
	}
	return s.host + "/" + repository + "@" + digest.String(), s.host + "/" + repository + ":v1"
}

// nacre runs the command and returns its status and all that it printed.
func (s *signingStory) nacre(args ...string) (int, string) {
	s.t.Helper()
	var out bytes.Buffer
	status := Main(append([]string{"image"}, args...), strings.NewReader(""), &out, &out)
	return status, out.String()
}

func (s *signingStory) want(status int, mention string, args ...string) string {
	s.t.Helper()
	got, out := s.nacre(args...)
	if got != status || !strings.Contains(out, mention) {
		s.t.Fatalf("nacre image %s: status %d, want %d and %q:\n%s", strings.Join(args, " "), got, status, mention, out)
	}
	return out
}

// policyIn is the JSON object in what sign printed.
func policyIn(t *testing.T, out string) string {
	t.Helper()
	_, rest, _ := strings.Cut(out, "\n{")
	text, _, found := strings.Cut("{"+rest, "\n}")
	if text += "}"; !found || !json.Valid([]byte(text)) {
		t.Fatalf("no policy in:\n%s", out)
	}
	return text
}

func TestSignAndVerify(t *testing.T) {
	s := newSigningStory(t)
	key, policy := s.path("release.key"), s.path("policy.json")
	image, index := s.push("team/app")
	out := s.want(0, "Keep it where images are released", "sign", index, "--key", key, "--new-key")
	s.write("policy.json", policyIn(t, out))
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key: %v, %v", info, err)
	}

	s.want(0, "accepted", "verify", index, "--policy", policy)
	s.want(1, "signature_required", "verify", image, "--policy", policy) // the index was signed, not the platform's image
	s.want(1, "has no image for linux/s390x", "verify", index, "--policy", policy, "--platform", "linux/s390x")
	s.want(0, "signed by this key already", "sign", index, "--key", key)
	s.want(0, "signed as", "sign", image, "--key", key)
	s.want(0, "accepted", "verify", image, "--policy", policy)

	// another key beside it
	out = s.want(0, "signed as", "sign", index, "--key", s.path("other.key"), "--new-key")
	s.write("other.json", policyIn(t, out))
	s.want(0, "accepted", "verify", index, "--policy", policy)
	s.want(0, "accepted", "verify", index, "--policy", s.path("other.json"))

	// a key of the trustee
	s.write("trustee.json", `{"default":[{"type":"sigstoreSigned","keyPath":"kbs:///default/cosign-key/1"}]}`)
	s.want(1, "--resource kbs:///default/cosign-key/1=FILE", "verify", index, "--policy", s.path("trustee.json"))
	s.want(0, "accepted", "verify", index, "--policy", s.path("trustee.json"), "--resource", "kbs:///default/cosign-key/1="+key+".pub")

	// another repository
	_, other := s.push("team/other")
	s.want(0, "signed as", "sign", other, "--key", key)
	s.want(1, "signature_policy_rejects", "verify", other, "--policy", policy)

	// the name of the original, in a mirror
	_, mirror := s.push("mirror/app")
	out = s.want(0, "signed as registry.example.com/team/app", "sign", mirror, "--key", key, "--identity", "registry.example.com/team/app")
	s.write("mirror.json", policyIn(t, out))
	s.want(0, "accepted", "verify", mirror, "--policy", s.path("mirror.json"))
	s.write("plain.json", strings.Replace(policyIn(t, out), "exactRepository", "matchRepository", 1))
	s.want(1, "signature_policy_malformed", "verify", mirror, "--policy", s.path("plain.json"))

	// another image under the same tag
	_, index = s.push("team/app")
	s.want(1, "signature_required", "verify", index, "--policy", policy)
}

func TestSignRefuses(t *testing.T) {
	s := newSigningStory(t)
	_, index := s.push("team/app")
	key := s.path("release.key")
	s.want(0, "the public key", "sign", "--key", key, "--new-key")
	s.want(1, "file exists", "sign", "--key", key, "--new-key")
	s.want(1, "--new-key makes it", "sign", index, "--key", s.path("absent.key"))
	s.want(1, "name the image", "sign", "--key", key)
	s.want(1, "getting", "sign", s.host+"/team/absent:v1", "--key", key)
	s.want(1, "no image reference", "sign", "Not/An/Image", "--key", key)
	s.want(1, "--identity", "sign", index, "--key", key, "--identity", "Not/A/Name")
	s.want(1, "no certificate", "sign", index, "--key", key, "--registry-ca", key)
	for text, mention := range map[string]string{
		"hello": "not in PEM",
		"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n": "cosign sign --key",
		"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n":                                       "ECDSA P-256",
		"-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n":                                 "ECDSA P-256",
		"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n":                                         "it is a PUBLIC KEY",
	} {
		s.write("bad.key", text)
		s.want(1, mention, "sign", index, "--key", s.path("bad.key"))
	}
}

func TestVerifySimpleSigningPlaces(t *testing.T) {
	s := newSigningStory(t)
	_, index := s.push("team/app")
	s.write("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	s.write("places.yaml", "default-docker:\n  lookaside: http://"+s.host+"/signatures\n")
	s.want(0, "accepted", "verify", index, "--policy", s.path("policy.json"), "--sigstore-config", s.path("places.yaml"))
	s.write("places.yaml", "default-docker:\n  lookaside: file:///signatures\n")
	s.want(1, "signature_policy_malformed", "verify", index, "--policy", s.path("policy.json"), "--sigstore-config", s.path("places.yaml"))
	v := &verification{}
	if _, err := v.fetch(t.Context(), "http://"+s.host+"/signatures/x"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
}
