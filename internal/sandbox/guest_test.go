// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/cli/busybox"
	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

// These tests boot real guests. They share the platform, the registry and the answer whether KVM works.
var shared struct {
	sync.Once
	err      error
	image    *guestos.Image
	platform *signer.Platform
	cache    string
	images   *busybox.Registry
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.images != nil {
		shared.images.Close()
	}
	if shared.cache != "" {
		os.RemoveAll(shared.cache)
	}
	os.Exit(code)
}

// config returns what an honest guest is started with, or skips the test where guests cannot run.
func config(t *testing.T) sandbox.Config {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest; not with -short")
	}
	dir := os.Getenv("NACRE_IMAGE_DIR")
	if dir == "" {
		t.Skip("NACRE_IMAGE_DIR names no guest image; `make test` builds one and sets it")
	}
	shared.Do(func() { shared.err = share(dir) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return sandbox.Config{
		Image: shared.image, Platform: shared.platform, CacheDir: shared.cache, MemoryMiB: 768,
		Events: func(e sandbox.Event) {
			if e.Done {
				t.Logf("%s: %s (%v)", e.Step, e.Text, e.Took.Round(time.Millisecond))
			}
		},
	}
}

func share(dir string) (err error) {
	if shared.image, err = guestos.Load(dir); err != nil {
		return err
	}
	if shared.cache, err = os.MkdirTemp("", "nacre-test-"); err != nil {
		return err
	}
	if shared.platform, err = signer.Open(filepath.Join(shared.cache, "simtee")); err != nil {
		return err
	}
	shared.images, err = busybox.Serve(context.Background(), "/bin/busybox")
	return err
}

// start boots a guest that is gone when the test ends.
func start(t *testing.T, cfg sandbox.Config) *sandbox.VM {
	t.Helper()
	vm, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Stop)
	return vm
}

// manifest is a pod of the shared image; the text uses IMAGE for its reference.
func manifest(t *testing.T, text string) string {
	t.Helper()
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: test}\nspec:\n" + strings.ReplaceAll(text, "IMAGE", shared.images.Reference)
}

