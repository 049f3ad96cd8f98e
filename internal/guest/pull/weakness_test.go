// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The stock guest's weaknesses, by the numbers of its list, where no other test here has the number in its name.

// W8: pulls wait for each other in the stock guest. Here one is held up until another has come through.
func TestW8PullsDoNotWaitForEachOther(t *testing.T) {
	reg := newRegistry(t, true)
	slow, manifest := reg.push(t, testImage{layers: []testLayer{{archive: archive(t, "slow", "1")}}})
	quick, _ := reg.push(t, testImage{layers: []testLayer{{archive: archive(t, "quick", "1")}}})
	p := newPuller(t, reg, nil)
	reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
		if _, err := p.Pull(r.Context(), reg.ref(quick)); err != nil {
			t.Error(err)
		}
		reg.handler.ServeHTTP(w, r)
	})
	if _, err := p.Pull(t.Context(), reg.ref(slow)); err != nil {
		t.Error(err)
	}
}

// W8: images that share a layer fetch it once, though they are pulled at once.
func TestW8ImagesShareLayers(t *testing.T) {
	reg := newRegistry(t, true)
	shared := large(t)
	var refs []string
	for i := range 6 {
		d, _ := reg.push(t, testImage{layers: []testLayer{shared, {archive: archive(t, "own", fmt.Sprint(i))}}})
		refs = append(refs, reg.ref(d))
	}
	unpacker := &inProcess{}
	p := newPuller(t, reg, func(c *Config) { c.Unpack = unpacker })
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() {
			image, err := p.Pull(t.Context(), ref)
			if err != nil {
				t.Error(err)
			} else if got := content(t, filepath.Join(image.Layers[1], "own")); got != fmt.Sprint(i) {
				t.Errorf("image %d: %q", i, got)
			}
		})
	}
	wg.Wait()
	if n := unpacker.calls.Load(); n != 7 {
		t.Errorf("unpacked %d layers, want 7", n)
	}
}

// W8: nothing is tried again that was refused.
func TestW8RefusalsAreFinal(t *testing.T) {
	for status, code := range map[int]Code{
		http.StatusForbidden: CodeUnauthorized, http.StatusNotFound: CodeNotFound, http.StatusBadRequest: CodeUnreachable,
		http.StatusTeapot: CodeUnreachable, http.StatusUnavailableForLegalReasons: CodeUnreachable,
	} {
		reg := newRegistry(t, true)
		reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(status)
			return true
		}
		refused(t, newPuller(t, reg, nil), reg.host()+"/a"+aDigest, code)
		if n := reg.requests.Load(); n != 1 {
			t.Errorf("status %d: %d requests", status, n)
		}
	}
}

// W8: a server that asks for patience is given it, within reason.
func TestW8RetryAfter(t *testing.T) {
	date := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) http.Header {
		return http.Header{"Date": {date.Format(http.TimeFormat)}, "Retry-After": {date.Add(d).Format(http.TimeFormat)}}
	}
	for i, tt := range []struct {
		header http.Header
		want   time.Duration
	}{
		{at(7 * time.Second), 7 * time.Second}, {at(-time.Hour), 0}, {at(time.Hour), maxRetryAfter},
		{http.Header{"Retry-After": {date.Format(http.TimeFormat)}}, 0},
	} {
		if got := retryAfter(tt.header); got != tt.want {
			t.Errorf("%d: %v, want %v", i, got, tt.want)
		}
	}
	reg := newRegistry(t, true)
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	s := &session{transport: newPuller(t, reg, nil).transport, at: endpoint{registry: reg.host(), repository: "a"}, scheme: "https"}
	_, _, err := s.read(t.Context(), "manifests", "latest", "", 1)
	asked, ok := errors.AsType[*temporary](err)
	if !ok || asked.after != 7*time.Second {
		t.Fatalf("%v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := (Retry{}.withDefaults()).wait(t.Context(), 1, asked.after); err != nil || time.Since(start) != 7*time.Second {
			t.Errorf("waited %v, %v", time.Since(start), err)
		}
	})
}

// W8: what failed together does not come back together, and later each time.
func TestW8BackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Retry{Attempts: 9, Base: time.Second}
		waits := map[time.Duration]bool{}
		for attempt := 1; attempt <= 6; attempt++ {
			for range 10 {
				start := time.Now()
				if err := r.wait(t.Context(), attempt, 0); err != nil {
					t.Fatal(err)
				}
				took, most := time.Since(start), r.Base<<(attempt-1)
				if took < most/2 || took > most {
					t.Errorf("attempt %d after %v, want %v to %v", attempt+1, took, most/2, most)
				}
				waits[took] = true
			}
		}
		if len(waits) < 30 {
			t.Errorf("60 waits were of %d lengths", len(waits))
		}
	})
}

