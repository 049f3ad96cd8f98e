// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// keyStore is a trustee that takes resources and lists them, and no more.
type keyStore struct {
	mu   sync.Mutex
	held map[string][]byte
	// refuse has it answer every POST with an error.
	refuse bool
}

func (k *keyStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	path, isResource := strings.CutPrefix(r.URL.Path, "/kbs/v0/resource/")
	switch {
	case isResource && r.Method == http.MethodPost && !k.refuse:
		k.held[path], _ = io.ReadAll(r.Body)
	case r.URL.Path == "/nacre/v1/resources":
		list := kbs.ResourceList{Resources: []kbs.ResourceInfo{}}
		for path, value := range k.held {
			if strings.HasPrefix(path, r.URL.Query().Get("prefix")) {
				list.Resources = append(list.Resources, kbs.ResourceInfo{Path: path, Size: len(value)})
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	default:
		w.WriteHeader(http.StatusForbidden)
	}
}

func (k *keyStore) get(path string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.held[path])
}

// Key is what a guest would get. (imagecrypt.KeySource)
func (k *keyStore) Key(_ context.Context, kid string) (secret.Bytes, error) {
	key := k.get(strings.TrimPrefix(kid, "kbs:///"))
	if key == nil {
		return secret.Bytes{}, errors.New("there is no " + kid)
	}
	return secret.New(key), nil
}

// workshop is an owner's place: a registry, and a trustee that her commands speak to.
type workshop struct {
	registry string
	trustee  *keyStore
	dir      string
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{trustee: &keyStore{held: map[string][]byte{}}, dir: t.TempDir()}
	shelf := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(shelf.Close)
	w.registry = strings.TrimPrefix(shelf.URL, "http://")
	trustee := httptest.NewTLSServer(w.trustee)
	t.Cleanup(trustee.Close)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "admin.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	w.write(t, "trustee.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trustee.Certificate().Raw}))
	t.Setenv("NACRE_TRUSTEE", trustee.URL)
	t.Setenv("NACRE_TRUSTEE_CERT", filepath.Join(w.dir, "trustee.pem"))
	t.Setenv("NACRE_ADMIN_KEY", filepath.Join(w.dir, "admin.key"))
	t.Setenv("XDG_CONFIG_HOME", w.dir)
	t.Setenv("DOCKER_CONFIG", w.dir)
	return w
}

