// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/internal/guest/unpack"
)

const repository = "team/app"

// testRegistry is a real registry, with a place in front of it where tests tamper.
type testRegistry struct {
	*httptest.Server
	handler  http.Handler
	requests atomic.Int64
	// tamper sees every request first, and says whether it has answered it.
	tamper func(w http.ResponseWriter, r *http.Request) bool
}

func newRegistry(t testing.TB, overTLS bool) *testRegistry {
	t.Helper()
	reg := &testRegistry{handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	reg.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reg.requests.Add(1)
		if reg.tamper == nil || !reg.tamper(w, r) {
			reg.handler.ServeHTTP(w, r)
		}
	}))
	reg.Config.ErrorLog = log.New(io.Discard, "", 0)
	if overTLS {
		reg.StartTLS()
	} else {
		reg.Start()
	}
	t.Cleanup(reg.Close)
	return reg
}

func (r *testRegistry) host() string { return r.Listener.Addr().String() }

func (r *testRegistry) ref(d digest.Digest) string {
	return r.host() + "/" + repository + "@" + d.String()
}

// roots is the server's own certificate, as a configuration would name it.
func (r *testRegistry) roots() []string {
	if r.Certificate() == nil {
		return nil
	}
	return []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))}
}

func (r *testRegistry) do(t testing.TB, method, path, contentType string, body []byte) {
	t.Helper()
	request := httptest.NewRequest(method, path, bytes.NewReader(body))
	request.Header.Set("Content-Type", contentType)
	recorder := httptest.NewRecorder()
	r.handler.ServeHTTP(recorder, request)
	if recorder.Code >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, recorder.Code, recorder.Body)
	}
}

func (r *testRegistry) pushBlob(t testing.TB, content []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(content)
	r.do(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", content)
	return d
}

func (r *testRegistry) pushManifest(t testing.TB, mediaType string, manifest any) (digest.Digest, int64) {
	t.Helper()
	text := encode(t, manifest)
	d := digest.FromBytes(text)
	r.do(t, http.MethodPut, "/v2/"+repository+"/manifests/"+d.String(), mediaType, text)
	return d, int64(len(text))
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// testImage is an image to be pushed; the hooks change what is written into its documents.
type testImage struct {
	layers   []testLayer
	config   func(*ocispec.Image)
	manifest func(*ocispec.Manifest)
}

type testLayer struct {
	archive     []byte
	compression compression
	mediaType   string // "" is the one of OCI
	blob        []byte // nil is the archive, compressed
	annotations map[string]string
}

func (r *testRegistry) push(t testing.TB, image testImage) (digest.Digest, ocispec.Manifest) {
	t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
	config.Config.Env = []string{"GREETING=hello"}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range image.layers {
		if l.blob == nil {
			l.blob = compressed(t, l.compression, l.archive)
		}
		if l.mediaType == "" {
			l.mediaType = []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}[l.compression]
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.archive))
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: l.mediaType, Digest: r.pushBlob(t, l.blob), Size: int64(len(l.blob)),
			Annotations: l.annotations,
		})
	}
	if image.config != nil {
		image.config(&config)
	}
	text := encode(t, config)
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: r.pushBlob(t, text), Size: int64(len(text))}
	if image.manifest != nil {
		image.manifest(&manifest)
	}
	d, _ := r.pushManifest(t, manifest.MediaType, manifest)
	return d, manifest
}

func compressed(t testing.TB, c compression, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	switch c {
	case uncompressed:
		return content
	case gzipped:
		w = gzip.NewWriter(&buf)
	case zstandard:
		z, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// archive is a tar archive of files, given as names and contents in turn.
func archive(t testing.TB, namesAndContents ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(namesAndContents); i += 2 {
		name, content := namesAndContents[i], namesAndContents[i+1]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Uid: os.Getuid(), Gid: os.Getgid()}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// inProcess unpacks with the real code and without its sandbox, so that these tests need no root.
type inProcess struct{ calls atomic.Int64 }

func (u *inProcess) Unpack(_ context.Context, dir string, layer io.Reader) (unpack.Stats, error) {
	u.calls.Add(1)
	root, err := os.Open(dir)
	if err != nil {
		return unpack.Stats{}, err
	}
	defer root.Close()
	return unpack.Extract(root, layer, unpack.Limits{})
}

func newPuller(t testing.TB, reg *testRegistry, change func(*Config)) *Puller {
	t.Helper()
	cfg := Config{
		WorkDir:    t.TempDir(),
		Unpack:     &inProcess{},
		ExtraRoots: reg.roots(),
		Retry:      Retry{Attempts: 3, Base: time.Microsecond},
		Log:        slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refused demands the code, and that no layer is left behind.
func refused(t *testing.T, p *Puller, ref string, code Code) error {
	t.Helper()
	image, err := p.Pull(t.Context(), ref)
	if got := CodeOf(err); got != code {
		t.Errorf("code %q, want %q: %v, %+v", got, code, err, image)
	}
	left, err2 := os.ReadDir(p.store.dir)
	if err2 != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err2)
	}
	return err
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text)
}
