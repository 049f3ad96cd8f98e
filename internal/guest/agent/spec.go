// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/api/agent"
)

// Annotations by which a host that has not seen the image leaves parts of the process to it.
const (
	// annotationArgs with the value "append" puts the request's arguments behind the image's entry point.
	annotationArgs = "io.nacre.image.args"
	// annotationUser with the value "image" takes the image's user.
	annotationUser = "io.nacre.image.user"
)

// What a container gets, whatever was asked for. Requests can only take away from it.
var (
	// capabilities is the set of container engines without CAP_MKNOD: containers get their devices from the runtime.
	capabilities = []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	// No network and no time namespace: the guest is the pod.
	namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
	}
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware", "/sys/kernel/config", "/sys/kernel/debug",
		// The memory of other containers and of the guest, page by page and in sum. Absent ones are passed over.
		"/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/pagetypeinfo", "/proc/slabinfo",
		"/proc/vmallocinfo",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// defaultPath is in the environment of an image that sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Limits of what a request can put into a container's description.
const (
	maxWords  = 4096 // arguments, and variables of the environment
	maxMounts = 128
	maxPids   = 16384
)

// spec makes the description of a container from a request and the image's configuration. What the request says of
// privileges is an upper limit below ours; what would reach outside of the container is refused.
func (a *Agent) spec(
	r *agent.CreateContainerRequest, root, host string, image ocispec.ImageConfig,
) (*specs.Spec, error) {
	if err := refuseHostPowers(r.OCI); err != nil {
		return nil, err
	}
	process, err := firstProcess(r.OCI.Process, r.OCI.Annotations, root, image)
	if err != nil {
		return nil, err
	}
	mounts, err := a.mounts(r.ContainerId, r.OCI.Mounts)
	if err != nil {
		return nil, err
	}
	masked, err := paths(maskedPaths, r.OCI.Linux.MaskedPaths)
	if err != nil {
		return nil, err
	}
	readonly, err := paths(readonlyPaths, r.OCI.Linux.ReadonlyPaths)
	if err != nil {
		return nil, err
	}
	limits, err := resources(r.OCI.Linux.Resources)
	if err != nil {
		return nil, err
	}
	settings, err := kernelSettings(r.OCI.Linux.Sysctl)
	if err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version:  specs.Version,
		Process:  process,
		Root:     &specs.Root{Path: root, Readonly: r.OCI.Root.GetReadonly()},
		Hostname: host,
		Mounts:   mounts,
		Linux: &specs.Linux{
			CgroupsPath:       "/" + filepath.Base(a.Groups) + "/" + r.ContainerId,
			Namespaces:        namespaces,
			MaskedPaths:       masked,
			ReadonlyPaths:     readonly,
			Resources:         limits,
			Sysctl:            settings,
			Seccomp:           seccomp(),
			RootfsPropagation: "private",
		},
	}, nil
}

// refuseHostPowers refuses a description that asks for what this guest never does, rather than to leave it out.
func refuseHostPowers(s *agent.Spec) error {
	switch hooks, linux := s.Hooks, s.Linux; {
	case hooks != nil && len(hooks.Prestart)+len(hooks.Poststart)+len(hooks.Poststop)+len(hooks.CreateRuntime)+
		len(hooks.CreateContainer)+len(hooks.StartContainer) > 0:
		return invalid("hooks would run outside of the container and are not supported")
	case len(linux.UIDMappings) > 0 || len(linux.GIDMappings) > 0:
		return invalid("user namespaces are not supported yet")
	}
	for _, n := range s.Linux.Namespaces {
		if n.GetPath() != "" {
			return invalid("joining the namespace %.200q is not supported", n.Path)
		}
	}
	for _, d := range s.Linux.Devices {
		if !defaultDevice(d.GetPath()) {
			return invalid("device %.200q: a container gets the default devices only", d.GetPath())
		}
	}
	return nil
}

// ownSettings are the kernel's settings that a container has for itself, with its IPC namespace. The network's are the
// pod's, which is the guest: a container does not set them.
var ownSettings = []string{
	"fs.mqueue.msg_default", "fs.mqueue.msg_max", "fs.mqueue.msgsize_default", "fs.mqueue.msgsize_max",
	"fs.mqueue.queues_max", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shm_rmid_forced",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni",
}