// Layers and images by SHA-512, which the registry of these tests does not know.
func TestPullSHA512(t *testing.T) {
	reg := newRegistry(t, true)
	layer := archive(t, "a", "b")
	blob := compressed(t, zstandard, layer)
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{
		Type: "layers", DiffIDs: []digest.Digest{digest.SHA512.FromBytes(layer)}}}
	configText := encode(t, config)
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.SHA512.FromBytes(configText), Size: int64(len(configText))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.SHA512.FromBytes(blob), Size: int64(len(blob))}}}
	manifestText := encode(t, manifest)
	served := map[string][]byte{}
	for _, text := range [][]byte{blob, configText, manifestText} {
		served[fmt.Sprintf("sha512:%x", sha512.Sum512(text))] = text
	}
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = w.Write(served[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]])
		return true
	}
	image, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(digest.SHA512.FromBytes(manifestText)))
	if err != nil || content(t, filepath.Join(image.Layers[0], "a")) != "b" {
		t.Errorf("%+v, %v", image, err)
	}
	changed := digest.SHA512.FromBytes(blob).String()
	served[changed] = append([]byte{}, blob...)
	served[changed][len(blob)-1] ^= 1
	refused(t, newPuller(t, reg, nil), reg.ref(digest.SHA512.FromBytes(manifestText)), CodeDigestMismatch)
}

// W9: names that are no UTF-8, hard links with absolute targets, layers of nothing; and Docker's media types.
func TestW9Layers(t *testing.T) {
	reg := newRegistry(t, true)
	image := testImage{
		layers: []testLayer{
			{archive: archive(t, "caf\xe9", "1"), compression: gzipped, mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip"},
			{archive: archive(t), compression: gzipped},
			{archive: archive(t), compression: zstandard},
			{archive: []byte{}, blob: []byte{}},
			{archive: []byte{}, compression: gzipped},
			{archive: archive(t, "foreign", "1"), compression: gzipped, mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
		},
		manifest: func(m *ocispec.Manifest) { m.MediaType, m.Config.MediaType = dockerManifest, dockerConfig },
	}
	d, _ := reg.push(t, image)
	got, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(d))
	if err != nil {
		t.Fatal(err)
	}
	if content(t, filepath.Join(got.Layers[0], "caf\xe9")) != "1" || content(t, filepath.Join(got.Layers[5], "foreign")) != "1" {
		t.Errorf("%+v", got)
	}
	if got.Layers[1] != got.Layers[2] || got.Layers[3] != got.Layers[4] {
		t.Errorf("empty layers are not one: %q", got.Layers)
	}
}

// The place in which the registry is asked twice for what the policy saw once (coco#162): what it says the second time
// does not count, for the digest decides and not the name.
func TestAttackManifestChangesBetweenUses(t *testing.T) {
	reg := newRegistry(t, true)
	d, manifest := reg.push(t, simple(t))
	_, other := reg.push(t, testImage{layers: []testLayer{{archive: archive(t, "evil", "1")}}})
	policy := &decision{}
	p := newPuller(t, reg, func(c *Config) { c.Policy = policy })
	reg.tamper = blobTamper(d, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			_, _ = w.Write(encode(t, manifest))
		} else {
			_, _ = w.Write(encode(t, other))
		}
	})
	if _, err := p.Pull(t.Context(), reg.ref(d)); err != nil {
		t.Fatal(err)
	}
	if image, err := p.Pull(t.Context(), reg.ref(d)); CodeOf(err) != CodeDigestMismatch || len(policy.names) != 1 {
		t.Errorf("%+v, %v, policy asked %d times", image, err, len(policy.names))
	}
}

// A place that failed is not asked for each of the layers again.
func TestLostPlaceStaysLost(t *testing.T) {
	first, last := newRegistry(t, true), newRegistry(t, true)
	image := testImage{}
	for i := range 10 {
		image.layers = append(image.layers, testLayer{archive: archive(t, "n", fmt.Sprint(i))})
	}
	d, _ := last.push(t, image)
	first.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	p := newPuller(t, last, func(c *Config) {
		c.ExtraRoots = both(first, last)
		c.Registries = mirrored(false, first.host(), last.host())
	})
	if _, err := p.Pull(t.Context(), "example.com/"+repository+"@"+d.String()); err != nil {
		t.Fatal(err)
	}
	if n := first.requests.Load(); n != 3 {
		t.Errorf("the mirror was asked %d times, want 3", n)
	}
}
