// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/internal/guest/unpack"
)

func simple(t testing.TB) testImage {
	return testImage{layers: []testLayer{{archive: archive(t, "etc/", "", "etc/motd", "hello"), compression: gzipped}}}
}

func TestPull(t *testing.T) {
	for _, overTLS := range []bool{true, false} {
		t.Run(fmt.Sprintf("tls %v", overTLS), func(t *testing.T) {
			reg := newRegistry(t, overTLS)
			gz := compressed(t, gzipped, archive(t, "gz", "1"))
			two := archive(t, "members", strings.Repeat("x", 3000))
			members := append(compressed(t, gzipped, two[:1000]), compressed(t, gzipped, two[1000:])...)
			d, _ := reg.push(t, testImage{layers: []testLayer{
				{archive: archive(t, "plain", "0")},
				{archive: archive(t, "gz", "1"), compression: gzipped, blob: gz},
				{archive: archive(t, "zstd", "2"), compression: zstandard},
				{archive: two, compression: gzipped, blob: members, mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip"},
			}})
			p := newPuller(t, reg, nil)
			image, err := p.Pull(t.Context(), reg.host()+"/"+repository+":v1@"+d.String())
			if err != nil {
				t.Fatal(err)
			}
			if image.ManifestDigest != d.String() || image.IndexDigest != "" || image.Config.Env[0] != "GREETING=hello" {
				t.Errorf("%+v", image)
			}
			for i, want := range []string{"plain 0", "gz 1", "zstd 2", "members " + strings.Repeat("x", 3000)} {
				name, text, _ := strings.Cut(want, " ")
				if got := content(t, filepath.Join(image.Layers[i], name)); got != text {
					t.Errorf("layer %d: %q, want %q", i, got, text)
				}
			}
			before := reg.requests.Load()
			again, err := p.Pull(t.Context(), reg.ref(d))
			if err != nil || again.Layers[0] != image.Layers[0] {
				t.Errorf("%+v, %v", again, err)
			}
			if n := reg.requests.Load() - before; n > 3 { // manifest and configuration; TLS is tried first
				t.Errorf("%d requests for an image whose layers are there", n)
			}
		})
	}
}

func index(t testing.TB, reg *testRegistry, platforms ...ocispec.Platform) (digest.Digest, []digest.Digest) {
	t.Helper()
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var images []digest.Digest
	for i, platform := range platforms {
		d, manifest := reg.push(t, testImage{
			layers: []testLayer{{archive: archive(t, "n", fmt.Sprint(i))}},
			config: func(c *ocispec.Image) { c.Platform = platform },
		})
		images = append(images, d)
		idx.Manifests = append(idx.Manifests, ocispec.Descriptor{
			MediaType: manifest.MediaType, Digest: d, Size: int64(len(encode(t, manifest))), Platform: &platform,
		})
	}
	d, _ := reg.pushManifest(t, idx.MediaType, idx)
	return d, images
}

func TestPullIndex(t *testing.T) {
	reg := newRegistry(t, true)
	d, images := index(t, reg,
		ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		ocispec.Platform{OS: "linux", Architecture: "riscv64"},
		ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH, Variant: "v4"},
		ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
	)
	image, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(d))
	if err != nil {
		t.Fatal(err)
	}
	if image.IndexDigest != d.String() || image.ManifestDigest != images[3].String() ||
		content(t, filepath.Join(image.Layers[0], "n")) != "3" {
		t.Errorf("%+v", image)
	}
}

func TestPullIndexWithoutOurPlatform(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := index(t, reg, ocispec.Platform{OS: "linux", Architecture: "riscv64"})
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeUnsupported)
}

