// SPDX-License-Identifier: Apache-2.0

//go:build linux

package policygen_test

import (
	"context"
	"flag"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
	guest "github.com/nacre-project/nacre/internal/guest/agent"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

var update = flag.Bool("update", false, "write the golden files anew")

const manifest = `
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: registry.example/app@sha256:aa
    args: [serve, "--all"]
    env: [{name: MODE, value: "a=b"}]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: second
    image: registry.example/other@sha256:bb
    command: [/bin/other]
    securityContext: {runAsUser: 1000}
  volumes: [{name: scratch, emptyDir: {}}]
`

func requests(t *testing.T) []*agent.CreateContainerRequest {
	t.Helper()
	p, err := pod.Parse([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	r, err := pod.CreateRequests(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asked puts a message to a guest's gate with the policy.
func asked(t *testing.T, rego string, message proto.Message) bool {
	t.Helper()
	gate, err := guest.NewGate(t.Context(), rego, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(target any) error { return proto.Unmarshal(encoded, target.(proto.Message)) }
	target := message.ProtoReflect().New().Interface()
	_, err = gate.Intercept(t.Context(), decode, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/Test"},
		func(_ context.Context, decode func(any) error) (any, error) { return nil, decode(target) })
	if err != nil && status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	return err == nil
}

func rego(t *testing.T, p policygen.Pod) string {
	t.Helper()
	text, err := p.Rego()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	got := rego(t, policygen.Pod{Requests: requests(t), Images: []string{"registry.example/tool@sha256:cc"}, AllowLogs: true})
	const file = "testdata/policy.rego"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the policy changed; run the test with -update and read the difference:\n%s", got)
	}
}

func TestThePodItselfMayRun(t *testing.T) {
	text := rego(t, policygen.Pod{Requests: requests(t), AllowLogs: true})
	for _, r := range requests(t) {
		// What the host fills in when it runs the pod.
		r.ContainerId, r.OCI.Hostname, r.OCI.Process.Env[0] = "c1", "web-0", "HOSTNAME=web-0"
		if !asked(t, text, r) {
			t.Errorf("container %s is refused", r.OCI.Annotations["io.kubernetes.cri.container-name"])
		}
	}
	for _, message := range []proto.Message{
		&agent.UpdateInterfaceRequest{}, &agent.UpdateRoutesRequest{}, &agent.CreateSandboxRequest{}, &agent.StartContainerRequest{},
		&agent.WaitProcessRequest{}, &agent.SignalProcessRequest{}, &agent.ReadStreamRequest{}, &agent.RemoveContainerRequest{},
		&agent.DestroySandboxRequest{},
	} {
		if !asked(t, text, message) {
			t.Errorf("%T is refused", message)
		}
	}
}

// TestAttackMounts is a host that mounts memory over what the image holds, or leaves out what the owner mounts.
func TestAttackMounts(t *testing.T) {
	with, without := requests(t), requests(t)
	without[0].OCI.Mounts = nil
	for name, pods := range map[string][2][]*agent.CreateContainerRequest{
		"where the owner has none":      {without, with},
		"none where the owner has some": {with, without},
	} {
		if asked(t, rego(t, policygen.Pod{Requests: pods[0]}), pods[1][0]) {
			t.Errorf("%s: allowed", name)
		}
	}
	if !asked(t, rego(t, policygen.Pod{Requests: without}), without[0]) {
		t.Error("a container without mounts is refused")
	}
}

// deviates evaluates the rule for the first container's request with one change.
func deviates(t *testing.T, change func(r *agent.CreateContainerRequest)) {
	t.Helper()
	r := requests(t)[0]
	change(r)
	if asked(t, rego(t, policygen.Pod{Requests: requests(t)}), r) {
		t.Error("allowed")
	}
}

// TestAttackResourceLimit is a host that sets a limit under which a program writes half of a file.
func TestAttackResourceLimit(t *testing.T) {
	deviates(t, func(r *agent.CreateContainerRequest) {
		r.OCI.Process.Rlimits = []*agent.POSIXRlimit{{Type: "RLIMIT_FSIZE", Hard: 1, Soft: 1}}
	})
}

// TestAttackOutOfMemoryScore is a host that chooses which container ends first.
func TestAttackOutOfMemoryScore(t *testing.T) {
	deviates(t, func(r *agent.CreateContainerRequest) { r.OCI.Process.OOMScoreAdj = 1000 })
}

// TestAttackFewerCapabilities is a host that takes capabilities away: a program that cannot give up its user goes on as root.
func TestAttackFewerCapabilities(t *testing.T) {
	for name, set := range map[string]func(c *agent.LinuxCapabilities) *[]string{
		"bounding":  func(c *agent.LinuxCapabilities) *[]string { return &c.Bounding },
		"effective": func(c *agent.LinuxCapabilities) *[]string { return &c.Effective },
		"permitted": func(c *agent.LinuxCapabilities) *[]string { return &c.Permitted },
	} {
		t.Run(name, func(t *testing.T) {
			deviates(t, func(r *agent.CreateContainerRequest) {
				s := set(r.OCI.Process.Capabilities)
				*s = (*s)[1:]
			})
		})
	}
	t.Run("unsaid", func(t *testing.T) {
		deviates(t, func(r *agent.CreateContainerRequest) { r.OCI.Process.Capabilities = nil })
	})
}

// TestAttackMoreCapabilities is a host that lets programs inherit what the owner gives to the first one only.
func TestAttackMoreCapabilities(t *testing.T) {
	for name, change := range map[string]func(c *agent.LinuxCapabilities){
		"inheritable": func(c *agent.LinuxCapabilities) { c.Inheritable = c.Bounding },
		"ambient":     func(c *agent.LinuxCapabilities) { c.Ambient = c.Bounding },
	} {
		t.Run(name, func(t *testing.T) {
			deviates(t, func(r *agent.CreateContainerRequest) { change(r.OCI.Process.Capabilities) })
		})
	}
}

// What a request has, with numbers beyond a float's, is what the policy made of it allows.
func TestLimitsOfTheOwner(t *testing.T) {
	all := requests(t)
	all[0].OCI.Process.Rlimits = []*agent.POSIXRlimit{{Type: "RLIMIT_FSIZE", Hard: math.MaxUint64, Soft: math.MaxUint64 - 1}}
	all[0].OCI.Process.OOMScoreAdj = 7
	all[1].OCI.Process.Capabilities = nil
	text := rego(t, policygen.Pod{Requests: all})
	for _, r := range all {
		if !asked(t, text, r) {
			t.Errorf("%s is refused", r.OCI.Annotations["io.kubernetes.cri.container-name"])
		}
	}
	all[0].OCI.Process.Rlimits[0].Soft--
	if asked(t, text, all[0]) {
		t.Error("another limit is allowed")
	}
}

// The order of capabilities has no meaning.
func TestCapabilitiesAreSets(t *testing.T) {
	r := requests(t)[0]
	c := r.OCI.Process.Capabilities
	c.Bounding = slices.Clone(c.Bounding)
	slices.Reverse(c.Bounding)
	if !asked(t, rego(t, policygen.Pod{Requests: requests(t)}), r) {
		t.Error("refused")
	}
}

// TestAttackVolume is a host that makes a volume of the pod otherwise than its owner says.
func TestAttackVolume(t *testing.T) {
	for name, change := range map[string]func(r *agent.CreateContainerRequest, s *agent.Storage){
		"elsewhere":      func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.MountPoint += "2" },
		"smaller":        func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.Options = append(s.Options, "size=4096") },
		"another type":   func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.Fstype = "ext4" },
		"another source": func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.Source = "/dev/vdb" },
		"a directory":    func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.Driver = "local" },
		"a group":        func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.FsGroup = &agent.FSGroup{GroupId: 7} },
		"driver options": func(_ *agent.CreateContainerRequest, s *agent.Storage) { s.DriverOptions = []string{"x"} },
		"missing":        func(r *agent.CreateContainerRequest, _ *agent.Storage) { r.Storages = r.Storages[:1] },
		"one more": func(r *agent.CreateContainerRequest, s *agent.Storage) {
			more := proto.CloneOf(s)
			more.MountPoint += "2"
			r.Storages = append(r.Storages, more)
		},
	} {
		t.Run(name, func(t *testing.T) {
			deviates(t, func(r *agent.CreateContainerRequest) { change(r, r.Storages[1]) })
		})
	}
}

