// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

func testAgent(t testing.TB) *Agent {
	t.Helper()
	dir := t.TempDir()
	return New(Config{
		Log: slog.New(slog.DiscardHandler), Dir: dir, Groups: testGroups(), Resolver: filepath.Join(dir, "guest-resolv.conf"),
	})
}

// ordinary is a request as a host sends it for an ordinary container, after change.
func ordinary(change func(*agent.CreateContainerRequest)) *agent.CreateContainerRequest {
	r := &agent.CreateContainerRequest{
		ContainerId: "c1",
		OCI: &agent.Spec{
			Process: &agent.Process{Args: []string{"/bin/sh"}, User: &agent.User{}},
			Linux:   &agent.Linux{},
		},
	}
	if change != nil {
		change(r)
	}
	return r
}

// TestSpecDefaults checks what every container gets, whatever a host asks for that is more.
func TestSpecDefaults(t *testing.T) {
	a := testAgent(t)
	for name, change := range map[string]func(*agent.CreateContainerRequest){
		"nothing asked": nil,
		"all asked": func(r *agent.CreateContainerRequest) {
			p := r.OCI.Process
			p.NoNewPrivileges = false
			everything := []string{"CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_BPF"}
			p.Capabilities = &agent.LinuxCapabilities{
				Bounding:  append(everything, capabilities...),
				Effective: everything, Inheritable: everything, Ambient: everything,
			}
			p.ApparmorProfile, p.SelinuxLabel, p.OOMScoreAdj = "unconfined", "unconfined", -1000
			p.Rlimits = []*agent.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: 1 << 40, Soft: 1 << 40}}
			r.OCI.Linux = &agent.Linux{
				Namespaces:        []*agent.LinuxNamespace{{Type: "mount"}, {Type: "network"}},
				CgroupsPath:       "/../../x",
				RootfsPropagation: "shared",
				Seccomp:           &agent.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"},
				Resources:         &agent.LinuxResources{Devices: []*agent.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
				Devices:           []*agent.LinuxDevice{{Path: "/dev/null"}},
			}
			r.OCI.Annotations = map[string]string{"run.oci.handler": "wasm"}
			r.OCI.Mounts = []*agent.Mount{
				{Destination: "/proc", Source: "/proc", Type: "bind", Options: []string{"rbind", "rw"}},
				{Destination: "/sys", Source: "/sys", Type: "bind", Options: []string{"rbind", "rw"}},
				{Destination: "/dev", Source: "/dev", Type: "bind", Options: []string{"rbind", "rw"}},
				{Destination: "/sys/fs/cgroup", Source: "/sys/fs/cgroup", Type: "bind", Options: []string{"rw"}},
				{Destination: "/etc/resolv.conf", Source: "/etc/shadow", Type: "bind"},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := a.spec(ordinary(change), "/r", "host", ocispec.ImageConfig{})
			if err != nil {
				t.Fatal(err)
			}
			p := s.Process
			if !p.NoNewPrivileges || p.ApparmorProfile != "" || p.SelinuxLabel != "" || *p.OOMScoreAdj != 0 {
				t.Errorf("process %+v", p)
			}
			if !slices.Equal(p.Capabilities.Bounding, capabilities) || !slices.Equal(p.Capabilities.Effective, capabilities) ||
				p.Capabilities.Ambient != nil || p.Capabilities.Inheritable != nil {
				t.Errorf("capabilities %+v", p.Capabilities)
			}
			if !slices.Contains(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE"}) {
				t.Errorf("limits %+v", p.Rlimits)
			}
			l := s.Linux
			if !reflect.DeepEqual(l.Namespaces, namespaces) || l.CgroupsPath != "/"+filepath.Base(testGroups())+"/c1" || l.RootfsPropagation != "private" {
				t.Errorf("linux %+v", l)
			}
			if l.Seccomp.DefaultAction != specs.ActErrno {
				t.Errorf("filter %v", l.Seccomp.DefaultAction)
			}
			if rules := l.Resources.Devices; len(l.Devices) != 0 || len(rules) != 1 || rules[0].Allow {
				t.Errorf("devices %v, %v", l.Devices, rules)
			}
			if !slices.Contains(l.MaskedPaths, "/proc/kcore") || !slices.Contains(l.ReadonlyPaths, "/proc/sys") {
				t.Errorf("paths %v, %v", l.MaskedPaths, l.ReadonlyPaths)
			}
			if !reflect.DeepEqual(s.Mounts, a.standardMounts()) {
				t.Errorf("mounts %+v", s.Mounts)
			}
			if s.Hooks != nil || s.Annotations != nil {
				t.Errorf("hooks %v, annotations %v", s.Hooks, s.Annotations)
			}
		})
	}
}