// run runs a pod and returns its exit code and what its containers printed, by container.
func run(t *testing.T, vm *sandbox.VM, text string, events func(pod.Event)) (int, map[string]string, error) {
	t.Helper()
	p, err := pod.Parse([]byte(manifest(t, text)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	printed := map[string]string{}
	keep := func(container string) io.Writer {
		return writer(func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			printed[container] += string(b)
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	code, err := pod.Run(ctx, vm.Agent(), p, pod.Options{
		Output: func(c string) (io.Writer, io.Writer) { return keep(c), keep(c + " stderr") },
		Events: events,
	})
	return code, printed, err
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

const story = `
  restartPolicy: Never
  initContainers:
  - {name: prepare, image: "IMAGE", command: [sh, -c, "echo hello > /shared/greeting"], volumeMounts: [{name: v, mountPath: /shared}]}
  containers:
  - name: main
    image: "IMAGE"
    command: [sh, -c, "cat /shared/greeting; echo $PATH $MINE; id -u; echo oops >&2; exit 7"]
    env: [{name: MINE, value: "$(NOBODY)x"}]
    securityContext: {runAsUser: 1234}
    volumeMounts: [{name: v, mountPath: /shared, readOnly: true}]
  - {name: plain, image: "IMAGE"}
  - {name: appended, image: "IMAGE", args: [echo, appended]}
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
`

func TestPodRuns(t *testing.T) {
	vm := start(t, config(t))
	if vm.Launch().HostData != ([32]byte{}) {
		t.Error("host data is bound although there is no init-data")
	}
	predicted, err := sandbox.Predict(shared.image, 0, nil)
	if err != nil || predicted != vm.Launch() {
		t.Errorf("launched %+v, predicted %+v (%v)", vm.Launch(), predicted, err)
	}
	// While the pod runs, its host tries what the image's policy does not allow.
	var attempts sync.Once
	code, printed, err := run(t, vm, story, func(e pod.Event) {
		t.Logf("%s: %s (%v)", e.Container, e.State, e.Took.Round(time.Millisecond))
		if e.State != pod.Started || e.Container != "main" {
			return
		}
		attempts.Do(func() { forbidden(t, vm, e.ID) })
	})
	if err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, strings.Join(vm.Console(30), "\n"))
	}
	if code != 7 {
		t.Errorf("exit code %d", code)
	}
	for container, want := range map[string]string{
		"main": "hello\n/bin $(NOBODY)x\n1234\n", "main stderr": "oops\n", "plain": "", "appended": "appended\n",
	} {
		if printed[container] != want {
			t.Errorf("%s printed %q, want %q", container, printed[container], want)
		}
	}
	select {
	case <-vm.Done():
	case <-time.After(time.Minute):
		t.Error("the guest did not power off after its sandbox was destroyed")
	}
}

func forbidden(t *testing.T, vm *sandbox.VM, id string) {
	for what, request := range map[string]func() error{
		"exec": func() error {
			_, err := vm.Agent().ExecProcess(t.Context(), &agent.ExecProcessRequest{
				ContainerId: id, ExecId: "e", Process: &agent.Process{Args: []string{"/bin/sh"}, User: &agent.User{}},
			})
			return err
		},
		"copy a file": func() error {
			_, err := vm.Agent().CopyFile(t.Context(), &agent.CopyFileRequest{Path: "/run/x", Data: []byte("x")})
			return err
		},
		"set the policy": func() error {
			_, err := vm.Agent().SetPolicy(t.Context(), &agent.SetPolicyRequest{Policy: "package agent_policy"})
			return err
		},
		"set the clock": func() error {
			_, err := vm.Agent().SetGuestDateTime(t.Context(), &agent.SetGuestDateTimeRequest{Sec: 1})
			return err
		},
	} {
		if err := request(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("the host may %s: %v", what, err)
		}
	}
}

// requests are those that create the containers of a pod.
func requests(t *testing.T, text string) []*agent.CreateContainerRequest {
	t.Helper()
	p, err := pod.Parse([]byte(manifest(t, text)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := pod.CreateRequests(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ownInitData is init-data whose policy allows the containers of a pod.
func ownInitData(t *testing.T, text string) []byte {
	t.Helper()
	rego, err := policygen.Pod{Requests: requests(t, text), AllowLogs: true}.Rego()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256,
		Files: map[string]string{initdata.AgentPolicy: rego}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const allowed = `
  restartPolicy: Never
  containers: [{name: main, image: "IMAGE", command: [echo, allowed]}]
`

func TestOwnPolicyDecides(t *testing.T) {
	cfg := config(t)
	cfg.InitData = ownInitData(t, allowed)
	vm := start(t, cfg)
	if vm.Launch().HostData == ([32]byte{}) {
		t.Error("no host data is bound")
	}
	var attempt sync.Once
	code, printed, err := run(t, vm, allowed, func(pod.Event) {
		attempt.Do(func() {
			// Another command of the same image, while the sandbox is there.
			r := requests(t, strings.Replace(allowed, "[echo, allowed]", "[cat, /etc/hosts]", 1))[0]
			r.ContainerId = "other"
			if _, err := vm.Agent().CreateContainer(t.Context(), r); status.Code(err) != codes.PermissionDenied {
				t.Errorf("another command: %v", err)
			}
		})
	})
	if err != nil || code != 0 || printed["main"] != "allowed\n" {
		t.Errorf("code %d, printed %q, %v", code, printed, err)
	}
}

// The host deviates in one thing, and the guest refuses to come up.
func TestGuestRefuses(t *testing.T) {
	cfg := config(t)
	cfg.InitData = ownInitData(t, allowed)
	root, err := os.ReadFile(shared.image.Rootfs)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "rootfs.img")
	root[len(root)/3] ^= 1
	root[1024] ^= 1 // in the super block, which is always read
	if err := os.WriteFile(changed, root, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tamper sandbox.Tamper
		code   string
	}{
		"changed root image":      {sandbox.Tamper{Rootfs: changed}, "root_verity"},
		"other init-data":         {sandbox.Tamper{InitDataOnDevice: ownInitData(t, story)}, "init_data_mismatch"},
		"withheld init-data":      {sandbox.Tamper{WithholdInitData: true}, "init_data_mismatch"},
		"unknown guest parameter": {sandbox.Tamper{ExtraCmdline: "nacre.debug=1"}, "cmdline_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg
			cfg.Tamper = c.tamper
			vm, err := sandbox.Start(t.Context(), cfg)
			if err == nil {
				vm.Stop()
				t.Fatal("the guest came up")
			}
			var refused *sandbox.GuestRefused
			if !errors.As(err, &refused) || refused.Code != c.code {
				t.Errorf("got %v, want a refusal with code %s", err, c.code)
			}
		})
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Events = func(e sandbox.Event) {
		if e.Step == sandbox.StepBoot && !e.Done {
			cancel()
		}
	}
	if vm, err := sandbox.Start(ctx, cfg); !errors.Is(err, context.Canceled) {
		if err == nil {
			vm.Stop()
		}
		t.Errorf("got %v", err)
	}
}