// TestAttackSandboxVolume is a host that makes a container's volume before the container does, and in its own way.
func TestAttackSandboxVolume(t *testing.T) {
	text := rego(t, policygen.Pod{Requests: requests(t)})
	sandbox := func(change func(s *agent.Storage)) *agent.CreateSandboxRequest {
		s := &agent.Storage{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/shm",
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}
		change(s)
		return &agent.CreateSandboxRequest{Storages: []*agent.Storage{s}}
	}
	if !asked(t, text, sandbox(func(*agent.Storage) {})) {
		t.Fatal("the pod's own shared memory is refused")
	}
	for name, change := range map[string]func(s *agent.Storage){
		"a container's volume": func(s *agent.Storage) { s.MountPoint = "/run/kata-containers/sandbox/ephemeral/scratch" },
		"another mode":         func(s *agent.Storage) { s.Options[3] = "mode=0700" },
		"a type":               func(s *agent.Storage) { s.Fstype = "ext4" },
		"a group":              func(s *agent.Storage) { s.FsGroup = &agent.FSGroup{} },
		"driver options":       func(s *agent.Storage) { s.DriverOptions = []string{"x"} },
	} {
		if asked(t, text, sandbox(change)) {
			t.Errorf("%s: allowed", name)
		}
	}
}

