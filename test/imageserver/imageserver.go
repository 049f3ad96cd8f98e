// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package imageserver is an image registry on loopback for tests that run containers in guests. It holds one image, made of the
// machine's static busybox: no public registry is asked for anything. It is for tests only, and trusts them.
package imageserver

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// hostFromGuest is the host's loopback as a guest sees it.
const hostFromGuest = "10.0.2.2"

// Server serves until Close.
type Server struct {
	http *httptest.Server
	// Busybox is the image by digest, under the address at which a guest finds it. Its entry point is /bin/echo entrypoint, and
	// its environment has FROM=image.
	Busybox string
}

// Start starts a registry with the image in it.
func Start() (*Server, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (package busybox-static; `make deps` installs it)", err)
	}
	s := &Server{http: httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}
	if err := s.push(program); err != nil {
		s.Close()
		return nil, fmt.Errorf("putting busybox into a registry on loopback: %w", err)
	}
	return s, nil
}

// Close ends the registry.
func (s *Server) Close() { s.http.Close() }

func (s *Server) push(program []byte) error {
	image, err := busybox(program)
	if err != nil {
		return err
	}
	port := s.http.Listener.Addr().(*net.TCPAddr).Port
	tag, err := name.NewTag(fmt.Sprintf("127.0.0.1:%d/test/busybox:latest", port))
	if err != nil {
		return err
	}
	if err := remote.Write(tag, image); err != nil {
		return err
	}
	digest, err := image.Digest()
	s.Busybox = fmt.Sprintf("%s:%d/test/busybox@%s", hostFromGuest, port, digest)
	return err
}

func busybox(program []byte) (v1.Image, error) {
	layer, err := layer(program)
	if err != nil {
		return nil, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = "amd64", "linux"
	file.Config = v1.Config{Entrypoint: []string{"/bin/echo", "entrypoint"}, Env: []string{"FROM=image"}}
	return mutate.ConfigFile(image, file)
}

func layer(program []byte) ([]byte, error) {
	files := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o777},
	}
	for _, applet := range []string{"sh", "cat", "echo", "id", "sleep", "wget"} {
		files = append(files, tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777})
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var errs []error
	for _, h := range files {
		errs = append(errs, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write(program)
			errs = append(errs, err)
		}
	}
	return out.Bytes(), errors.Join(append(errs, w.Close())...)
}
