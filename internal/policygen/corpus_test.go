// SPDX-License-Identifier: Apache-2.0

//go:build linux

package policygen_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/policygen"
)

// corpusPolicy is the policy of the pod that testdata/containerd has as several versions of containerd, with Kata's shim, ask for it.
func corpusPolicy(t testing.TB, allowed policygen.Allowed) string {
	t.Helper()
	text, err := os.ReadFile("testdata/containerd/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := policygen.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	image := &ocispec.ImageConfig{Entrypoint: []string{"/docker-entrypoint.sh"}, User: "101:101",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "MODE=slow"}}
	p, err := m.Pod(m.Templates[0], allowed, map[string]*ocispec.ImageConfig{m.Templates[0].Images()[0]: image})
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Rego()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func corpusRequest(t testing.TB, version string) *agent.CreateContainerRequest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/containerd", version+".json"))
	if err != nil {
		t.Fatal(err)
	}
	r := &agent.CreateContainerRequest{}
	if err := protojson.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	return r
}

var containerds = []string{"1.6", "1.7", "2.0", "2.1"}

// What several versions of containerd make of one pod is one pod.
func TestContainerdVersions(t *testing.T) {
	gate := gateOf(t, corpusPolicy(t, policygen.Allowed{}))
	for _, version := range containerds {
		if why := refusal(t, gate, corpusRequest(t, version)); why != "" {
			t.Errorf("containerd %s: %s", version, why)
		}
	}
}

// forbidden are changes of a request that change what the pod is, by the field that a denial has to name.
var forbidden = map[string]struct {
	field  string
	change func(r *agent.CreateContainerRequest)
}{
	"another image": {"image", func(r *agent.CreateContainerRequest) {
		r.Storages[0].Source = "docker.io/library/evil@" + strings.Split(r.Storages[0].Source, "@")[1]
	}},
	"another digest":      {"image", func(r *agent.CreateContainerRequest) { r.Storages[0].Source += "0" }},
	"a tag":               {"image", func(r *agent.CreateContainerRequest) { r.Storages[0].Source = "docker.io/library/web:1" }},
	"another argument":    {"OCI.Process.Args", func(r *agent.CreateContainerRequest) { r.OCI.Process.Args[1] = "sh" }},
	"another entry point": {"OCI.Process.Args", func(r *agent.CreateContainerRequest) { r.OCI.Process.Args[0] = "/bin/sh" }},
	"the entry point again": {"OCI.Process.Args", func(r *agent.CreateContainerRequest) {
		r.OCI.Annotations["io.nacre.image.args"] = "append"
	}},
	"a changed variable":         {"OCI.Process.Env", env("MODE=fast", "MODE=slow")},
	"the image's own instead":    {"OCI.Process.Env", env("POD_IP=10.244.1.17", "MODE=slow")},
	"a second value":             {"OCI.Process.Env", env("DB_SERVICE_PORT=5432", "MODE=other")},
	"a search path":              {"OCI.Process.Env", env("LANG=C.UTF-8", "PATH=/scratch")},
	"a library":                  {"OCI.Process.Env", env("LANG=C.UTF-8", "LD_PRELOAD=/scratch/x.so")},
	"a service that is a text":   {"OCI.Process.Env", env("DB_SERVICE_HOST=10.96.7.9", "DB_SERVICE_HOST=$(id)")},
	"a service of small letters": {"OCI.Process.Env", env("DB_SERVICE_HOST=10.96.7.9", "ld_SERVICE_HOST=10.96.7.9")},
	"a line break":               {"OCI.Process.Env", env("DB_SERVICE_HOST=10.96.7.9", "DB_SERVICE_HOST=10.96.7.9\nA=b")},
	"an address that is none":    {"OCI.Process.Env", env("POD_IP=10.244.1.17", "POD_IP=example.org")},
	"another directory":          {"OCI.Process.Cwd", func(r *agent.CreateContainerRequest) { r.OCI.Process.Cwd = "/scratch" }},
	"root":                       {"OCI.Process.User", func(r *agent.CreateContainerRequest) { r.OCI.Process.User.UID = 0 }},
	"another group":              {"OCI.Process.User", func(r *agent.CreateContainerRequest) { r.OCI.Process.User.GID = 0 }},
	"one more group":             {"OCI.Process.User", func(r *agent.CreateContainerRequest) { r.OCI.Process.User.AdditionalGids = []uint32{0} }},
	"a user by name":             {"OCI.Process.User", func(r *agent.CreateContainerRequest) { r.OCI.Process.User.Username = "root" }},
	"a terminal":                 {"OCI.Process.Terminal", func(r *agent.CreateContainerRequest) { r.OCI.Process.Terminal = true }},
	"no new privileges": {"OCI.Process.NoNewPrivileges", func(r *agent.CreateContainerRequest) {
		r.OCI.Process.NoNewPrivileges = true
	}},
	"a capability": {"OCI.Process.Capabilities", func(r *agent.CreateContainerRequest) {
		r.OCI.Process.Capabilities.Bounding = append(r.OCI.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	}},
	"a limit": {"OCI.Process.Rlimits", func(r *agent.CreateContainerRequest) {
		r.OCI.Process.Rlimits = []*agent.POSIXRlimit{{Type: "RLIMIT_FSIZE", Hard: 1, Soft: 1}}
	}},
	"another class of service": {"OCI.Process.OOMScoreAdj", func(r *agent.CreateContainerRequest) { r.OCI.Process.OOMScoreAdj = -998 }},
	"a root that is read-only": {"OCI.Root.Readonly", func(r *agent.CreateContainerRequest) { r.OCI.Root.Readonly = true }},
	"a mount more": {"OCI.Mounts", func(r *agent.CreateContainerRequest) {
		r.OCI.Mounts = append(r.OCI.Mounts, &agent.Mount{Destination: "/usr", Type: "tmpfs", Source: "tmpfs"})
	}},
	"a mount less": {"OCI.Mounts", func(r *agent.CreateContainerRequest) { mountAt(r, "/scratch").Destination = "/proc" }},
	"another's volume": {"OCI.Mounts", func(r *agent.CreateContainerRequest) {
		mountAt(r, "/scratch").Source = mountAt(r, "/etc/nginx/conf.d").Source
	}},
	"the kubelet's file for the configuration": {"OCI.Mounts", func(r *agent.CreateContainerRequest) {
		mountAt(r, "/etc/nginx/conf.d").Source = mountAt(r, "/etc/hosts").Source
	}},
	"a path of the guest": {"OCI.Mounts", func(r *agent.CreateContainerRequest) { mountAt(r, "/scratch").Source = "/run" }},
	"way out of a volume": {"OCI.Mounts", func(r *agent.CreateContainerRequest) { mountAt(r, "/scratch").Source += "/../../shm" }},
	"a volume read-only":  {"OCI.Mounts", func(r *agent.CreateContainerRequest) { mountAt(r, "/scratch").Options = []string{"ro"} }},
	"a mount over a mount": {"OCI.Mounts", func(r *agent.CreateContainerRequest) {
		r.OCI.Mounts = append(r.OCI.Mounts, proto.CloneOf(mountAt(r, "/scratch")))
	}},
	"a bind over /proc":    {"OCI.Mounts", func(r *agent.CreateContainerRequest) { mountAt(r, "/proc").Type = "bind" }},
	"a disk":               {"storages.driver", func(r *agent.CreateContainerRequest) { r.Storages[1].Driver = "blk" }},
	"a volume elsewhere":   {"storages", func(r *agent.CreateContainerRequest) { r.Storages[1].MountPoint += "2" }},
	"a volume's group":     {"storages", func(r *agent.CreateContainerRequest) { r.Storages[1].FsGroup = &agent.FSGroup{GroupId: 1} }},
	"a device":             {"devices", func(r *agent.CreateContainerRequest) { r.Devices = []*agent.Device{{Type: "blk"}} }},
	"shared mounts":        {"shared_mounts", func(r *agent.CreateContainerRequest) { r.SharedMounts = []*agent.SharedMount{{}} }},
	"shared processes":     {"sandbox_pidns", func(r *agent.CreateContainerRequest) { r.SandboxPidns = true }},
	"a user as text":       {"string_user", func(r *agent.CreateContainerRequest) { r.StringUser = &agent.StringUser{Uid: "0"} }},
	"an id that is a path": {"container_id", func(r *agent.CreateContainerRequest) { r.ContainerId = "a/b" }},
	"a hook": {"OCI.Hooks", func(r *agent.CreateContainerRequest) {
		r.OCI.Hooks = &agent.Hooks{Prestart: []*agent.Hook{{Path: "/bin/sh"}}}
	}},
	"a device node": {"OCI.Linux.Devices", func(r *agent.CreateContainerRequest) {
		r.OCI.Linux.Devices = []*agent.LinuxDevice{{Path: "/dev/kmsg"}}
	}},
	"a kernel setting": {"OCI.Linux.Sysctl", func(r *agent.CreateContainerRequest) {
		r.OCI.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"}
	}},
	"another's namespace": {"OCI.Linux.Namespaces", func(r *agent.CreateContainerRequest) {
		r.OCI.Linux.Namespaces[0].Path = "/proc/1/ns/pid"
	}},
	"a user namespace": {"OCI.Linux.UIDMappings", func(r *agent.CreateContainerRequest) {
		r.OCI.Linux.UIDMappings = []*agent.LinuxIDMapping{{Size: 1}}
	}},
}

func env(old, changed string) func(r *agent.CreateContainerRequest) {
	return func(r *agent.CreateContainerRequest) {
		for i, v := range r.OCI.Process.Env {
			if v == old {
				r.OCI.Process.Env[i] = changed
			}
		}
	}
}

func mountAt(r *agent.CreateContainerRequest, destination string) *agent.Mount {
	for _, m := range r.OCI.Mounts {
		if m.Destination == destination {
			return m
		}
	}
	return nil
}

// TestAttackForbiddenChange is a host that changes one thing of a container. Each denial names the rule and the field.
func TestAttackForbiddenChange(t *testing.T) {
	text := corpusPolicy(t, policygen.Allowed{})
	for name, c := range forbidden {
		t.Run(name, func(t *testing.T) {
			gate := gateOf(t, text)
			r := corpusRequest(t, "2.1")
			c.change(r)
			why := refusal(t, gate, r)
			if why == "" {
				t.Fatal("allowed")
			}
			if !strings.HasPrefix(why, "CreateContainerRequest is blocked by policy: data.agent_policy.CreateContainerRequest: ") ||
				!strings.Contains(why, c.field) {
				t.Errorf("%q does not name the rule and %s", why, c.field)
			}
		})
	}
}

// TestAttackCommands is a host that runs what the owner does not allow, or elsewhere.
func TestAttackCommands(t *testing.T) {
	pattern, err := policygen.Command([]string{"cat", "/scratch/*"})
	if err != nil {
		t.Fatal(err)
	}
	text := corpusPolicy(t, policygen.Allowed{Exec: []string{pattern}})
	created := corpusRequest(t, "2.1")
	fresh := func(t *testing.T) (func(proto.Message) string, *agent.ExecProcessRequest) {
		gate := gateOf(t, text)
		if why := refusal(t, gate, created); why != "" {
			t.Fatal(why)
		}
		return func(m proto.Message) string { return refusal(t, gate, m) }, execution(created, []string{"curl", "-f", "http://127.0.0.1/"})
	}
	t.Run("what a probe prints", func(t *testing.T) {
		ask, probe := fresh(t)
		if why := ask(probe); why != "" {
			t.Errorf("the probe: %s", why)
		}
		output := &agent.ReadStreamRequest{ContainerId: created.ContainerId, ExecId: "e1"}
		if ask(output) == "" {
			t.Error("a probe's output can be read")
		}
		probe.Process.Args = []string{"cat", "/scratch/x"}
		if why := ask(probe); why != "" {
			t.Errorf("what the owner allows: %s", why)
		}
		if why := ask(output); why != "" {
			t.Errorf("its output: %s", why)
		}
		if ask(&agent.ReadStreamRequest{ContainerId: created.ContainerId, ExecId: created.ContainerId}) == "" {
			t.Error("the container's own output can be read")
		}
		if why := ask(&agent.RemoveContainerRequest{ContainerId: created.ContainerId}); why != "" {
			t.Error(why)
		}
		if ask(probe) == "" || ask(output) == "" {
			t.Error("the policy remembers a container that is gone")
		}
	})
	for name, c := range map[string]struct {
		field  string
		change func(r *agent.ExecProcessRequest)
	}{
		"another command":      {"process.Args", func(r *agent.ExecProcessRequest) { r.Process.Args = []string{"sh"} }},
		"one more word":        {"process.Args", func(r *agent.ExecProcessRequest) { r.Process.Args = append(r.Process.Args, "x") }},
		"a word in a word":     {"process.Args", func(r *agent.ExecProcessRequest) { r.Process.Args = []string{"cat\x00/scratch/x"} }},
		"beyond a pattern":     {"process.Args", func(r *agent.ExecProcessRequest) { r.Process.Args = []string{"cat", "/scratch/x", "/etc/shadow"} }},
		"nothing":              {"process.Args", func(r *agent.ExecProcessRequest) { r.Process.Args = nil }},
		"as root":              {"process.User", func(r *agent.ExecProcessRequest) { r.Process.User = &agent.User{} }},
		"with a library":       {"process.Env", func(r *agent.ExecProcessRequest) { r.Process.Env = append(r.Process.Env, "LD_PRELOAD=/scratch/x") }},
		"elsewhere":            {"process.Cwd", func(r *agent.ExecProcessRequest) { r.Process.Cwd = "/scratch" }},
		"with a terminal":      {"process.Terminal", func(r *agent.ExecProcessRequest) { r.Process.Terminal = true }},
		"with all powers":      {"process.Capabilities", func(r *agent.ExecProcessRequest) { r.Process.Capabilities = nil }},
		"a user as text":       {"string_user", func(r *agent.ExecProcessRequest) { r.StringUser = &agent.StringUser{} }},
		"another container":    {"container_id", func(r *agent.ExecProcessRequest) { r.ContainerId = "c2" }},
		"an id that is a path": {"exec_id", func(r *agent.ExecProcessRequest) { r.ExecId = "a/b" }},
	} {
		t.Run(name, func(t *testing.T) {
			ask, probe := fresh(t)
			c.change(probe)
			if why := ask(probe); !strings.Contains(why, "data.agent_policy.ExecProcessRequest: ") || !strings.Contains(why, c.field) {
				t.Errorf("got %q", why)
			}
		})
	}
}

// TestAttackTakenIdentifier is a host that has the policy believe a container to be another one, whose probes it then runs there.
func TestAttackTakenIdentifier(t *testing.T) {
	text := rego(t, policygen.Pod{Requests: requests(t), Kubelet: map[string]policygen.Kubelet{
		"second": {Commands: [][]string{{"/bin/probe"}}},
	}})
	gate := gateOf(t, text)
	both := requests(t)
	for _, r := range both {
		r.ContainerId = "c1"
	}
	if why := refusal(t, gate, both[0]); why != "" {
		t.Fatal(why)
	}
	if refusal(t, gate, both[1]) == "" || refusal(t, gate, execution(both[1], []string{"/bin/probe"})) == "" {
		t.Error("one id stands for two containers")
	}
}

// A kubelet's volumes come as directories, links and files; their content is the owner's.
func TestKubeletFiles(t *testing.T) {
	const root = "/run/kata-containers/shared/containers/"
	volume := root + strings.Repeat("0f", 32) + "-0123456789abcdef-"
	gate := gateOf(t, corpusPolicy(t, policygen.Allowed{}))
	file := func(name, content string) *agent.CopyFileRequest {
		return &agent.CopyFileRequest{Path: volume + name, FileMode: 0o100644, DirMode: 0o750, FileSize: int64(len(content)), Data: []byte(content)}
	}
	link := func(name, target string) *agent.CopyFileRequest {
		return &agent.CopyFileRequest{Path: volume + name, FileMode: 0o120777, DirMode: 0o750, FileSize: int64(len(target)), Data: []byte(target)}
	}
	for _, r := range []*agent.CopyFileRequest{
		{Path: volume + "conf.d", FileMode: 0o040777, DirMode: 0o750},
		{Path: volume + "conf.d/..2026_11_23_20_00_00.123", FileMode: 0o040755, DirMode: 0o750},
		file("conf.d/..2026_11_23_20_00_00.123/default.conf", "server {}\n"),
		link("conf.d/..data", "..2026_11_23_20_00_00.123"), link("conf.d/default.conf", "..data/default.conf"),
		file("hosts", "anything"), file("serviceaccount/..2026_11_23/token", "anything"),
	} {
		if why := refusal(t, gate, r); why != "" {
			t.Errorf("%s: %s", r.Path, why)
		}
	}
	for name, r := range map[string]*agent.CopyFileRequest{
		"another content":      file("conf.d/..2026_11_23_20_00_00.123/default.conf", "server{}\n\n"),
		"another file":         file("conf.d/evil.conf", "x"),
		"over a way out":       file("serviceaccount/../"+strings.Repeat("0f", 32)+"-0123456789abcdef-conf.d/default.conf", "x"),
		"a link elsewhere":     link("conf.d/default.conf", "/run/x"),
		"a link out":           link("conf.d/default.conf", "..data/../../x"),
		"another's":            {Path: volume + "conf.d/default.conf", FileMode: 0o100644, Uid: 1, FileSize: 10, Data: []byte("server {}\n")},
		"not the container's":  file("conf.d2/default.conf", "server {}\n"),
		"a file as the volume": file("conf.d", "x"),
	} {
		if why := refusal(t, gate, r); !strings.Contains(why, "data.agent_policy.CopyFileRequest: ") {
			t.Errorf("%s: %q", name, why)
		}
	}
}

func BenchmarkCreateContainer(b *testing.B) {
	gate := gateOf(b, corpusPolicy(b, policygen.Allowed{}))
	r := corpusRequest(b, "2.1")
	for b.Loop() {
		if why := refusal(b, gate, r); why != "" {
			b.Fatal(why)
		}
	}
}

func BenchmarkExecProcess(b *testing.B) {
	gate := gateOf(b, corpusPolicy(b, policygen.Allowed{}))
	r := corpusRequest(b, "2.1")
	if why := refusal(b, gate, r); why != "" {
		b.Fatal(why)
	}
	probe := execution(r, []string{"curl", "-f", "http://127.0.0.1/"})
	for b.Loop() {
		if why := refusal(b, gate, probe); why != "" {
			b.Fatal(why)
		}
	}
}

func BenchmarkSignalProcess(b *testing.B) {
	gate := gateOf(b, corpusPolicy(b, policygen.Allowed{}))
	for b.Loop() {
		if why := refusal(b, gate, &agent.SignalProcessRequest{ContainerId: "c1", Signal: 15}); why != "" {
			b.Fatal(why)
		}
	}
}
