// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nacre-project/nacre/internal/cli/busybox"
	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/test/brokertest"
)

// An image that skopeo has encrypted with our key provider runs in a real guest, which gets the key from its broker.
func TestRunImageEncryptedBySkopeo(t *testing.T) {
	dir := os.Getenv("NACRE_IMAGE_DIR")
	if testing.Short() || dir == "" {
		t.Skip("boots a guest: not with -short, and NACRE_IMAGE_DIR must name an image; `make test` builds one and sets it")
	}
	guest, err := guestos.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkshop(t)
	config := provide(t, w)
	plain, err := busybox.Serve(t.Context(), "/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	if err := skopeo(t, config, "--encryption-key", "provider:attestation-agent:keyid="+imageKey,
		"docker://"+plain.Address+"/nacre/busybox:latest", "docker://"+w.registry+"/app:2"); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(w.registry + "/app:2")
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Head(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}

	b := brokertest.New(t)
	for path, key := range w.trustee.held {
		b.Resources[path] = string(key)
	}
	inPods := func(address string) string { return strings.Replace(address, "127.0.0.1", busybox.Host, 1) }
	manifest := w.write(t, "pod.yaml", fmt.Appendf(nil, "apiVersion: v1\nkind: Pod\nmetadata: {name: test}\nspec:\n  restartPolicy: Never\n"+
		"  containers:\n  - {name: app, image: \"%s/app@%s\", command: [echo, decrypted]}\n", inPods(w.registry), image.Digest))
	must(t, "initdata", "create", "--trustee", inPods(b.URL), "--trustee-cert", w.write(t, "broker.pem", []byte(b.Pin)),
		"--pod", manifest, "--out", w.dir+"/initdata.toml")
	initData, err := os.ReadFile(w.dir + "/initdata.toml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pod.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := sandbox.Start(t.Context(), sandbox.Config{Image: guest, Platform: brokertest.Platform(t), InitData: initData, Console: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	var stdout bytes.Buffer
	code, err := pod.Run(t.Context(), vm.Agent(), p, pod.Options{Output: func(string) (io.Writer, io.Writer) { return &stdout, t.Output() }})
	if err != nil || code != 0 || stdout.String() != "decrypted\n" {
		t.Errorf("code %d, %v, printed %q", code, err, stdout.String())
	}
}