func TestReferences(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		text, registry, repository string
		code                       Code
	}{
		{"nginx@" + sha, "index.docker.io", "library/nginx", ""},
		{"quay.io/a/b:tag@" + sha, "quay.io", "a/b", ""},
		{"10.0.2.2:5000/a@" + sha, "10.0.2.2:5000", "a", ""},
		{"[::1]:5000/a@" + sha, "[::1]:5000", "a", ""},
		{"a@sha512:" + strings.Repeat("a", 128), "index.docker.io", "library/a", ""},
		{"nginx", "", "", CodeNotPinned},
		{"nginx:latest", "", "", CodeNotPinned},
		{"", "", "", CodeNotPinned},
		{"nginx@", "", "", CodeReferenceInvalid},
		{"nginx@latest", "", "", CodeReferenceInvalid},
		{"nginx@sha256:abc", "", "", CodeReferenceInvalid},
		{"nginx@md5:" + strings.Repeat("a", 32), "", "", CodeReferenceInvalid},
		{"nginx@" + strings.ToUpper(sha), "", "", CodeReferenceInvalid},
		{"nginx@" + sha + "@" + sha, "", "", CodeReferenceInvalid},
		{"UPPER/case@" + sha, "", "", CodeReferenceInvalid},
		{"./a@" + sha, "", "", CodeReferenceInvalid},
		{"host.example./a@" + sha, "", "", CodeReferenceInvalid},
		{"a/../b@" + sha, "", "", CodeReferenceInvalid},
		{"user:pass@host/a@" + sha, "", "", CodeReferenceInvalid},
		{"https://host/a@" + sha, "", "", CodeReferenceInvalid},
		{strings.Repeat("a/", 1000) + "a@" + sha, "", "", CodeReferenceInvalid},
	}
	for _, tt := range tests {
		ref, err := parseReference(tt.text)
		if CodeOf(err) != tt.code || ref.registry != tt.registry || ref.repository != tt.repository {
			t.Errorf("%q: %+v, %v", tt.text, ref, err)
		}
	}
}

func TestLocal(t *testing.T) {
	for registry, want := range map[string]bool{
		"127.0.0.1:5000": true, "10.0.2.2:5000": true, "192.168.1.1": true, "172.16.0.1:80": true, "169.254.0.1:1": true, "[::1]:5000": true,
		"[fd00::1]:5000": true, "[fe80::1]:1": true, "[::ffff:10.0.0.1]:1": true,
		"localhost:5000": false, "8.8.8.8:5000": false, "172.32.0.1:80": false, "example.com": false,
		"10.0.0.1.example.com:80": false, "": false,
		"0.0.0.0:5000": false, "[2001:db8::1]:5000": false,
	} {
		if got := local(registry); got != want {
			t.Errorf("%s: %v", registry, got)
		}
	}
}

func TestPullManyLayers(t *testing.T) {
	reg := newRegistry(t, true)
	var image testImage
	for i := range 130 {
		image.layers = append(image.layers, testLayer{archive: archive(t, fmt.Sprintf("file-%d", i), fmt.Sprint(i)), compression: gzipped})
	}
	d, _ := reg.push(t, image)
	got, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(d))
	if err != nil || len(got.Layers) != 130 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, dir := range got.Layers {
		if text := content(t, filepath.Join(dir, fmt.Sprintf("file-%d", i))); text != fmt.Sprint(i) {
			t.Errorf("layer %d: %q", i, text)
		}
	}
}

// Many pods at once, and the same layer twice in one image: it is unpacked once.
func TestPullUnpacksEachLayerOnce(t *testing.T) {
	reg := newRegistry(t, true)
	l := simple(t).layers[0]
	d, _ := reg.push(t, testImage{layers: []testLayer{l, {archive: archive(t, "a", "b")}, l}})
	unpacker := &inProcess{}
	p := newPuller(t, reg, func(c *Config) { c.Unpack = unpacker })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			image, err := p.Pull(t.Context(), reg.ref(d))
			if err != nil {
				t.Error(err)
			} else if image.Layers[0] != image.Layers[2] || image.Layers[0] == image.Layers[1] {
				t.Errorf("%+v", image)
			}
		})
	}
	wg.Wait()
	if n := unpacker.calls.Load(); n != 2 {
		t.Errorf("unpacked %d times, want 2", n)
	}
}

func TestPullTriesAgain(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	failures := map[string]int{}
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if failures[r.URL.Path]++; failures[r.URL.Path] <= 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	if _, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(d)); err != nil {
		t.Error(err)
	}
}

func TestPullGivesUp(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeUnreachable)
	if n := reg.requests.Load(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
	reg.Close()
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeUnreachable)
}

