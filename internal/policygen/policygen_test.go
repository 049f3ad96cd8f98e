// SPDX-License-Identifier: Apache-2.0

//go:build linux

package policygen_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/policy"
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

// asked evaluates the rule for a message as a guest does.
func asked(t *testing.T, rego string, message proto.Message) bool {
	t.Helper()
	query := "data.agent_policy." + string(message.ProtoReflect().Descriptor().Name())
	p, err := policy.Compile(t.Context(), rego, policy.Options{Queries: []string{query}})
	if err != nil {
		t.Fatal(err)
	}
	// Field names of the .proto files, unset fields included.
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var input any
	if err := d.Decode(&input); err != nil {
		t.Fatal(err)
	}
	v, err := p.Eval(context.Background(), query, policy.Input{Input: input})
	if err != nil {
		t.Fatal(err)
	}
	allowed, _ := v.Bool()
	return allowed
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