// TestAttackSpec holds what must be refused rather than left out.
func TestAttackSpec(t *testing.T) {
	a := testAgent(t)
	a.volumes[filepath.Join(a.Dir, "sandbox/ephemeral/v")] = true
	mount := func(m *agent.Mount) func(*agent.CreateContainerRequest) {
		return func(r *agent.CreateContainerRequest) { r.OCI.Mounts = []*agent.Mount{m} }
	}
	volume := filepath.Join(a.Dir, "sandbox/ephemeral/v")
	bind := func(option string) func(*agent.CreateContainerRequest) {
		return mount(&agent.Mount{Destination: "/x", Source: volume, Type: "bind", Options: []string{option}})
	}
	for name, change := range map[string]func(*agent.CreateContainerRequest){
		"prestart hook": func(r *agent.CreateContainerRequest) {
			r.OCI.Hooks = &agent.Hooks{Prestart: []*agent.Hook{{Path: "/bin/sh"}}}
		},
		"start hook": func(r *agent.CreateContainerRequest) {
			r.OCI.Hooks = &agent.Hooks{StartContainer: []*agent.Hook{{Path: "/bin/sh"}}}
		},
		"guest's namespace": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Namespaces = []*agent.LinuxNamespace{{Type: "mount", Path: "/proc/1/ns/mnt"}}
		},
		"user mapping": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.UIDMappings = []*agent.LinuxIDMapping{{Size: 1}}
		},
		"sysctl": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Sysctl = map[string]string{"net.ipv4.conf.all.route_localnet": "1"}
		},
		"sysctl of the guest": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Sysctl = map[string]string{"kernel.core_pattern": "1"}
		},
		"sysctl by path": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Sysctl = map[string]string{"kernel.shmmax/../../vm/overcommit_memory": "1"}
		},
		"sysctl of text": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Sysctl = map[string]string{"kernel.shmmax": "|/bin/sh"}
		},
		"long sysctl": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Sysctl = map[string]string{"kernel.sem": strings.Repeat("1", maxSetting+1)}
		},
		"block device": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Devices = []*agent.LinuxDevice{{Path: "/dev/vda", Type: "b", Major: 254}}
		},
		"huge terminal": func(r *agent.CreateContainerRequest) {
			r.OCI.Process.Terminal, r.OCI.Process.ConsoleSize = true, &agent.Box{Height: 24, Width: maxWindow + 1}
		},
		"no arguments":     func(r *agent.CreateContainerRequest) { r.OCI.Process.Args = nil },
		"many arguments":   func(r *agent.CreateContainerRequest) { r.OCI.Process.Args = make([]string, maxWords+1) },
		"zero byte":        func(r *agent.CreateContainerRequest) { r.OCI.Process.Args = []string{"a\x00b"} },
		"zero byte in env": func(r *agent.CreateContainerRequest) { r.OCI.Process.Env = []string{"A=\x00"} },
		"env without name": func(r *agent.CreateContainerRequest) { r.OCI.Process.Env = []string{"=x"} },
		"relative cwd":     func(r *agent.CreateContainerRequest) { r.OCI.Process.Cwd = "x" },
		"many groups": func(r *agent.CreateContainerRequest) {
			r.OCI.Process.User.AdditionalGids = make([]uint32, maxGroups+1)
		},
		"unknown limit": func(r *agent.CreateContainerRequest) {
			r.OCI.Process.Rlimits = []*agent.POSIXRlimit{{Type: "RLIMIT_X"}}
		},
		"tiny memory": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Resources = &agent.LinuxResources{Memory: &agent.LinuxMemory{Limit: 1}}
		},
		"masked elsewhere": func(r *agent.CreateContainerRequest) { r.OCI.Linux.MaskedPaths = []string{"../x"} },
		"guest's file":     mount(&agent.Mount{Destination: "/x", Source: "/etc", Type: "bind"}),
		"agent's sockets":  mount(&agent.Mount{Destination: "/x", Source: "/run/confidential-containers", Type: "bind"}),
		"other bundle":     mount(&agent.Mount{Destination: "/x", Source: filepath.Join(a.Dir, "c2/rootfs"), Type: "bind"}),
		"above a volume":   mount(&agent.Mount{Destination: "/x", Source: volume + "/..", Type: "bind"}),
		"unknown volume":   mount(&agent.Mount{Destination: "/x", Source: volume + "2", Type: "bind"}),
		"host's disk":      mount(&agent.Mount{Destination: "/x", Source: "/dev/vdb", Type: "ext4"}),
		"over the root":    mount(&agent.Mount{Destination: "/", Source: volume, Type: "bind"}),
		"over proc":        mount(&agent.Mount{Destination: "/proc/sys", Source: volume, Type: "bind"}),
		"over dev":         mount(&agent.Mount{Destination: "/dev/pts/x", Source: volume, Type: "bind"}),
		"unclean":          mount(&agent.Mount{Destination: "/a/../proc", Source: volume, Type: "bind"}),
		"relative":         mount(&agent.Mount{Destination: "a", Source: volume, Type: "bind"}),
		"shared":           bind("rshared"),
		"with devices":     bind("dev"),
		"id mapped":        bind("idmap"),
		"tmpfs option":     mount(&agent.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"size=1,mpol=x"}}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.spec(ordinary(change), "/r", "host", ocispec.ImageConfig{})
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestSpecMounts(t *testing.T) {
	a := testAgent(t)
	volume := filepath.Join(a.Dir, "sandbox/ephemeral/v")
	a.volumes[volume] = true
	got, err := a.mounts("c1", []*agent.Mount{
		{Destination: "/data", Source: volume, Type: "bind", Options: []string{"rbind", "rprivate", "ro"}},
		{Destination: "/cache", Source: "tmpfs", Type: "tmpfs", Options: []string{"size=1024", "mode=1777"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := append(a.standardMounts(),
		specs.Mount{Destination: "/data", Type: "bind", Source: volume,
			Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"}},
		specs.Mount{Destination: "/cache", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"size=1024", "mode=1777", "nosuid", "nodev"}})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

// TestProcessFromImage checks what a request leaves to the image.
func TestProcessFromImage(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:\napp:x:1000:1001::/:\n"), 0o644)
	_ = os.WriteFile(filepath.Join(root, "etc/group"), []byte("extra:x:7:app,other\nmine:x:1001:app\n"), 0o644)
	image := ocispec.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"A=image", "B=image"}, WorkingDir: "/work",
		User: "app",
	}
	for name, c := range map[string]struct {
		process     *agent.Process
		annotations map[string]string
		want        specs.Process
	}{
		"all": {
			&agent.Process{}, map[string]string{annotationUser: "image"},
			specs.Process{Args: []string{"/entry", "cmd"}, Cwd: "/work", Env: []string{defaultPath, "A=image", "B=image"},
				User: specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7}}},
		},
		"entry point": {
			&agent.Process{Args: []string{"x"}, Env: []string{"B=request", "C=", "PATH=/p"}, Cwd: "/"},
			map[string]string{annotationArgs: "append"},
			specs.Process{Args: []string{"/entry", "x"}, Cwd: "/", Env: []string{"PATH=/p", "A=image", "B=request", "C="}},
		},
		"nothing": {
			&agent.Process{Args: []string{"x"}, User: &agent.User{UID: 5, GID: 6, AdditionalGids: []uint32{8}}}, nil,
			specs.Process{Args: []string{"x"}, Cwd: "/work", Env: []string{defaultPath, "A=image", "B=image"},
				User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{8}}},
		},
	} {
		got, err := firstProcess(c.process, c.annotations, root, image)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !reflect.DeepEqual(got.Args, c.want.Args) || got.Cwd != c.want.Cwd || !reflect.DeepEqual(got.Env, c.want.Env) ||
			!reflect.DeepEqual(got.User, c.want.User) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestGrantNarrows(t *testing.T) {
	got := grant(&agent.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_SYS_ADMIN"}})
	if !slices.Equal(got, []string{"CAP_KILL"}) {
		t.Errorf("got %v", got)
	}
	if got := grant(&agent.LinuxCapabilities{}); len(got) != 0 {
		t.Errorf("drop all: %v", got)
	}
}

func TestImageUser(t *testing.T) {
	root := t.TempDir()
	etc := filepath.Join(root, "etc")
	_ = os.MkdirAll(etc, 0o755)
	passwd := "# comment\n\nbroken\napp:x:1000:1001::/:\n7:x:70:71::/:\n"
	_ = os.WriteFile(filepath.Join(etc, "passwd"), []byte(passwd), 0o644)
	_ = os.WriteFile(filepath.Join(etc, "group"), []byte("staff:x:50:\n"), 0o644)
	for user, want := range map[string]specs.User{
		"":           {},
		"0":          {},
		"app":        {UID: 1000, GID: 1001},
		"1000":       {UID: 1000, GID: 1001},
		"7":          {UID: 70, GID: 71}, // a name that looks like a number
		"2000":       {UID: 2000},
		"app:staff":  {UID: 1000, GID: 50},
		"5:50":       {UID: 5, GID: 50},
		"2147483647": {UID: 2147483647},
	} {
		if got, err := imageUser(root, user); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", user, got, err)
		}
	}
	for _, user := range []string{
		"nobody", "app:none", ":", "-1", "4294967296", "app:", "x:y:z", strings.Repeat("9", 400),
	} {
		if got, err := imageUser(root, user); err == nil {
			t.Errorf("%q: %+v", user, got)
		}
	}
}

// TestAttackImageUserFile lets an image point its user file at the guest's, and at things that are no files.
func TestAttackImageUserFile(t *testing.T) {
	outside := t.TempDir()
	_ = os.WriteFile(filepath.Join(outside, "passwd"), []byte("app:x:1000:1000::/:\n"), 0o644)
	for name, make := range map[string]func(path string) error{
		"absolute link": func(p string) error { return os.Symlink(filepath.Join(outside, "passwd"), p) },
		"relative link": func(p string) error { return os.Symlink("../../../../../../../../"+outside+"/passwd", p) },
		"directory":     func(p string) error { return os.Mkdir(p, 0o755) },
		"named pipe":    mkfifo,
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			_ = os.MkdirAll(filepath.Join(root, "etc"), 0o755)
			if err := make(filepath.Join(root, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			if got, err := imageUser(root, "app"); err == nil {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	a := testAgent(t)
	path := filepath.Join(a.Dir, "sandbox/local/v")
	s := &agent.Storage{Driver: driverLocal, MountPoint: path, Options: []string{"mode=1777"}}
	if err := a.addVolume(s); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(path, "kept"), nil, 0o644)
	if err := a.addVolume(s); err != nil {
		t.Errorf("the same again: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(path, "kept")); err != nil {
		t.Error(err)
	}
}

func TestAttackVolumes(t *testing.T) {
	a := testAgent(t)
	in := func(s string) string { return filepath.Join(a.Dir, "sandbox") + "/" + s }
	for name, s := range map[string]*agent.Storage{
		"elsewhere":       {Driver: driverLocal, MountPoint: "/etc/x"},
		"the directory":   {Driver: driverLocal, MountPoint: filepath.Join(a.Dir, "sandbox")},
		"above":           {Driver: driverLocal, MountPoint: in("../c1/rootfs")},
		"unclean":         {Driver: driverLocal, MountPoint: in("a/../../c1")},
		"deep":            {Driver: driverLocal, MountPoint: in("a/b/c")},
		"name":            {Driver: driverLocal, MountPoint: in("a/..")},
		"resolv.conf":     {Driver: driverLocal, MountPoint: in("resolv.conf")},
		"empty":           {Driver: driverLocal},
		"sibling":         {Driver: driverLocal, MountPoint: filepath.Join(a.Dir, "sandbox2/x")},
		"block device":    {Driver: "blk", Source: "/dev/vdb", Fstype: "ext4", MountPoint: in("v1")},
		"scsi":            {Driver: "scsi", Source: "0:0", MountPoint: in("v2")},
		"virtio-fs":       {Driver: "virtio-fs", Source: "kataShared", MountPoint: in("v3")},
		"pmem":            {Driver: "nvdimm", Source: "/dev/pmem0", MountPoint: in("v4")},
		"bind":            {Driver: "bind", Source: "/etc", MountPoint: in("v5")},
		"no driver":       {MountPoint: in("v6")},
		"option":          {Driver: driverEphemeral, MountPoint: in("v7"), Options: []string{"dev"}},
		"option hidden":   {Driver: driverEphemeral, MountPoint: in("v8"), Options: []string{"mode=0777,dev"}},
		"negative size":   {Driver: driverEphemeral, MountPoint: in("v9"), Options: []string{"size=-1"}},
		"set-id mode":     {Driver: driverEphemeral, MountPoint: in("v10"), Options: []string{"mode=17777"}},
		"too many of all": {Driver: driverEphemeral, MountPoint: in("v11"), Options: make([]string, 33)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := a.addVolume(s); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
	if len(a.volumes) != 0 {
		t.Errorf("made %v", a.volumes)
	}
}

func TestResolver(t *testing.T) {
	got, err := resolverFile([]string{
		"nameserver 10.0.2.3", "8.8.8.8", "", "# comment", "search a.b  c.", "options ndots:5 edns0", "nameserver fd00::1",
	})
	want := "nameserver 10.0.2.3\nnameserver 8.8.8.8\nsearch a.b c.\noptions ndots:5 edns0\nnameserver fd00::1\n"
	if err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, line := range []string{
		"nameserver", "nameserver x", "nameserver 1.1.1.1 2.2.2.2", "nameserver 0.0.0.0", "nameserver 224.0.0.1",
		"server 1.1.1.1", "search", "search -a", "search a..b", "search a/b", "search " + strings.Repeat("a.", 200),
		"options", "options A=b",
		"options x:y", "options " + strings.Repeat("a", 40), "1.1.1.1 nameserver", "::1 x",
	} {
		if got, err := resolverFile([]string{line}); err == nil {
			t.Errorf("%q: %q", line, got)
		}
	}
	if _, err := resolverFile([]string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"}); err == nil {
		t.Error("four name servers")
	}
	// A line cannot hide another one.
	if got, err := resolverFile([]string{"search a\nnameserver 6.6.6.6"}); err == nil && strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}

func FuzzResolver(f *testing.F) {
	f.Add("nameserver 1.1.1.1")
	f.Add("search a.b c\noptions x:1")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := resolverFile([]string{line})
		if err != nil {
			return
		}
		if strings.Count(got, "\n") > 1 {
			t.Errorf("%q became %q", line, got)
		}
		if again, err := resolverFile([]string{got}); err != nil || again != got {
			t.Errorf("%q becomes %q, %v", got, again, err)
		}
	})
}
