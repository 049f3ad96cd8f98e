// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nacre-project/nacre/internal/cli/busybox"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

// imagePod is the manifest of the pods of this chapter, which differ in the image.
const imagePod = `apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  runtimeClassName: nacre
  restartPolicy: Never
  containers:
  - name: app
    image: %s
    command: ["sh", "-c", "echo I am an image that nobody outside can read"]
`

// imagePods are the pods of this chapter, each with a repository and a key of its name. All demand the owner's signature.
var imagePods = []string{"encrypted", "wrong-key", "changed-layer", "unsigned"}

// keyOf is the resource that holds the key of a pod's image. Images say themselves by which key they are encrypted.
func keyOf(pod string) string { return "default/image-key/" + pod }

// makeImages has the owner encrypt and sign her images, and write the pods that run them.
func (s *story) makeImages(ctx context.Context) error {
	return s.report.step("owner-encrypts-image", "The owner encrypts an image and signs it; its key goes into the trustee", false, func(st *Step) error {
		var err error
		if s.network, err = startNetwork(ctx, s.registry.Address); err != nil {
			return err
		}
		for i, pod := range imagePods {
			run := s.programs.quiet
			if i == 0 {
				run = s.programs.run
			}
			pushed := s.registry.Address + "/nacre/" + pod + ":1"
			if _, err := run(ctx, nil, "image", "encrypt", s.registry.Address+"/nacre/busybox:latest", pushed, "--key", "kbs:///"+keyOf(pod)); err != nil {
				return err
			}
			if pod == "unsigned" {
				continue
			}
			args := []string{"image", "sign", pushed, "--key", "release.key", "--identity", s.network.forPods + "/nacre/" + pod}
			if i == 0 {
				args = append(args, "--new-key")
			}
			if _, err := s.programs.quiet(ctx, nil, args...); err != nil {
				return err
			}
		}
		return s.writeImagePods(ctx)
	})
}

// writeImagePods writes the manifests, with init-data that demands the owner's signature.
func (s *story) writeImagePods(ctx context.Context) error {
	public, err := os.ReadFile(filepath.Join(s.path("files"), "release.key.pub"))
	if err != nil {
		return err
	}
	policy, err := json.Marshal(map[string]any{"default": []any{map[string]any{
		"type": "sigstoreSigned", "keyData": public, "signedIdentity": map[string]any{"type": "matchRepository"},
	}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.path("files"), "image-policy.json"), policy, 0o600); err != nil {
		return err
	}
	for _, pod := range imagePods {
		tag, err := name.NewTag(s.registry.Address + "/nacre/" + pod + ":1")
		if err != nil {
			return err
		}
		image, err := remote.Head(tag, remote.WithContext(ctx))
		if err != nil {
			return err
		}
		manifest := fmt.Appendf(nil, imagePod, pod, s.network.forPods+"/nacre/"+pod+"@"+image.Digest.String())
		if err := os.WriteFile(filepath.Join(s.path("files"), pod+".yaml"), manifest, 0o600); err != nil {
			return err
		}
		if _, err := s.programs.quiet(ctx, nil, "initdata", "create", "--trustee", s.forPods, "--trustee-cert", s.trusteeCert(),
			"--image-policy", "image-policy.json", "--pod", pod+".yaml", "--out", pod+".initdata.toml"); err != nil {
			return err
		}
	}
	return nil
}

// encryptedPod is the twin of the attempts on images.
func (s *story) encryptedPod(ctx context.Context) error {
	return s.report.step("encrypted-image-runs", "A pod of the encrypted, signed image runs; its guest asks for the image's key", false, func(st *Step) error {
		output, err := s.programs.run(ctx, nil, "run", "encrypted.yaml", "--simtee-dir", s.path("simtee"))
		if err == nil && !bytes.Contains(output, []byte("nobody outside can read")) {
			err = errors.New("the pod did not print what it should")
		}
		return err
	})
}

// imageAttacks are the host's attempts on images: he has the registry, the network, and the choice of init-data.
func (s *story) imageAttacks(ctx context.Context) error {
	attempt := func(name, title, pod string, prepare func() ([]byte, error)) error {
		return s.report.step(name, title, true, func(st *Step) error {
			initData, err := prepare()
			if err != nil {
				return err
			}
			st.Twin = "the same way, the encrypted image of the owner ran under her init-data"
			r, err := s.tryImage(ctx, name, pod, initData)
			if err != nil {
				return err
			}
			return s.refused(ctx, st, r)
		})
	}
	ownInitData := func(pod string) func() ([]byte, error) {
		return func() ([]byte, error) { return os.ReadFile(filepath.Join(s.path("files"), pod+".initdata.toml")) }
	}
	var errs []error
	next := func(err error) bool {
		errs = append(errs, err)
		return ctx.Err() == nil
	}
	_ = next(attempt("encrypted-image-without-key", "The host runs the encrypted image under init-data of its own", "encrypted", func() ([]byte, error) {
		return s.hostsInitData()
	})) && next(attempt("encrypted-image-wrong-key", "The key that the trustee has is not the image's", "wrong-key", func() ([]byte, error) {
		other := make([]byte, 32)
		if _, err := rand.Read(other); err != nil {
			return nil, err
		}
		if _, err := s.programs.quiet(ctx, other, "secret", "put", keyOf("wrong-key")); err != nil {
			return nil, err
		}
		return ownInitData("wrong-key")()
	})) && next(attempt("changed-layer", "The host changes a layer on its way", "changed-layer", ownInitData("changed-layer"))) &&
		next(attempt("unsigned-image", "An image without a signature, where one is demanded", "unsigned", ownInitData("unsigned")))
	if ctx.Err() != nil {
		return errors.Join(append(errs, context.Cause(ctx))...)
	}
	return nil
}

// tryImage runs a pod of this chapter, which must be refused, and says by whom.
func (s *story) tryImage(ctx context.Context, name, podName string, initData []byte) (refusal, error) {
	manifest, err := os.ReadFile(filepath.Join(s.path("files"), podName+".yaml"))
	if err != nil {
		return refusal{}, err
	}
	p, err := pod.Parse(manifest)
	if err != nil {
		return refusal{}, err
	}
	cfg := s.guest()
	cfg.InitData = initData
	var console bytes.Buffer
	cfg.Console = &console
	defer func() { _ = os.WriteFile(s.path("files/console-"+name+".log"), console.Bytes(), 0o600) }()
	vm, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return refusal{}, err
	}
	defer vm.Stop()
	_, err = pod.Run(ctx, vm.Agent(), p, pod.Options{Output: func(string) (io.Writer, io.Writer) { return io.Discard, io.Discard }})
	if err == nil || ctx.Err() != nil {
		return refusal{}, errors.Join(err, context.Cause(ctx))
	}
	return imageRefusal(err.Error())
}

