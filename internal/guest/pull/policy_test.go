// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	imageref "go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/internal/guest/signature"
)

// decision is a policy that remembers what it was asked.
type decision struct {
	verdict func(ctx context.Context, image signature.Image) error
	names   []string
	images  []signature.Image
}

func (d *decision) Verify(ctx context.Context, name imageref.Named, image signature.Image) error {
	d.names, d.images = append(d.names, name.String()), append(d.images, image)
	if d.verdict == nil {
		return nil
	}
	return d.verdict(ctx, image)
}

var errUnsigned = errors.New("unsigned")

// An image whose layers are there is refused like any other when the policy has changed, or does not know its other
// name (the weakness W3 of the stock guest).
func TestAttackW3CachedImageUnderAnotherPolicy(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	policy := &decision{}
	unpacker := &inProcess{}
	p := newPuller(t, reg, func(c *Config) { c.Policy, c.Unpack = policy, unpacker })
	if _, err := p.Pull(t.Context(), reg.ref(d)); err != nil {
		t.Fatal(err)
	}
	policy.verdict = func(context.Context, signature.Image) error { return errUnsigned }
	if image, err := p.Pull(t.Context(), reg.ref(d)); CodeOf(err) != CodePolicyRefused || !errors.Is(err, errUnsigned) {
		t.Errorf("%+v, %v", image, err)
	}
	if n := unpacker.calls.Load(); n != 1 || len(policy.names) != 2 {
		t.Errorf("unpacked %d times, asked for %q", n, policy.names)
	}
}

// The policy hears the name that the user wrote, whoever served the image (the weakness W4 of the stock guest).
func TestAttackW4MirrorUnderItsOwnName(t *testing.T) {
	first, last := newRegistry(t, true), newRegistry(t, true)
	d, _ := first.push(t, simple(t))
	policy := &decision{}
	p := newPuller(t, first, func(c *Config) {
		c.ExtraRoots, c.Policy = both(first, last), policy
		c.Registries = mirrored(false, first.host(), last.host())
	})
	ref := "example.com/" + repository + ":v1@" + d.String()
	if _, err := p.Pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(policy.names, []string{ref}) {
		t.Errorf("asked for %q, want %q", policy.names, ref)
	}
}

// Nothing of an image that the policy refuses is fetched but its manifests.
func TestAttackLayersOfARefusedImage(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	blobs := atomic.Int64{}
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		return false
	}
	policy := &decision{verdict: func(context.Context, signature.Image) error { return errUnsigned }}
	refused(t, newPuller(t, reg, func(c *Config) { c.Policy = policy }), reg.ref(d), CodePolicyRefused)
	if n := blobs.Load(); n != 0 {
		t.Errorf("%d requests for blobs", n)
	}
}

func TestPolicySeesIndexAndInstance(t *testing.T) {
	reg := newRegistry(t, true)
	ours := ocispec.Platform{OS: "linux", Architecture: newPuller(t, reg, nil).platform.Architecture}
	d, images := index(t, reg, ours)
	policy := &decision{}
	p := newPuller(t, reg, func(c *Config) { c.Policy = policy })
	if _, err := p.Pull(t.Context(), reg.ref(d)); err != nil {
		t.Fatal(err)
	}
	if got := policy.images[0]; digest.FromBytes(got.Manifest) != d || digest.FromBytes(got.Instance) != images[0] {
		t.Errorf("%+v", got)
	}
	if _, err := p.Pull(t.Context(), reg.ref(images[0])); err != nil {
		t.Fatal(err)
	}
	if got := policy.images[1]; digest.FromBytes(got.Manifest) != images[0] || got.Instance != nil {
		t.Errorf("%+v", got)
	}
}