// The host changes one thing about a container that the policy allows.
func TestNothingElseMayRun(t *testing.T) {
	text := rego(t, policygen.Pod{Requests: requests(t)})
	for name, change := range map[string]func(r *agent.CreateContainerRequest){
		"another image":      func(r *agent.CreateContainerRequest) { r.Storages[0].Source = "registry.example/evil@sha256:aa" },
		"a second image":     func(r *agent.CreateContainerRequest) { r.Storages = append(r.Storages, r.Storages[0]) },
		"no image":           func(r *agent.CreateContainerRequest) { r.Storages = r.Storages[1:] },
		"a disk of the host": func(r *agent.CreateContainerRequest) { r.Storages[1].Driver = "blk" },
		"another argument":   func(r *agent.CreateContainerRequest) { r.OCI.Process.Args[1] = "--none" },
		"one more argument":  func(r *agent.CreateContainerRequest) { r.OCI.Process.Args = append(r.OCI.Process.Args, "x") },
		"no arguments":       func(r *agent.CreateContainerRequest) { r.OCI.Process.Args = nil },
		"not after the entry point": func(r *agent.CreateContainerRequest) {
			delete(r.OCI.Annotations, "io.nacre.image.args")
		},
		"another user":       func(r *agent.CreateContainerRequest) { r.OCI.Process.User.UID = 7 },
		"a user by name":     func(r *agent.CreateContainerRequest) { r.OCI.Process.User.Username = "admin" },
		"another group":      func(r *agent.CreateContainerRequest) { r.OCI.Process.User.AdditionalGids = []uint32{7} },
		"LD_PRELOAD":         func(r *agent.CreateContainerRequest) { r.OCI.Process.Env = append(r.OCI.Process.Env, "LD_PRELOAD=/x") },
		"a changed variable": func(r *agent.CreateContainerRequest) { r.OCI.Process.Env[1] = "MODE=c" },
		"a missing variable": func(r *agent.CreateContainerRequest) { r.OCI.Process.Env = r.OCI.Process.Env[:1] },
		"a smuggled variable": func(r *agent.CreateContainerRequest) {
			r.OCI.Process.Env[0] = "HOSTNAME=a\nLD_PRELOAD=/x"
		},
		"another directory": func(r *agent.CreateContainerRequest) { r.OCI.Process.Cwd = "/proc" },
		"a terminal":        func(r *agent.CreateContainerRequest) { r.OCI.Process.Terminal = true },
		"a capability": func(r *agent.CreateContainerRequest) {
			r.OCI.Process.Capabilities.Ambient = []string{"CAP_SYS_ADMIN"}
		},
		"another mount": func(r *agent.CreateContainerRequest) {
			r.OCI.Mounts = append(r.OCI.Mounts, &agent.Mount{Destination: "/x", Source: "/run", Type: "bind"})
		},
		"another source":   func(r *agent.CreateContainerRequest) { r.OCI.Mounts[len(r.OCI.Mounts)-1].Source = "/run" },
		"a device":         func(r *agent.CreateContainerRequest) { r.Devices = []*agent.Device{{Type: "blk"}} },
		"shared mounts":    func(r *agent.CreateContainerRequest) { r.SharedMounts = []*agent.SharedMount{{}} },
		"pids of the pod":  func(r *agent.CreateContainerRequest) { r.SandboxPidns = true },
		"no specification": func(r *agent.CreateContainerRequest) { r.OCI = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := requests(t)[0]
			change(r)
			if asked(t, text, r) {
				t.Error("allowed")
			}
		})
	}
}