// What a guest says when it does not take an image: codes, each of which is the cause of the one before, and the request that the trustee knows.
var (
	imageCode    = regexp.MustCompile(`\b((?:image|signature|key|layer|packet|policy)_[a-z_]+)\b`)
	imageRequest = regexp.MustCompile(`\[request ([^\]]+)\]`)
)

// imageRefusal is the refusal in the error with which a guest answers. The innermost cause is who refused.
func imageRefusal(text string) (refusal, error) {
	found := imageCode.FindAllString(text, -1)
	if len(found) == 0 {
		return refusal{}, fmt.Errorf("the container was not made, for another reason than its image: %s", text)
	}
	r := refusal{By: "guest", Code: found[len(found)-1], Text: text}
	if request := imageRequest.FindStringSubmatch(text); request != nil {
		r.By, r.RequestID = "trustee", request[1]
	}
	return r, nil
}

// network is the way from the pods to the registry, which is the host's: what comes by for the repository "changed-layer" loses a bit.
type network struct {
	server  *http.Server
	done    chan struct{}
	forPods string // host:port as pods see it
}

func startNetwork(ctx context.Context, registry string) (*network, error) {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	proxy.ModifyResponse = func(r *http.Response) error {
		if strings.HasPrefix(r.Request.URL.Path, "/v2/nacre/changed-layer/blobs/") && r.ContentLength > 1<<16 {
			r.Body = &flipped{r.Body, 1 << 15}
		}
		return nil
	}
	n := &network{server: &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}, done: make(chan struct{})}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	n.forPods = net.JoinHostPort(busybox.Host, port)
	go func() {
		defer close(n.done)
		_ = n.server.Serve(l) // ends with ErrServerClosed when close is called
	}()
	return n, nil
}

func (n *network) close() {
	_ = n.server.Close()
	<-n.done
}

// flipped is a body one bit of which is flipped, after so many bytes.
type flipped struct {
	io.ReadCloser
	after int
}

func (f *flipped) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if f.after >= 0 && f.after < n {
		b[f.after] ^= 1
	}
	f.after -= n
	return n, err
}