// maxSetting caps the value of a setting, in bytes: the longest is four numbers.
const maxSetting = 96

func kernelSettings(asked map[string]string) (map[string]string, error) {
	for name, value := range asked {
		if !slices.Contains(ownSettings, name) {
			return nil, invalid("kernel setting %.100q is not a container's own: those are %s", name,
				strings.Join(ownSettings, ", "))
		}
		if len(value) > maxSetting || strings.Trim(value, "0123456789 \t") != "" {
			return nil, invalid("kernel setting %s: %.100q is not a number or several", name, value)
		}
	}
	return asked, nil
}

// defaultDevice says whether a runtime makes a device by itself (OCI runtime specification, "Default Devices").
func defaultDevice(path string) bool {
	return slices.Contains([]string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
		"/dev/console", "/dev/ptmx"}, path)
}

// firstProcess describes a container's first process.
func firstProcess(
	p *agent.Process, annotations map[string]string, root string, image ocispec.ImageConfig,
) (*specs.Process, error) {
	user := specs.User{UID: p.User.GetUID(), GID: p.User.GetGID(), AdditionalGids: p.User.GetAdditionalGids()}
	if annotations[annotationUser] == "image" {
		var err error
		if user, err = imageUser(root, image.User); err != nil {
			return nil, err
		}
	}
	args := p.Args
	switch {
	case annotations[annotationArgs] == "append":
		args = slices.Concat(image.Entrypoint, p.Args)
	case len(args) == 0:
		args = slices.Concat(image.Entrypoint, image.Cmd)
	}
	cwd := p.Cwd
	if cwd == "" {
		cwd = image.WorkingDir
	}
	return describe(p, user, args, image.Env, cwd)
}

// execSpec describes a process that is executed in a running container.
func execSpec(p *agent.Process) (*specs.Process, error) {
	user := specs.User{UID: p.User.GetUID(), GID: p.User.GetGID(), AdditionalGids: p.User.GetAdditionalGids()}
	return describe(p, user, p.Args, nil, p.Cwd)
}

// describe makes the description of a process: what it runs as was decided, what it may do is decided here.
func describe(p *agent.Process, user specs.User, args, imageEnv []string, cwd string) (*specs.Process, error) {
	if len(args) == 0 {
		return nil, invalid("neither the request nor the image says what to run")
	}
	if cwd == "" {
		cwd = "/"
	}
	if !filepath.IsAbs(cwd) || strings.ContainsRune(cwd, 0) {
		return nil, invalid("working directory %.200q is not an absolute path", cwd)
	}
	env, err := environment(imageEnv, p.Env)
	if err != nil {
		return nil, err
	}
	if err := checkWords(args); err != nil {
		return nil, err
	}
	limits, err := rlimits(p.Rlimits)
	if err != nil {
		return nil, err
	}
	if len(user.AdditionalGids) > maxGroups {
		return nil, invalid("%d groups, at most %d are given", len(user.AdditionalGids), maxGroups)
	}
	window, err := window(p)
	if err != nil {
		return nil, err
	}
	granted := grant(p.Capabilities)
	// The agent's own score must not be inherited: containers go first when memory runs out.
	oom := int(max(0, min(p.OOMScoreAdj, 1000)))
	return &specs.Process{
		Terminal: p.Terminal, ConsoleSize: window,
		User: user, Args: args, Env: env, Cwd: cwd,
		Capabilities:    &specs.LinuxCapabilities{Bounding: granted, Effective: granted, Permitted: granted},
		Rlimits:         limits,
		NoNewPrivileges: true,
		OOMScoreAdj:     &oom,
	}, nil
}

// window is the size that a process's terminal has at first; nil leaves it.
func window(p *agent.Process) (*specs.Box, error) {
	size := p.ConsoleSize
	if !p.Terminal || size == nil {
		return nil, nil
	}
	if size.Height > maxWindow || size.Width > maxWindow {
		return nil, invalid("a window of %d rows and %d columns, at most %d are set", size.Height, size.Width, maxWindow)
	}
	return &specs.Box{Height: uint(size.Height), Width: uint(size.Width)}, nil
}

func checkWords(words []string) error {
	if len(words) > maxWords {
		return invalid("%d arguments or variables, at most %d are taken", len(words), maxWords)
	}
	for _, w := range words {
		if strings.ContainsRune(w, 0) {
			return invalid("an argument or variable has a zero byte")
		}
	}
	return nil
}