// A mirror without the signatures leads to the next place.
func TestPolicyFindsSignaturesElsewhere(t *testing.T) {
	first, last := newRegistry(t, true), newRegistry(t, true)
	d, manifest := first.push(t, simple(t))
	last.push(t, simple(t))
	payload := last.pushBlob(t, []byte("signed"))
	tag := strings.ReplaceAll(d.String(), ":", "-") + ".sig"
	last.do(t, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, manifest.MediaType, encode(t, manifest))
	policy := &decision{verdict: func(ctx context.Context, image signature.Image) error {
		text, mediaType, err := image.Source.Manifest(ctx, tag)
		if errors.Is(err, signature.ErrNotFound) {
			return errUnsigned
		}
		if err != nil || mediaType != manifest.MediaType || digest.FromBytes(text) != d {
			t.Errorf("%q %q %v", text, mediaType, err)
		}
		blob, size, err := image.Source.Blob(ctx, payload)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(blob); err != nil || string(text) != "signed" || size != 6 {
			t.Errorf("%q, %d, %v", text, size, err)
		}
		if _, _, err := image.Source.Blob(ctx, digest.FromString("nothing")); !errors.Is(err, signature.ErrNotFound) {
			t.Error(err)
		}
		if _, _, err := image.Source.Manifest(ctx, "../../../x"); CodeOf(err) != CodeReferenceInvalid {
			t.Error(err)
		}
		return nil
	}}
	p := newPuller(t, first, func(c *Config) {
		c.ExtraRoots, c.Policy = both(first, last), policy
		c.Registries = mirrored(false, first.host(), last.host())
	})
	if _, err := p.Pull(t.Context(), "example.com/"+repository+"@"+d.String()); err != nil {
		t.Error(err)
	}
}

func TestFetch(t *testing.T) {
	answers := map[string]func(w http.ResponseWriter){
		"/signature-1": func(w http.ResponseWriter) { _, _ = w.Write([]byte("signed")) },
		"/large":       func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxLookaside+1)) },
		"/moved": func(w http.ResponseWriter) {
			w.Header().Set("Location", "/signature-1")
			w.WriteHeader(http.StatusFound)
		},
		"/broken": func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
	}
	reg := newRegistry(t, true)
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if answer, ok := answers[r.URL.Path]; ok {
			answer(w)
		} else {
			w.WriteHeader(http.StatusNotFound)
		}
		return true
	}
	p := newPuller(t, reg, nil)
	for address, code := range map[string]Code{
		reg.URL + "/signature-1": "", reg.URL + "/large": CodeTooLarge, reg.URL + "/moved": CodeUnreachable,
		reg.URL + "/broken": CodeUnreachable, reg.URL + "/none": CodeNotFound, "http://127.0.0.1:8006/cdh/resource/a/b/c": CodePlaintextRefused,
		"file:///etc/passwd": CodePlaintextRefused, "https:": CodePlaintextRefused,
	} {
		text, err := p.Fetch(t.Context(), address)
		if CodeOf(err) != code || code == "" && string(text) != "signed" || errors.Is(err, signature.ErrNotFound) != (code == CodeNotFound) {
			t.Errorf("%s: %q, %v", address, text, err)
		}
	}
}

// Two libraries read the name: one for the policy, one for the pull.
func TestNamesReadInOneWay(t *testing.T) {
	for _, text := range []string{"nginx", "team/app", "quay.io/a/b:tag", "localhost/a", "localhost:5000/a", "docker.io/a", "index.docker.io/a/b",
		"10.0.2.2:5000/a", "UPPER.example/a", "Upper/a", "a.b/c--d", "a_b/c", "a.example:443/b", "[::1]:5000/a"} {
		ref, err := parseReference(text + aDigest)
		if err != nil {
			continue
		}
		name, err := ref.named()
		if err != nil {
			if CodeOf(err) != CodeReferenceInvalid {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if canonical(imageref.Domain(name)) != canonical(ref.registry) || imageref.Path(name) != ref.repository {
			t.Errorf("%s: the policy hears %s, and %s/%s is pulled", text, name, ref.registry, ref.repository)
		}
	}
}
