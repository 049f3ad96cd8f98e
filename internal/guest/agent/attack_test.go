// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// TestAttackVolumeInAVolume is a container and its host together: the container puts a link into what it can write, and
// the host has the agent make a volume where the link stands. The agent would follow it out of the sandbox, and give
// the container whatever the link points to.
func TestAttackVolumeInAVolume(t *testing.T) {
	for name, paths := range map[string][]string{
		"below a volume":                      {"a", "a/b"},
		"around a volume":                     {"a/b", "a"},
		"below the memory that all can write": {"shm/b"},
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t)
			base := filepath.Join(a.Dir, sandboxDir)
			if err := os.MkdirAll(filepath.Join(a.Dir, shmDir), 0o755); err != nil {
				t.Fatal(err)
			}
			for i, path := range paths {
				err := a.addVolume(&agent.Storage{Driver: driverLocal, MountPoint: filepath.Join(base, path)})
				if last := i == len(paths)-1; last && status.Code(err) != codes.InvalidArgument || !last && err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
		})
	}
}

// TestAttackVolumeOfAnotherPlace gives a volume a path that does not begin at the root directory: the agent's working
// directory is that.
func TestAttackVolumeOfAnotherPlace(t *testing.T) {
	a := testAgent(t)
	t.Chdir(t.TempDir())
	if err := a.addVolume(&agent.Storage{Driver: driverLocal, MountPoint: "etc/x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
}

// TestAttackCreate sends requests for containers that no honest host sends.
func TestAttackCreate(t *testing.T) {
	a := testAgent(t)
	good := func() *agent.CreateContainerRequest {
		return ordinary(func(r *agent.CreateContainerRequest) {
			r.Storages = []*agent.Storage{{Driver: driverImage, MountPoint: filepath.Join(a.Dir, "c1", "rootfs")}}
		})
	}
	if _, err := a.checkCreate(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*agent.CreateContainerRequest){
		"a path as id": func(r *agent.CreateContainerRequest) {
			r.ContainerId = "../c1"
			r.Storages[0].MountPoint = filepath.Join(a.Dir, "../c1/rootfs")
		},
		"the sandbox's name": func(r *agent.CreateContainerRequest) {
			r.ContainerId = sandboxDir
			r.Storages[0].MountPoint = filepath.Join(a.Dir, sandboxDir, "rootfs")
		},
		"the copied files' name": func(r *agent.CreateContainerRequest) {
			r.ContainerId = sharedDir
			r.Storages[0].MountPoint = filepath.Join(a.Dir, sharedDir, "rootfs")
		},
		"a path as exec id":  func(r *agent.CreateContainerRequest) { r.ExecId = "../c1" },
		"a device":           func(r *agent.CreateContainerRequest) { r.Devices = []*agent.Device{{}} },
		"a shared mount":     func(r *agent.CreateContainerRequest) { r.SharedMounts = []*agent.SharedMount{{}} },
		"shared processes":   func(r *agent.CreateContainerRequest) { r.SandboxPidns = true },
		"a disk for a root":  func(r *agent.CreateContainerRequest) { r.Storages[0].Driver = "blk" },
		"two images":         func(r *agent.CreateContainerRequest) { r.Storages = append(r.Storages, r.Storages[0]) },
		"an image elsewhere": func(r *agent.CreateContainerRequest) { r.Storages[0].MountPoint = "/usr" },
	} {
		t.Run(name, func(t *testing.T) {
			r := good()
			change(r)
			if _, err := a.checkCreate(r); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestAttackSandbox asks for a sandbox that reaches out of itself, and for a second one.
func TestAttackSandbox(t *testing.T) {
	for name, change := range map[string]func(*agent.CreateSandboxRequest){
		"a hook":            func(r *agent.CreateSandboxRequest) { r.GuestHookPath = "/hooks" },
		"a kernel module":   func(r *agent.CreateSandboxRequest) { r.KernelModules = []*agent.KernelModule{{Name: "x"}} },
		"shared processes":  func(r *agent.CreateSandboxRequest) { r.SandboxPidns = true },
		"lines in its name": func(r *agent.CreateSandboxRequest) { r.Hostname = "a\n6.6.6.6 broker" },
		"lines for hosts":   func(r *agent.CreateSandboxRequest) { r.Dns = []string{"6.6.6.6 broker"} },
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t)
			r := &agent.CreateSandboxRequest{SandboxId: "s"}
			change(r)
			if _, err := a.CreateSandbox(t.Context(), r); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a second one", func(t *testing.T) {
		a := testAgent(t)
		r := &agent.CreateSandboxRequest{SandboxId: "s"}
		if _, err := a.CreateSandbox(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if _, err := a.CreateSandbox(t.Context(), r); status.Code(err) != codes.AlreadyExists {
			t.Errorf("%v", err)
		}
	})
}

// TestAttackHostname is a host that gives the pod's address, which it routes, a name that containers trust.
func TestAttackHostname(t *testing.T) {
	for _, name := range []string{
		"localhost", "LocalHost", "localhost.localdomain", "localhost.", "ip6-localhost", "IP6-loopback", "ip6-allnodes",
		"broker.example", ".", "-a", "a-", "a_b", "a b", "a\tb", "ä", strings.Repeat("a", 64),
	} {
		a := testAgent(t)
		r := &agent.CreateSandboxRequest{SandboxId: "s", Hostname: name}
		if _, err := a.CreateSandbox(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "web-0", "Web", "localhost1", "ip6", strings.Repeat("a", 63)} {
		if err := checkHostname(name); err != nil {
			t.Error(err)
		}
	}
}

// TestAttackBeforeThePolicy asks an agent that has not been given a policy yet.
func TestAttackBeforeThePolicy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // an agent that does serve ends at once, too
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("it serves: %v", p)
		}
	}()
	a := New(Config{Log: slog.New(slog.DiscardHandler), Dir: t.TempDir()})
	if err := a.Serve(t.Context(), l); err == nil || err.Error() != "serving the agent protocol: there is no policy" {
		t.Errorf("%v", err)
	}
}