// environment puts the request's variables over the image's, in a stable order.
func environment(image, request []string) ([]string, error) {
	var order []string
	values := map[string]string{}
	for _, e := range slices.Concat([]string{defaultPath}, image, request) {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, invalid("environment %.100q: want NAME=value", e)
		}
		if _, seen := values[name]; !seen {
			order = append(order, name)
		}
		values[name] = e
	}
	env := make([]string, len(order))
	for i, name := range order {
		env[i] = values[name]
	}
	return env, checkWords(env)
}

// grant is what of the capabilities asked for a container may have; it may ask for fewer than there are, and none of
// them is passed on to a program of another user.
func grant(asked *agent.LinuxCapabilities) []string {
	if asked == nil {
		return slices.Clone(capabilities)
	}
	granted := []string{}
	for _, c := range capabilities {
		if slices.Contains(asked.Bounding, c) {
			granted = append(granted, c)
		}
	}
	return granted
}

// rlimitCaps are the limits that may be set, and how far.
var rlimitCaps = map[string]uint64{
	"RLIMIT_AS": unix.RLIM_INFINITY, "RLIMIT_CORE": 0, "RLIMIT_CPU": unix.RLIM_INFINITY,
	"RLIMIT_DATA": unix.RLIM_INFINITY, "RLIMIT_FSIZE": unix.RLIM_INFINITY, "RLIMIT_LOCKS": unix.RLIM_INFINITY,
	"RLIMIT_MEMLOCK": 64 << 20, "RLIMIT_MSGQUEUE": 819200, "RLIMIT_NICE": 0, "RLIMIT_NOFILE": 1 << 20,
	"RLIMIT_NPROC": unix.RLIM_INFINITY, "RLIMIT_RSS": unix.RLIM_INFINITY, "RLIMIT_RTPRIO": 0, "RLIMIT_RTTIME": 0,
	"RLIMIT_SIGPENDING": 1 << 17, "RLIMIT_STACK": 64 << 20,
}

func rlimits(asked []*agent.POSIXRlimit) ([]specs.POSIXRlimit, error) {
	limits := map[string]specs.POSIXRlimit{
		"RLIMIT_CORE":   {Type: "RLIMIT_CORE"}, // memory holds secrets
		"RLIMIT_NOFILE": {Type: "RLIMIT_NOFILE", Soft: 1 << 16, Hard: 1 << 20},
	}
	for _, r := range asked {
		most, known := rlimitCaps[r.GetType()]
		if !known {
			return nil, invalid("resource limit %.100q is not known", r.GetType())
		}
		hard := min(r.Hard, most)
		limits[r.Type] = specs.POSIXRlimit{Type: r.Type, Hard: hard, Soft: min(r.Soft, hard)}
	}
	out := make([]specs.POSIXRlimit, 0, len(limits))
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		out = append(out, limits[name])
	}
	return out, nil
}

// standard mounts of every container, and where the sandbox's files appear.
func (a *Agent) standardMounts() []specs.Mount {
	file := func(destination, name string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "bind", Source: filepath.Join(a.Dir, name),
			Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}}
	}
	shm := file("/dev/shm", shmDir)
	shm.Options = []string{"bind", "rprivate", "rw", "nosuid", "nodev", "noexec"}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		shm,
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		file("/etc/resolv.conf", resolvConf), file("/etc/hosts", hostsFile), file("/etc/hostname", hostname),
	}
}

// mounts adds the volumes that a request mounts to the standard ones. Where it asks for one of the standard places,
// the container gets what is standard there.
func (a *Agent) mounts(id string, asked []*agent.Mount) ([]specs.Mount, error) {
	if len(asked) > maxMounts {
		return nil, invalid("%d mounts, at most %d are made", len(asked), maxMounts)
	}
	all := a.standardMounts()
	standard := make(map[string]bool, len(all))
	for _, m := range all {
		standard[m.Destination] = true
	}
	for _, m := range asked {
		if m == nil || standard[m.Destination] {
			continue
		}
		made, err := a.mount(id, m)
		if err != nil {
			return nil, err
		}
		all = append(all, made)
	}
	return all, nil
}