func (w *workshop) write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs a command of nacre.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(t.Output())
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t, args...)
	if err != nil {
		t.Fatalf("nacre %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// archive is a layer's tar with one file.
func archive(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := bytes.Repeat([]byte(name+" is in here. "), 5000)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newImageOf makes an image with three layers: gzip, zstd, uncompressed.
func newImageOf(t *testing.T, title string) v1.Image {
	t.Helper()
	var adds []mutate.Addendum
	for _, c := range []compression.Compression{compression.GZip, compression.ZStd, compression.None} {
		text := archive(t, title+" "+string(c))
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
			tarball.WithCompression(c), tarball.WithMediaType(types.OCILayer))
		mediaType := types.OCILayer
		switch c {
		case compression.None:
			layer, err = static.NewLayer(text, types.OCIUncompressedLayer), nil
			mediaType = types.OCIUncompressedLayer
		case compression.ZStd:
			mediaType = types.OCILayerZStd
		}
		if err != nil {
			t.Fatal(err)
		}
		adds = append(adds, mutate.Addendum{Layer: layer, MediaType: mediaType, Annotations: map[string]string{"title": string(c)}})
	}
	image, err := mutate.Append(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), adds...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func (w *workshop) push(t *testing.T, tag string, image v1.Image) string {
	t.Helper()
	reference := w.registry + "/" + tag
	parsed, err := name.ParseReference(reference)
	if err == nil {
		err = remote.Write(parsed, image)
	}
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

func (w *workshop) get(t *testing.T, reference string) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// contents decrypts and decompresses an image's layers, checks them against the configuration, and returns their media types.
func contents(t *testing.T, image v1.Image, keys imagecrypt.KeySource) []string {
	t.Helper()
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d digests of contents", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	var mediaTypes []string
	for i, layer := range manifest.Layers {
		mediaTypes = append(mediaTypes, layer.MediaType)
		hash, err := v1.NewHash(layer.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		blob, err := image.LayerByDigest(hash)
		if err != nil {
			t.Fatal(err)
		}
		body, err := blob.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		var r io.Reader = body
		if imagecrypt.Encrypted(layer.MediaType) {
			if r, err = imagecrypt.Open(t.Context(), layer, body, keys); err != nil {
				t.Errorf("layer %d: %v", i, err)
				continue
			}
		}
		plain, err := io.ReadAll(r)
		body.Close()
		if err != nil {
			t.Errorf("layer %d: %v", i, err)
			continue
		}
		if got := digest.FromBytes(decompress(t, imagecrypt.PlainMediaType(layer.MediaType), plain)); got.String() != config.RootFS.DiffIDs[i].String() {
			t.Errorf("layer %d, %s: other contents", i, layer.MediaType)
		}
	}
	return mediaTypes
}

func decompress(t *testing.T, mediaType string, text []byte) []byte {
	t.Helper()
	switch {
	case strings.HasSuffix(mediaType, "+zstd"):
		d, err := zstd.NewReader(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		plain, err := io.ReadAll(d)
		if err != nil {
			t.Fatal(err)
		}
		return plain
	case strings.HasSuffix(mediaType, "+gzip"):
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil })
		if err != nil {
			t.Fatal(err)
		}
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		plain, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}
	return text
}

const imageKey = "kbs:///team/image-key/app"

var allEncrypted = strings.Join([]string{ocispec.MediaTypeImageLayerGzip + "+encrypted", ocispec.MediaTypeImageLayerZstd + "+encrypted",
	ocispec.MediaTypeImageLayer + "+encrypted"}, " ")

func TestImageEncrypt(t *testing.T) {
	w := newWorkshop(t)
	src := w.push(t, "app:v1", newImageOf(t, "app"))
	out := must(t, "image", "encrypt", src, w.registry+"/app:encrypted", "--key", imageKey)
	if got := strings.Join(contents(t, w.get(t, w.registry+"/app:encrypted"), w.trustee), " "); got != allEncrypted {
		t.Errorf("the layers are %s", got)
	}
	if !strings.Contains(out, w.registry+"/app@sha256:") || !strings.Contains(out, imageKey) || len(w.trustee.get("team/image-key/app")) != 32 {
		t.Errorf("it says %s", out)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "nacre-image-*")); err != nil || len(left) > 0 && os.Getenv("TMPDIR") != "" {
		t.Errorf("%v is left, %v", left, err)
	}
	inspected := must(t, "image", "inspect", w.registry+"/app:encrypted")
	if strings.Count(inspected, imageKey) != 3 {
		t.Errorf("inspect says %s", inspected)
	}
	var done encrypted
	text := must(t, "image", "encrypt", "docker://"+src, w.registry+"/app:last", "--key", imageKey+"-2", "--layer", "-1", "--layer", "0",
		"--algorithm", "A256CTR", "--json")
	if err := json.Unmarshal([]byte(text), &done); err != nil || done.Encrypted != 2 || done.Layers != 3 || !done.KeyStored {
		t.Errorf("it says %s, %v", text, err)
	}
	got := contents(t, w.get(t, done.Reference), w.trustee)
	if got[1] != ocispec.MediaTypeImageLayerZstd || !imagecrypt.Encrypted(got[2]) {
		t.Errorf("the layers are %s", got)
	}
}

// A key that is lost, or another under its name, is an image that is lost.
func TestImageEncryptKeepsKeys(t *testing.T) {
	w := newWorkshop(t)
	src := w.push(t, "app:v1", newImageOf(t, "app"))
	must(t, "image", "encrypt", src, w.registry+"/app:1", "--key", imageKey)
	before := w.trustee.get("team/image-key/app")
	if _, err := command(t, "image", "encrypt", src, w.registry+"/app:2", "--key", imageKey); !errors.Is(err, errKeyStored) {
		t.Errorf("a second image under the key's name: %v", err)
	}
	if !bytes.Equal(w.trustee.get("team/image-key/app"), before) {
		t.Error("the key was replaced")
	}
	file := w.write(t, "app.key", before)
	must(t, "image", "encrypt", src, w.registry+"/app:3", "--key", imageKey, "--key-file", file)
	contents(t, w.get(t, w.registry+"/app:3"), w.trustee)
	contents(t, w.get(t, w.registry+"/app:1"), w.trustee)
	must(t, "image", "encrypt", src, w.registry+"/app:4", "--key", imageKey, "--replace-key")
	if bytes.Equal(w.trustee.get("team/image-key/app"), before) {
		t.Error("the key was not replaced")
	}

	// A trustee that does not take the key gets no image written.
	w.trustee.refuse = true
	if _, err := command(t, "image", "encrypt", src, w.registry+"/app:5", "--key", imageKey+"-5"); err == nil {
		t.Error("the trustee refused the key, and all went well")
	}
	if tag, err := name.NewTag(w.registry + "/app:5"); err != nil {
		t.Error(err)
	} else if _, err := remote.Head(tag); err == nil {
		t.Error("the trustee refused the key, and the image was written")
	}
}

func TestImageEncryptRefuses(t *testing.T) {
	w := newWorkshop(t)
	src := w.push(t, "app:v1", newImageOf(t, "app"))
	must(t, "image", "encrypt", src, w.registry+"/app:encrypted", "--key", imageKey)
	short := w.write(t, "short.key", []byte("short"))
	for about, c := range map[string]struct {
		args []string
		want string
	}{
		"encrypted already":       {[]string{w.registry + "/app:encrypted", w.registry + "/x:1", "--key", imageKey + "-2"}, "encrypted already"},
		"no such layer":           {[]string{src, w.registry + "/x:1", "--key", imageKey + "-2", "--layer", "3"}, "no layer 3"},
		"destination by digest":   {[]string{src, w.registry + "/x@sha256:" + strings.Repeat("0", 64), "--key", imageKey}, "name a tag"},
		"a key that is a path":    {[]string{src, w.registry + "/x:1", "--key", "team/image-key/app"}, "scheme"},
		"a key of another plugin": {[]string{src, w.registry + "/x:1", "--key", "kbs+pkcs11:///a/b/c"}, "names no key"},
		"a short key":             {[]string{src, w.registry + "/x:1", "--key", imageKey, "--key-file", short}, "32 bytes"},
		"a key to be lost":        {[]string{src, w.registry + "/x:1", "--key", imageKey, "--no-trustee"}, "lost"},
		"another algorithm":       {[]string{src, w.registry + "/x:1", "--key", imageKey + "-2", "--algorithm", "A128GCM"}, "A256GCM"},
		"no image":                {[]string{w.registry + "/none:1", w.registry + "/x:1", "--key", imageKey + "-2"}, "none"},
		"no layout":               {[]string{"oci:" + w.dir, w.registry + "/x:1", "--key", imageKey + "-2"}, "index.json"},
	} {
		if _, err := command(t, append([]string{"image", "encrypt"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", about, err)
		}
	}
	if len(w.trustee.held) != 1 {
		t.Errorf("what was refused left keys: %d", len(w.trustee.held))
	}
}

func TestImageEncryptLayoutsAndPlatforms(t *testing.T) {
	w := newWorkshop(t)
	one, two := newImageOf(t, "app"), newImageOf(t, "app") // the same layers
	two, err := mutate.Config(two, v1.Config{Env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: two, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: empty.Image, Descriptor: v1.Descriptor{Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}}})
	reference, err := name.ParseReference(w.registry + "/app:many")
	if err == nil {
		err = remote.WriteIndex(reference, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	layout := "oci:" + filepath.Join(w.dir, "layout")
	out := must(t, "image", "encrypt", reference.Name(), layout+":v1", "--key", imageKey)
	if !strings.Contains(out, "6 of 6 layers") || !strings.Contains(out, "1 manifests of provenance") {
		t.Errorf("it says %s", out)
	}
	inspected := must(t, "image", "inspect", layout)
	if strings.Count(inspected, imageKey) != 6 || !strings.Contains(inspected, "linux/arm64") {
		t.Errorf("inspect says %s", inspected)
	}
	blobs, err := filepath.Glob(filepath.Join(w.dir, "layout/blobs/sha256/*"))
	if err != nil || len(blobs) != 3+2*2+1 {
		t.Errorf("%d blobs: layers that images share are not shared, %v", len(blobs), err)
	}
	// Written again, the tag is moved, and nothing else is there.
	key := w.write(t, "app.key", w.trustee.get("team/image-key/app"))
	must(t, "image", "encrypt", reference.Name(), layout+":v1", "--key", imageKey, "--key-file", key, "--no-trustee")
	// From the layout a registry is served with the same images.
	must(t, "image", "encrypt", w.push(t, "app:one", one), layout+":v2", "--key", imageKey, "--key-file", key, "--no-trustee")
	if _, err := command(t, "image", "inspect", layout); err == nil || !strings.Contains(err.Error(), "2 such images") {
		t.Errorf("a layout of two images: %v", err)
	}
	var report struct {
		Images []struct {
			Layers []struct{ Encrypted bool }
		}
	}
	text := must(t, "image", "inspect", "--json", layout+":v2")
	if err := json.Unmarshal([]byte(text), &report); err != nil || len(report.Images) != 1 || len(report.Images[0].Layers) != 3 || !report.Images[0].Layers[2].Encrypted {
		t.Errorf("inspect --json says %s, %v", text, err)
	}
}

// provide runs a key provider until the test ends, and returns its configuration.
func provide(t *testing.T, w *workshop, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	config := filepath.Join(w.dir, "keyprovider.json")
	root := newRoot()
	root.SetArgs(append([]string{"image", "key-provider", "--listen", "127.0.0.1:0", "--config", config}, args...))
	r, out := io.Pipe()
	root.SetOut(out)
	root.SetErr(t.Output())
	done := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		_ = out.CloseWithError(io.EOF)
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the key provider: %v", err)
		}
	})
	said := ""
	for !strings.Contains(said, "OCICRYPT_KEYPROVIDER_CONFIG") {
		b := make([]byte, 1024)
		n, err := r.Read(b)
		if said += string(b[:n]); err != nil {
			t.Fatalf("the key provider said %q, and ended", said)
		}
	}
	return config
}

// skopeo runs the real one.
func skopeo(t *testing.T, config string, args ...string) error {
	t.Helper()
	program, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not on the PATH: the test is of what it and we make of each other's images")
	}
	var major, minor int
	version, err := exec.CommandContext(t.Context(), program, "--version").Output()
	if err == nil {
		_, err = fmt.Sscanf(string(version), "skopeo version %d.%d", &major, &minor)
	}
	if err != nil {
		t.Fatalf("skopeo --version: %v", err)
	}
	if major == 1 && minor < 10 {
		t.Skipf("skopeo %d.%d of Debian 12 is built without key providers: the test wants a newer one, as Debian 13 has", major, minor)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"}, args...)...)
	cmd.Env = append(os.Environ(), "OCICRYPT_KEYPROVIDER_CONFIG="+config)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("skopeo %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func TestSkopeoEncryptsWithOurKeys(t *testing.T) {
	for about, c := range map[string]struct {
		parameters string // with %s for a file
		kid        string // "" for any
		wrapType   string
	}{
		"a name":             {"keyid=" + imageKey, imageKey, imagecrypt.A256GCM},
		"a name and CTR":     {"keyid=" + imageKey + "::algorithm=A256CTR", imageKey, imagecrypt.A256CTR},
		"a name and a file":  {"keyid=" + imageKey + "::keypath=%s", imageKey, imagecrypt.A256GCM},
		"a file":             {"keypath=%s::sample=false", "", imagecrypt.A256GCM},
		"nothing in special": {"algorithm=A256GCM", "", imagecrypt.A256GCM},
	} {
		t.Run(about, func(t *testing.T) {
			w := newWorkshop(t)
			config := provide(t, w)
			file := w.write(t, "app.key", []byte("0123456789abcdef0123456789abcdef"))
			src := w.push(t, "app:v1", newImageOf(t, "app"))
			parameters := strings.ReplaceAll(c.parameters, "%s", file)
			if err := skopeo(t, config, "--encryption-key", "provider:attestation-agent:"+parameters, "docker://"+src, "docker://"+w.registry+"/app:2"); err != nil {
				t.Fatal(err)
			}
			image := w.get(t, w.registry+"/app:2")
			for _, mediaType := range contents(t, image, w.trustee) {
				if !imagecrypt.Encrypted(mediaType) {
					t.Errorf("there is a layer %s", mediaType)
				}
			}
			raw, err := image.RawManifest()
			if err != nil {
				t.Fatal(err)
			}
			var manifest ocispec.Manifest
			if err := json.Unmarshal(raw, &manifest); err != nil {
				t.Fatal(err)
			}
			packets, err := imagecrypt.Packets(manifest.Layers[0])
			if err != nil || len(packets) != 1 {
				t.Fatalf("%d packets, %v", len(packets), err)
			}
			if p := packets[0]; p.WrapType != c.wrapType || c.kid != "" && p.KeyID != c.kid {
				t.Errorf("wrapped with %s by %s", p.WrapType, p.KeyID)
			}
		})
	}
}

func TestSkopeoDecryptsOurImages(t *testing.T) {
	w := newWorkshop(t)
	key := []byte("0123456789abcdef0123456789abcdef")
	file := w.write(t, "app.key", key)
	image := newImageOf(t, "app")
	src := w.push(t, "app:v1", image)
	must(t, "image", "encrypt", src, w.registry+"/app:2", "--key", imageKey, "--key-file", file)
	config := provide(t, w, "--no-trustee", "--unwrap", "--key-file", imageKey+"="+file)
	if err := skopeo(t, config, "--decryption-key", "provider:attestation-agent", "docker://"+w.registry+"/app:2", "docker://"+w.registry+"/app:3"); err != nil {
		t.Fatal(err)
	}
	for _, mediaType := range contents(t, w.get(t, w.registry+"/app:3"), w.trustee) {
		if imagecrypt.Encrypted(mediaType) {
			t.Errorf("there is a layer %s", mediaType)
		}
	}
}

func TestAttackKeyProviderUnwrapsForAnybody(t *testing.T) {
	key := secret.New([]byte("0123456789abcdef0123456789abcdef"))
	options := secret.New([]byte(`{"symkey":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","cipheroptions":{"nonce":"MDEyMzQ1Njc4OWFiY2RlZg=="}}`))
	packet, err := imagecrypt.Wrap(imageKey, key, imagecrypt.A256GCM, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(packet)
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(map[string]any{"op": "keyunwrap", "keyunwrapparams": map[string]any{"dc": nil, "annotation": text}})
	if err != nil {
		t.Fatal(err)
	}
	for _, allowed := range []bool{true, false} {
		held := &keyWrapper{keys: &imageKeys{held: map[string]heldKey{imageKey: {Bytes: key}}}, unwrap: allowed, log: t.Output()}
		answer, err := held.UnWrapKey(t.Context(), &cdh.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: request})
		if (err == nil) != allowed || bytes.Contains(answer.GetKeyProviderKeyWrapProtocolOutput(), []byte("optsdata")) != allowed {
			t.Errorf("unwrapping, allowed %t: %v", allowed, err)
		}
	}
}

func TestWrapParameters(t *testing.T) {
	for text, want := range map[string]wrapping{
		"keyid=kbs:///a/b/c": {"kbs:///a/b/c", "", imagecrypt.A256GCM},
		"keyid=kbs:///a/b/c::keypath=/k::algorithm=A256CTR": {"kbs:///a/b/c", "/k", imagecrypt.A256CTR},
		"sample=false::keyid=kbs:///a/b/c":                  {"kbs:///a/b/c", "", imagecrypt.A256GCM},
	} {
		if got, err := wrapParameters(map[string][]string{"attestation-agent": {text}}); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"sample=true", "keyid", "keyid=", "keyid=a::keyid=b", "key=a", "sample=maybe"} {
		if got, err := wrapParameters(map[string][]string{"attestation-agent": {text}}); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if got, err := wrapParameters(map[string][]string{"mine": {"Enabled"}}); err != nil || !strings.HasPrefix(got.kid, "kbs:///default/image-kek/") {
		t.Errorf("nothing: %+v, %v", got, err)
	}
	for _, all := range []map[string][]string{nil, {"a": {"keyid=a"}, "b": {"keyid=a"}}, {"attestation-agent": {"keyid=a", "keyid=b"}}} {
		if got, err := wrapParameters(all); err == nil {
			t.Errorf("%v: %+v", all, got)
		}
	}
}

func TestAttackKeyProviderBeyondLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", "192.0.2.1:0", "localhost:0", ":0"} {
		if l, err := listenForTools(t.Context(), address, false); err == nil {
			l.Close()
			t.Errorf("it listens at %s", address)
		}
	}
	path := filepath.Join(t.TempDir(), "keys.sock")
	l, err := listenForTools(t.Context(), "unix:"+path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
}