func TestDeniedUnlessAllowed(t *testing.T) {
	none := rego(t, policygen.Pod{})
	for _, message := range []proto.Message{
		&agent.ExecProcessRequest{}, &agent.WriteStreamRequest{}, &agent.ReadStreamRequest{}, &agent.CopyFileRequest{},
		&agent.SetPolicyRequest{}, &agent.CreateContainerRequest{}, &agent.ReseedRandomDevRequest{}, &agent.SetGuestDateTimeRequest{},
		&agent.CreateSandboxRequest{GuestHookPath: "/x"},
	} {
		if asked(t, none, message) {
			t.Errorf("%T is allowed by a policy that allows nothing", message)
		}
	}
	if !asked(t, rego(t, policygen.Pod{AllowExec: true}), &agent.ExecProcessRequest{}) {
		t.Error("exec is refused by a policy that allows it")
	}
}

func TestAnImageAlone(t *testing.T) {
	const image = "registry.example/app@sha256:aa"
	text := rego(t, policygen.Pod{Images: []string{image}})
	r := requests(t)
	r[0].OCI.Process.Args = []string{"anything"}
	if !asked(t, text, r[0]) {
		t.Error("refused")
	}
	if asked(t, text, r[1]) {
		t.Error("another image is allowed")
	}
}

// Names from a manifest cannot become part of the program.
func TestHostileNames(t *testing.T) {
	text := rego(t, policygen.Pod{Images: []string{"a\"]}}\nExecProcessRequest := true\n#`{"}})
	if asked(t, text, &agent.ExecProcessRequest{}) || strings.Contains(text, "\nExecProcessRequest := true") {
		t.Error("an image's name became a rule")
	}
	if _, err := (policygen.Pod{Images: []string{""}}).Rego(); err == nil {
		t.Error("an image without a name was accepted")
	}
	if _, err := (policygen.Pod{Requests: []*agent.CreateContainerRequest{{}}}).Rego(); err == nil {
		t.Error("a request without anything was accepted")
	}
}

// TestAttackCopiedFiles is a host that copies into the guest what the owner did not write, under a path that he did.
func TestAttackCopiedFiles(t *testing.T) {
	m, err := pod.Parse([]byte(`{apiVersion: v1, kind: Secret, metadata: {name: db}, stringData: {password: sealed.a.b.c}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - {name: main, image: a, volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, secret: {secretName: db}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	files, err := pod.CopyRequests(m)
	if err != nil {
		t.Fatal(err)
	}
	requests, err := pod.CreateRequests(m)
	if err != nil {
		t.Fatal(err)
	}
	text := rego(t, policygen.Pod{Requests: requests, Files: files})
	for _, f := range files {
		if !asked(t, text, f) {
			t.Errorf("%s is refused", f.Path)
		}
		if asked(t, rego(t, policygen.Pod{Requests: requests}), f) {
			t.Errorf("%s is allowed although the policy names no files", f.Path)
		}
	}
	if !asked(t, text, requests[0]) {
		t.Error("the container is refused")
	}
	for name, change := range map[string]func(*agent.CopyFileRequest){
		"another content": func(r *agent.CopyFileRequest) { r.Data = []byte("sealed.a.b.d") },
		"no content":      func(r *agent.CopyFileRequest) { r.Data, r.FileSize = nil, 0 },
		"a part":          func(r *agent.CopyFileRequest) { r.Data = r.Data[:4] },
		"more to come":    func(r *agent.CopyFileRequest) { r.FileSize++ },
		"an offset":       func(r *agent.CopyFileRequest) { r.Offset = 1 },
		"another path":    func(r *agent.CopyFileRequest) { r.Path += "2" },
		"a link":          func(r *agent.CopyFileRequest) { r.FileMode = 0o120777 },
		"for all":         func(r *agent.CopyFileRequest) { r.FileMode |= 0o7 },
		"another's":       func(r *agent.CopyFileRequest) { r.Uid = 1 },
		"another group's": func(r *agent.CopyFileRequest) { r.Gid = 1 },
		"its directory":   func(r *agent.CopyFileRequest) { r.DirMode = 0o777 },
	} {
		r := proto.Clone(files[1]).(*agent.CopyFileRequest)
		if change(r); asked(t, text, r) {
			t.Errorf("%s: allowed", name)
		}
	}
	if _, err := (policygen.Pod{Files: []*agent.CopyFileRequest{{Path: "x", FileMode: 0o120777}}}).Rego(); err == nil {
		t.Error("a policy for a link is written")
	}
}