func TestPullNotFound(t *testing.T) {
	reg := newRegistry(t, true)
	refused(t, newPuller(t, reg, nil), reg.ref(digest.FromString("nothing")), CodeNotFound)
	if n := reg.requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestPullEndsWithItsContext(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	ctx, cancel := context.WithCancel(t.Context())
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	p := newPuller(t, reg, func(c *Config) { c.Retry = Retry{Attempts: 3, Base: time.Hour} })
	if _, err := p.Pull(ctx, reg.ref(d)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// large is a layer that takes many reads, and does not compress.
func large(t testing.TB) testLayer {
	t.Helper()
	var noise bytes.Buffer
	for i := range 1 << 14 {
		sum := sha512.Sum512([]byte(fmt.Sprint(i)))
		noise.Write(sum[:])
	}
	return testLayer{archive: archive(t, "noise", noise.String()), compression: gzipped}
}

// blobTamper changes what the registry says of one blob: send gets the n-th request for it.
func blobTamper(d digest.Digest, send func(w http.ResponseWriter, r *http.Request, n int)) func(http.ResponseWriter, *http.Request) bool {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, d.String()) {
			return false
		}
		send(w, r, int(n.Add(1)))
		return true
	}
}

// breakOff sends some bytes of a longer body, and then ends the connection.
func breakOff(w http.ResponseWriter, whole, part []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
	_, _ = w.Write(part)
	panic(http.ErrAbortHandler)
}

func TestPullResumes(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges %v", ranges), func(t *testing.T) {
			reg := newRegistry(t, true)
			l := large(t)
			d, manifest := reg.push(t, testImage{layers: []testLayer{l}})
			whole := compressed(t, gzipped, l.archive)
			reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
				var from int
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && ranges {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(whole)-1, len(whole)))
					w.WriteHeader(http.StatusPartialContent)
				} else {
					from = 0
				}
				if n <= 2 {
					_, _ = w.Write(whole[from : n*len(whole)/3])
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(whole[from:])
			})
			image, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(d))
			if err != nil {
				t.Fatal(err)
			}
			if got := len(content(t, filepath.Join(image.Layers[0], "noise"))); got != 1<<20 {
				t.Errorf("%d bytes", got)
			}
		})
	}
}

func TestPullTruncated(t *testing.T) {
	reg := newRegistry(t, true)
	l := large(t)
	d, manifest := reg.push(t, testImage{layers: []testLayer{l}})
	whole := compressed(t, gzipped, l.archive)
	for name, send := range map[string]func(w http.ResponseWriter){
		"broken off": func(w http.ResponseWriter) { breakOff(w, whole, whole[:len(whole)/2]) },
		"short":      func(w http.ResponseWriter) { _, _ = w.Write(whole[:len(whole)/2]) },
		"empty":      func(w http.ResponseWriter) {},
	} {
		t.Run(name, func(t *testing.T) {
			reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) { send(w) })
			refused(t, newPuller(t, reg, nil), reg.ref(d), CodeUnreachable)
		})
	}
}

func TestAttackTagInsteadOfDigest(t *testing.T) {
	reg := newRegistry(t, true)
	_, manifest := reg.push(t, simple(t))
	reg.do(t, http.MethodPut, "/v2/"+repository+"/manifests/latest", manifest.MediaType, encode(t, manifest))
	refused(t, newPuller(t, reg, nil), reg.host()+"/"+repository+":latest", CodeNotPinned)
}

func TestAttackOtherManifest(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	_, other := reg.push(t, testImage{layers: []testLayer{{archive: archive(t, "evil", "1")}}})
	reg.tamper = blobTamper(d, func(w http.ResponseWriter, r *http.Request, n int) { _, _ = w.Write(encode(t, other)) })
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeDigestMismatch)
}

func TestAttackOtherConfig(t *testing.T) {
	reg := newRegistry(t, true)
	d, manifest := reg.push(t, simple(t))
	reg.tamper = blobTamper(manifest.Config.Digest, func(w http.ResponseWriter, r *http.Request, n int) {
		config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{
			Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(simple(t).layers[0].archive)},
		}}
		config.Config.Entrypoint = []string{"/evil"}
		text := encode(t, config)
		_, _ = w.Write(append(text, bytes.Repeat([]byte(" "), int(manifest.Config.Size)-len(text))...))
	})
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeDigestMismatch)
}