// mount checks one mount of a container's request: a volume of the pod, what the host has copied, the file for the
// termination message, or a tmpfs.
func (a *Agent) mount(id string, m *agent.Mount) (specs.Mount, error) {
	if a.asksTermination(m) {
		return a.terminationMount(id, m)
	}
	if err := checkDestination(m.Destination); err != nil {
		return specs.Mount{}, err
	}
	out := specs.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source}
	readonly := false // what the host has copied is, as Kubernetes has it for Secrets and their like
	switch m.Type {
	case "bind":
		a.mu.Lock()
		known := a.volumes[m.Source]
		a.mu.Unlock()
		_, copied := a.copiedSource(m.Source)
		if !known && !copied {
			return specs.Mount{}, invalid("mount %.200q: its source %.200q is not a volume of this pod",
				m.Destination, m.Source)
		}
		out.Options = []string{"bind", "rprivate"}
		readonly = copied
	case "tmpfs":
		out.Source = "tmpfs"
	default:
		return specs.Mount{}, invalid("mount %.200q: type %.100q is not supported", m.Destination, m.Type)
	}
	for _, o := range m.Options {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case o == "rw" && readonly:
		case slices.Contains([]string{"ro", "rw", "noexec", "noatime", "relatime"}, o):
			out.Options = append(out.Options, o)
		case m.Type == "tmpfs" && (key == "size" || key == "mode") && digits(value):
			out.Options = append(out.Options, o)
		case slices.Contains([]string{"bind", "rbind", "private", "rprivate", "nosuid", "nodev", "strictatime"}, o):
			// what is done anyway, or makes no difference
		default:
			return specs.Mount{}, invalid("mount %.200q: option %.100q is not supported", m.Destination, o)
		}
	}
	if readonly && !slices.Contains(out.Options, "ro") {
		out.Options = append(out.Options, "ro")
	}
	out.Options = append(out.Options, "nosuid", "nodev")
	return out, nil
}

func digits(s string) bool {
	return s != "" && len(s) < 20 && strings.Trim(s, "0123456789") == ""
}

// checkDestination keeps requests from mounting over what the runtime relies on or over what is masked.
func checkDestination(path string) error {
	clean := filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/"
	if !clean || len(path) >= unix.PathMax || strings.ContainsRune(path, 0) {
		return invalid("mount destination %.200q is not a clean absolute path", path)
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if path == kernel || strings.HasPrefix(path, kernel+"/") {
			return invalid("mount destination %.200q lies in a file system of the kernel", path)
		}
	}
	return nil
}

// paths adds a request's paths to ours: files of the kernel only, or a request could blank what is in the image, such
// as who may log in, or make a program's data read-only.
func paths(own, asked []string) ([]string, error) {
	if len(asked) > maxMounts {
		return nil, invalid("%d masked or read-only paths, at most %d are taken", len(asked), maxMounts)
	}
	all := slices.Clone(own)
	for _, p := range asked {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsRune(p, 0) {
			return nil, invalid("path %.200q is not a clean absolute path", p)
		}
		if !strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/") {
			return nil, invalid("path %.200q does not lie in a file system of the kernel", p)
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, nil
}

// resources are the container's limits inside the guest. Which devices it may use is not up to a request.
func resources(asked *agent.LinuxResources) (*specs.LinuxResources, error) {
	pids := int64(maxPids)
	out := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // the runtime adds the default devices
	}
	if asked == nil {
		out.Pids = &specs.LinuxPids{Limit: &pids}
		return out, nil
	}
	if m := asked.Memory; m.GetLimit() > 0 {
		const least = 4 << 20 // bytes; below it the runtime cannot start a process, and fails less clearly
		if m.Limit < least {
			return nil, invalid("memory limit of %d bytes, want at least %d", m.Limit, least)
		}
		limit := m.Limit
		out.Memory = &specs.LinuxMemory{Limit: &limit} // the guest has no swap
	}
	if c := asked.CPU; c != nil {
		cpu := &specs.LinuxCPU{}
		if c.Shares > 0 {
			cpu.Shares = &c.Shares
		}
		if c.Quota > 0 {
			cpu.Quota = &c.Quota
		}
		if c.Period > 0 {
			cpu.Period = &c.Period
		}
		out.CPU = cpu
	}
	if p := asked.Pids; p.GetLimit() > 0 {
		pids = min(p.Limit, pids)
	}
	out.Pids = &specs.LinuxPids{Limit: &pids}
	return out, nil
}
