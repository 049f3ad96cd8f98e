// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package busybox is a container image for commands that run a pod of their own (the demo, the benchmarks), and the
// registry on loopback that guests pull it from: no public registry is asked for anything.
//
// The image is the machine's static busybox. The registry trusts whoever reaches loopback, and forgets everything at
// its end.
package busybox

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Host is the host's loopback as a pod of `nacre run` sees it: the gateway of QEMU's user-mode network.
const Host = "10.0.2.2"

// Registry is a registry on loopback that holds the one image.
type Registry struct {
	server *http.Server
	done   chan struct{}
	// Address is where this machine finds it, host:port.
	Address string
	// Reference is the image by digest, under the address at which a pod finds it.
	Reference string
}

// Serve builds an image around the static busybox at path, and serves it until Close.
func Serve(ctx context.Context, path string) (*Registry, error) {
	image, err := newImage(path)
	if err != nil {
		return nil, fmt.Errorf("building the container image: %w", err)
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	r := &Registry{
		server: &http.Server{
			Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
			ReadHeaderTimeout: 10 * time.Second,
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(l) // ends with ErrServerClosed when Close is called
	}()
	port := l.Addr().(*net.TCPAddr).Port
	r.Address = fmt.Sprintf("127.0.0.1:%d", port)
	push, err := name.NewTag(r.Address + "/nacre/busybox:latest")
	if err == nil {
		err = remote.Write(push, image, remote.WithContext(ctx))
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("pushing the container image to the registry: %w", err)
	}
	r.Reference = fmt.Sprintf("%s:%d/nacre/busybox@%s", Host, port, digest)
	return r, nil
}

// Close ends the registry.
func (r *Registry) Close() {
	_ = r.server.Close()
	<-r.done
}

// newImage is an image of one layer: the program, a name for each applet that the pods use, and the folders that a
// container needs.
func newImage(program string) (v1.Image, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("%w (the package busybox-static holds it: run make deps)", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, body []byte) error {
		h.Size = int64(len(body))
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	}
	for _, dir := range []string{"bin/", "dev/", "etc/", "proc/", "root/", "sys/", "tmp/"} {
		if err := add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, text); err != nil {
		return nil, err
	}
	for _, applet := range []string{"sh", "cat", "echo", "id", "nc", "printf", "sleep", "uname", "wget"} {
		link := tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}
		if err := add(link, nil); err != nil {
			return nil, err
		}
	}
	users := tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}
	if err := add(users, []byte("root:x:0:0:root:/root:/bin/sh\n")); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config = v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}
	return mutate.ConfigFile(image, config)
}