// The layer's blob is replaced by another that compresses the same archive: only the compressed digest tells.
func TestAttackOtherBlob(t *testing.T) {
	reg := newRegistry(t, true)
	l := simple(t).layers[0]
	frame := compressed(t, zstandard, l.archive)
	nothing := []byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0} // an empty skippable frame (RFC 8878 §3.1.2)
	blob, other := slices.Concat(nothing, frame), slices.Concat(frame, nothing)
	d, manifest := reg.push(t, testImage{layers: []testLayer{{archive: l.archive, compression: zstandard, blob: blob}}})
	reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) { _, _ = w.Write(other) })
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeDigestMismatch)
}

// The manifest names a blob that is what its digest says, and whose contents are not what the configuration says.
func TestAttackOtherContents(t *testing.T) {
	reg := newRegistry(t, true)
	image := simple(t)
	image.layers[0].blob = compressed(t, gzipped, archive(t, "evil", "1"))
	d, _ := reg.push(t, image)
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeDigestMismatch)
}

// The registry serves what was verified once, and something else the next time.
func TestAttackSecondAnswerDiffers(t *testing.T) {
	reg := newRegistry(t, true)
	l := large(t)
	d, manifest := reg.push(t, testImage{layers: []testLayer{l}})
	good := compressed(t, gzipped, l.archive)
	evil := bytes.Clone(good)
	evil[len(evil)-1] ^= 1 // in the gzip trailer's length
	reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			breakOff(w, good, good[:len(good)/2])
		}
		_, _ = w.Write(evil)
	})
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeDigestMismatch)
}

func TestAttackBytesAfterLayer(t *testing.T) {
	reg := newRegistry(t, true)
	l := simple(t).layers[0]
	l.blob = append(compressed(t, gzipped, l.archive), "more"...)
	d, _ := reg.push(t, testImage{layers: []testLayer{l}})
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeLayerRefused)
}

func TestAttackLayerOutOfItsDirectory(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, testImage{layers: []testLayer{{archive: archive(t, "../../evil", "1")}}})
	err := refused(t, newPuller(t, reg, nil), reg.ref(d), CodeLayerRefused)
	if unpack.CodeOf(err) != unpack.CodeEscape {
		t.Error(err)
	}
}

func credentials(reg *testRegistry) Text {
	return Text{Inline: `{"auths":{"` + reg.host() + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("user:password")) + `"}}}`}
}

func TestAttackCredentialsInTheClear(t *testing.T) {
	reg := newRegistry(t, false)
	d, _ := reg.push(t, simple(t))
	refused(t, newPuller(t, reg, func(c *Config) { c.Credentials = credentials(reg) }), reg.ref(d), CodePlaintextRefused)
	if n := reg.requests.Load(); n != 0 {
		t.Errorf("%d requests in the clear", n)
	}
}

// dialTo sends every connection of a puller to one server, whatever its name: the adversary's name server and router.
func dialTo(p *Puller, server *httptest.Server) {
	transport := p.transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, _ string) (c net.Conn, err error) {
		return dial(ctx, network, server.Listener.Addr().String())
	}
}

func TestAttackPlaintextUnderPublicName(t *testing.T) {
	reg := newRegistry(t, false)
	d, _ := reg.push(t, simple(t))
	p := newPuller(t, reg, nil)
	dialTo(p, reg.Server)
	refused(t, p, "registry.example.com/"+repository+"@"+d.String(), CodePlaintextRefused)
	if n := reg.requests.Load(); n != 0 {
		t.Errorf("%d requests in the clear", n)
	}
}

func TestAttackUntrustedCertificate(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	refused(t, newPuller(t, reg, func(c *Config) { c.ExtraRoots = nil }), reg.ref(d), CodeUnreachable)
	if n := reg.requests.Load(); n != 0 {
		t.Errorf("%d requests to a server that is not who it says", n)
	}
}

func TestAttackExpiredCertificate(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	later := func() time.Time { return reg.Certificate().NotAfter.Add(time.Hour) }
	refused(t, newPuller(t, reg, func(c *Config) { c.Now = later }), reg.ref(d), CodeUnreachable)
}

// The adversary's registry sends the guest to the service that hands out the guest's secrets.
func TestAttackRedirectIntoTheGuest(t *testing.T) {
	visited := atomic.Bool{}
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { visited.Store(true) }))
	defer inside.Close()
	for _, overTLS := range []bool{true, false} {
		reg := newRegistry(t, overTLS)
		d, manifest := reg.push(t, simple(t))
		reg.tamper = blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
			http.Redirect(w, r, inside.URL+"/cdh/resource/default/key/1", http.StatusTemporaryRedirect)
		})
		refused(t, newPuller(t, reg, nil), reg.ref(d), CodePlaintextRefused)
	}
	if visited.Load() {
		t.Error("the guest followed")
	}
}

func TestAttackTokenFromTheGuest(t *testing.T) {
	visited := atomic.Bool{}
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visited.Store(true)
		_, _ = w.Write([]byte(`{"token":"the guest's secret"}`))
	}))
	defer inside.Close()
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+inside.URL+`/cdh/resource/default/key/1"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodePlaintextRefused)
	if visited.Load() {
		t.Error("the guest asked")
	}
}

// authority gives tokens, and registries demand them.
func authority(t *testing.T, reg *testRegistry, want string) {
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if r.URL.Query().Get("scope") != "repository:"+repository+":pull" || r.URL.Query().Get("service") != "a, b" {
				t.Errorf("asked for %s", r.URL.RawQuery)
			}
			user, password, _ := r.BasicAuth()
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "for-" + user + "-" + password})
			return true
		}
		if r.Header.Get("Authorization") == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+reg.host()+`/token",service="a, b",scope="everything"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestPullWithToken(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	authority(t, reg, "Bearer for--")
	if _, err := newPuller(t, reg, nil).Pull(t.Context(), reg.ref(d)); err != nil {
		t.Error("anonymous:", err)
	}
	authority(t, reg, "Bearer for-user-password")
	if _, err := newPuller(t, reg, func(c *Config) { c.Credentials = credentials(reg) }).Pull(t.Context(), reg.ref(d)); err != nil {
		t.Error("with credentials:", err)
	}
	authority(t, reg, "Bearer something else")
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeUnauthorized)
}

func TestPullWithPassword(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "user" && password == "password" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	if _, err := newPuller(t, reg, func(c *Config) { c.Credentials = credentials(reg) }).Pull(t.Context(), reg.ref(d)); err != nil {
		t.Error(err)
	}
	refused(t, newPuller(t, reg, nil), reg.ref(d), CodeUnauthorized)
}

// A registry hands blobs out elsewhere; its token stays with it.
func TestAttackTokenToAnotherHost(t *testing.T) {
	reg, elsewhere := newRegistry(t, true), newRegistry(t, true)
	d, manifest := reg.push(t, simple(t))
	elsewhere.push(t, simple(t))
	authority(t, reg, "Bearer for--")
	withToken := reg.tamper
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, manifest.Layers[0].Digest.String()) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return withToken(w, r)
	}
	leaked := atomic.Bool{}
	elsewhere.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		return false
	}
	p := newPuller(t, reg, func(c *Config) { c.ExtraRoots = append(reg.roots(), elsewhere.roots()...) })
	if _, err := p.Pull(t.Context(), reg.ref(d)); err != nil {
		t.Error(err)
	}
	if leaked.Load() {
		t.Error("the other host got the registry's token")
	}
}

func TestAttackProxyFromTheEnvironment(t *testing.T) {
	visited := atomic.Bool{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { visited.Store(true) }))
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	p := newPuller(t, newRegistry(t, true), func(c *Config) { c.Retry.Attempts = 1 })
	refused(t, p, "registry.invalid/a@"+digest.FromString("a").String(), CodeUnreachable)
	if visited.Load() {
		t.Error("the environment's proxy was asked")
	}
}

func TestProxyFromTheConfiguration(t *testing.T) {
	visited := atomic.Value{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visited.Store(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	p := newPuller(t, newRegistry(t, true), func(c *Config) {
		c.Proxy = Proxy{HTTPS: proxy.URL, NoProxy: "direct.invalid"}
		c.Retry.Attempts = 1
	})
	refused(t, p, "registry.invalid/a@"+digest.FromString("a").String(), CodeUnreachable)
	if got := visited.Load(); got != "CONNECT registry.invalid:443" {
		t.Errorf("the proxy saw %v", got)
	}
	visited.Store("")
	refused(t, p, "direct.invalid/a@"+digest.FromString("a").String(), CodeUnreachable)
	if got := visited.Load(); got != "" {
		t.Errorf("the proxy saw %v", got)
	}
}

func TestAttackCompressionBomb(t *testing.T) {
	reg := newRegistry(t, true)
	zeros := archive(t, "zeros", strings.Repeat("\x00", 1<<20))
	for _, c := range []compression{gzipped, zstandard} {
		d, _ := reg.push(t, testImage{layers: []testLayer{{archive: zeros, compression: c}}})
		refused(t, newPuller(t, reg, func(cfg *Config) { cfg.Limits.LayerBytes = 1 << 19 }), reg.ref(d), CodeTooLarge)
	}
}

func TestAttackLargeManifest(t *testing.T) {
	reg := newRegistry(t, true)
	image := simple(t)
	image.manifest = func(m *ocispec.Manifest) { m.Annotations = map[string]string{"a": strings.Repeat("x", 5000)} }
	d, _ := reg.push(t, image)
	refused(t, newPuller(t, reg, func(c *Config) { c.Limits.ManifestBytes = 4096 }), reg.ref(d), CodeTooLarge)
}

func TestAttackManyLayers(t *testing.T) {
	reg := newRegistry(t, true)
	l := simple(t).layers[0]
	d, _ := reg.push(t, testImage{layers: []testLayer{l, l, l}})
	refused(t, newPuller(t, reg, func(c *Config) { c.Limits.Layers = 2 }), reg.ref(d), CodeTooLarge)
}

func TestAttackLargeImage(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, testImage{layers: []testLayer{large(t)}})
	refused(t, newPuller(t, reg, func(c *Config) { c.Limits.Bytes = 1 << 20 }), reg.ref(d), CodeTooLarge)
}

// The manifest is the right one, and what it says is not what an image says.
func TestHostileImages(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testImage)
		code   Code
	}{
		{"another operating system", func(i *testImage) { i.config = func(c *ocispec.Image) { c.OS = "windows" } }, CodeUnsupported},
		{"another architecture", func(i *testImage) { i.config = func(c *ocispec.Image) { c.Architecture = "s390x" } }, CodeUnsupported},
		{"more diff_ids than layers", func(i *testImage) {
			i.config = func(c *ocispec.Image) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, c.RootFS.DiffIDs...) }
		}, CodeMalformed},
		{"a diff_id that is a path", func(i *testImage) {
			i.config = func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../../../evil" }
		}, CodeMalformed},
		{"a root that is not layers", func(i *testImage) { i.config = func(c *ocispec.Image) { c.RootFS.Type = "disk" } }, CodeMalformed},
		{"an artifact", func(i *testImage) {
			i.manifest = func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }
		}, CodeUnsupported},
		{"an encrypted layer of no kind", func(i *testImage) { i.layers[0].mediaType = "application/x-tar+encrypted" }, CodeUnsupported},
		{"an encrypted layer, encrypted", func(i *testImage) {
			i.layers[0].mediaType = ocispec.MediaTypeImageLayerGzip + "+encrypted+encrypted"
		}, CodeUnsupported},
		{"a layer that is called gzip and is zstd", func(i *testImage) {
			i.layers[0].compression, i.layers[0].mediaType = zstandard, ocispec.MediaTypeImageLayerGzip
		}, CodeLayerRefused},
		{"a config that is longer than it says", func(i *testImage) {
			i.manifest = func(m *ocispec.Manifest) { m.Config.Size-- }
		}, CodeMalformed},
		{"a config that is too long", func(i *testImage) { i.manifest = func(m *ocispec.Manifest) { m.Config.Size = 5 << 20 } }, CodeTooLarge},
		{"a layer of a negative size", func(i *testImage) { i.manifest = func(m *ocispec.Manifest) { m.Layers[0].Size = -1 } }, CodeMalformed},
		{"a layer that is longer than it says", func(i *testImage) {
			i.manifest = func(m *ocispec.Manifest) { m.Layers[0].Size-- }
		}, CodeDigestMismatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := newRegistry(t, true)
			image := simple(t)
			tt.change(&image)
			d, _ := reg.push(t, image)
			refused(t, newPuller(t, reg, nil), reg.ref(d), tt.code)
		})
	}
}

func TestDocuments(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		name, text string
		code       Code
	}{
		{"no JSON", "nginx", CodeMalformed},
		{"nothing", "{}", CodeUnsupported},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, CodeUnsupported},
		{"neither", `{"schemaVersion":2}`, CodeUnsupported},
		{"both", `{"schemaVersion":2,"manifests":[{"digest":"` + sha + `"}],"config":{"digest":"` + sha + `"}}`, CodeMalformed},
		{"an index that calls itself a manifest",
			`{"schemaVersion":2,"mediaType":"` + dockerManifest + `","manifests":[{"digest":"` + sha + `"}]}`, CodeMalformed},
		{"a manifest that calls itself an index",
			`{"schemaVersion":2,"mediaType":"` + dockerIndex + `","config":{"digest":"` + sha + `"}}`, CodeMalformed},
		{"an index", `{"schemaVersion":2,"manifests":[{"digest":"` + sha + `"}]}`, ""},
		{"a manifest", `{"schemaVersion":2,"config":{"digest":"` + sha + `"}}`, ""},
	}
	for _, tt := range tests {
		if _, err := parseDocument([]byte(tt.text)); CodeOf(err) != tt.code || (err == nil) != (tt.code == "") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestChallenges(t *testing.T) {
	tests := []struct {
		header string
		want   challenge
		fails  bool
	}{
		{`Bearer realm="https://a/b",service="c"`, challenge{"bearer", "https://a/b", "c"}, false},
		{`bearer realm=x , service="a \"b\", c",scope="z"`, challenge{"bearer", "x", `a "b", c`}, false},
		{`BASIC realm="x"`, challenge{scheme: "basic"}, false},
		{``, challenge{}, true},
		{`Bearer`, challenge{}, true},
		{`Bearer service="c"`, challenge{}, true},
		{`Bearer realm="x`, challenge{}, true},
		{`Bearer realm="x\`, challenge{}, true},
		{`Bearer realm`, challenge{}, true},
		{`Negotiate`, challenge{}, true},
		{`Bearer realm="` + strings.Repeat("x", 5000) + `"`, challenge{}, true},
	}
	for _, tt := range tests {
		if got, err := parseChallenge(tt.header); got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%.40s: %+v, %v", tt.header, got, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no directory":       {Unpack: &inProcess{}},
		"no unpacker":        {WorkDir: t.TempDir()},
		"a root that is not": {WorkDir: t.TempDir(), Unpack: &inProcess{}, ExtraRoots: []string{"no certificate"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "2": 2 * time.Second, "-1": 0, "x": 0, "99999999": 30 * time.Second} {
		if got := retryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func FuzzManifest(f *testing.F) {
	sha := "sha256:" + strings.Repeat("a", 64)
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"`+ocispec.MediaTypeImageConfig+`","digest":"`+sha+`","size":3},`+
		`"layers":[{"mediaType":"`+ocispec.MediaTypeImageLayerGzip+`","digest":"`+sha+`","size":4}]}`),
		[]byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["`+sha+`"]}}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+sha+`","platform":{"os":"linux","architecture":"amd64"}}]}`), []byte(`{}`))
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		d, err := parseDocument(manifest)
		if err != nil {
			return
		}
		if d.isIndex() {
			if chosen, err := d.choose(platform); err == nil && chosen.Digest.Validate() != nil {
				t.Errorf("chose %q", chosen.Digest)
			}
			return
		}
		if d.checkBlobs(Limits{}.withDefaults()) != nil {
			return
		}
		_, layers, err := d.parseConfig(config, platform)
		for _, l := range layers {
			if strings.ContainsAny(l.diffID.Encoded()+l.blob.Digest.Encoded(), "/.") || l.blob.Size < 0 || err != nil {
				t.Errorf("%+v", l)
			}
		}
	})
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a/b",service="c \" d",scope=e`)
	f.Add(`Basic realm="x"`)
	f.Fuzz(func(t *testing.T, header string) {
		if c, err := parseChallenge(header); err == nil && c.scheme == "bearer" && c.realm == "" {
			t.Error("a challenge without a realm")
		}
	})
}
