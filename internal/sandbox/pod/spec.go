// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nacre-project/nacre/api/agent"
)

// Annotations of a container that its guest acts upon. The first ones are containerd's and Kata's.
const (
	annotationContainerType     = "io.kubernetes.cri.container-type"
	annotationContainerName     = "io.kubernetes.cri.container-name"
	annotationSandboxID         = "io.kubernetes.cri.sandbox-id"
	annotationSandboxName       = "io.kubernetes.cri.sandbox-name"
	annotationImage             = "io.kubernetes.cri.image-name"
	annotationKataContainerType = "io.katacontainers.pkg.oci.container_type"

	// AnnotationArgs with the value "append" says that the arguments come after the image's entry point. A host that pulls
	// images itself knows the entry point; ours does not.
	AnnotationArgs = "io.nacre.image.args"
	// AnnotationUser with the value "image" says that the image's user is to be used.
	AnnotationUser = "io.nacre.image.user"
)

// Where the guest keeps things, by Kata's convention.
const (
	containersDir = "/run/kata-containers/"
	sharedMemory  = "/run/kata-containers/sandbox/shm"
	ephemeralDir  = "/run/kata-containers/sandbox/ephemeral/"
	resolvConf    = "/run/kata-containers/sandbox/resolv.conf"
)

// What an ordinary container may do, as containerd grants it.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// What of the kernel's file systems an ordinary container does not see, or only reads.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// CreateRequests are the requests that create the pod's containers, init containers first, with the identifiers left open. They are
// what an agent policy for the pod has to allow.
func CreateRequests(p *Manifest) ([]*agent.CreateContainerRequest, error) {
	var requests []*agent.CreateContainerRequest
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		r, err := createRequest(p, &c, "", "")
		if err != nil {
			return nil, err
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// createRequest asks for one container of the pod.
func createRequest(p *Manifest, c *corev1.Container, sandboxID, id string) (*agent.CreateContainerRequest, error) {
	image, err := imageStorage(c.Image, id)
	if err != nil {
		return nil, err
	}
	process, annotations, err := process(p, c)
	if err != nil {
		return nil, err
	}
	annotations[annotationContainerType] = "container"
	annotations[annotationKataContainerType] = "pod_container"
	annotations[annotationContainerName] = c.Name
	annotations[annotationSandboxID] = sandboxID
	annotations[annotationSandboxName] = p.Name
	annotations[annotationImage] = c.Image
	request := &agent.CreateContainerRequest{
		ContainerId: id,
		ExecId:      id,
		Storages:    []*agent.Storage{image},
		OCI: &agent.Spec{
			Version:     "1.1.0",
			Process:     process,
			Root:        &agent.Root{Path: rootfs(id), Readonly: readOnlyRoot(c)},
			Hostname:    hostname(p.Pod),
			Mounts:      standardMounts(),
			Annotations: annotations,
			Linux: &agent.Linux{
				CgroupsPath: "/nacre/" + id,
				// No network namespace: the guest is the pod, its network is the pod's.
				Namespaces: []*agent.LinuxNamespace{
					{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"},
				},
				Resources:     resources(c),
				MaskedPaths:   maskedPaths,
				ReadonlyPaths: readonlyPaths,
			},
		},
	}
	for _, m := range c.VolumeMounts {
		source := ephemeralDir + m.Name
		options := []string{"rbind", "rprivate", "rw"}
		copied := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name && (v.Secret != nil || v.ConfigMap != nil)
		})
		if copied {
			source = copiedVolumes + m.Name
		} else {
			request.Storages = append(request.Storages, volumeStorage(p.Pod, m.Name, source))
		}
		if m.ReadOnly || copied {
			options[2] = "ro"
		}
		request.OCI.Mounts = append(request.OCI.Mounts,
			&agent.Mount{Destination: m.MountPath, Source: source, Type: "bind", Options: options})
	}
	return request, nil
}

func rootfs(id string) string { return containersDir + id + "/rootfs" }

// imageStorage is the request to pull an image inside the guest.
func imageStorage(reference, id string) (*agent.Storage, error) {
	option, err := json.Marshal(map[string]any{"metadata": map[string]string{annotationImage: reference}})
	if err != nil {
		return nil, fmt.Errorf("describing image %s: %w", reference, err)
	}
	return &agent.Storage{
		Driver:        "image_guest_pull",
		DriverOptions: []string{"image_guest_pull=" + string(option)},
		Source:        reference,
		Fstype:        "overlay",
		MountPoint:    rootfs(id),
	}, nil
}

// volumeStorage is an emptyDir: memory of the guest, which the host cannot read and which shares the guest's lifetime.
func volumeStorage(p *corev1.Pod, volume, mountPoint string) *agent.Storage {
	s := &agent.Storage{
		Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: mountPoint,
		Options: []string{"nosuid", "nodev", "mode=0777"},
	}
	for _, v := range p.Spec.Volumes {
		if v.Name == volume && v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil {
			s.Options = append(s.Options, "size="+strconv.FormatInt(v.EmptyDir.SizeLimit.Value(), 10))
		}
	}
	return s
}

func standardMounts() []*agent.Mount {
	return []*agent.Mount{
		{Destination: "/proc", Source: "proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Source: "devpts", Type: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Source: "mqueue", Type: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Source: sharedMemory, Type: "bind", Options: []string{"rbind"}},
		{Destination: "/sys", Source: "sysfs", Type: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Source: "cgroup", Type: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/etc/resolv.conf", Source: resolvConf, Type: "bind", Options: []string{"rbind", "rprivate", "ro"}},
	}
}

// process is what runs, and the annotations that say what of it is the image's to decide.
func process(p *Manifest, c *corev1.Container) (*agent.Process, map[string]string, error) {
	annotations := map[string]string{}
	values := map[string]string{}
	lookup := func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
	env := []string{"HOSTNAME=" + hostname(p.Pod)}
	variables, err := p.environment(c)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range variables {
		value := v.value
		if !v.literal {
			value = expand(value, lookup)
		}
		if _, again := values[v.name]; again { // the last one counts, and is the only one that the policy allows
			env = slices.DeleteFunc(env, func(have string) bool { return strings.HasPrefix(have, v.name+"=") })
		}
		values[v.name] = value
		env = append(env, v.name+"="+value)
	}
	var args []string
	for _, a := range slices.Concat(c.Command, c.Args) {
		args = append(args, expand(a, lookup))
	}
	if len(c.Command) == 0 && len(c.Args) > 0 {
		annotations[AnnotationArgs] = "append"
	}
	user := &agent.User{}
	podContext, context := p.Spec.SecurityContext, c.SecurityContext
	if podContext == nil {
		podContext = &corev1.PodSecurityContext{}
	}
	if context == nil {
		context = &corev1.SecurityContext{}
	}
	if uid := cmp.Or(context.RunAsUser, podContext.RunAsUser); uid != nil {
		user.UID = uint32(*uid)
	} else {
		annotations[AnnotationUser] = "image"
	}
	if gid := cmp.Or(context.RunAsGroup, podContext.RunAsGroup); gid != nil {
		user.GID = uint32(*gid)
	}
	for _, gid := range podContext.SupplementalGroups {
		user.AdditionalGids = append(user.AdditionalGids, uint32(gid))
	}
	granted := capabilities(context.Capabilities)
	return &agent.Process{
		// No working directory means the image's.
		User: user, Args: args, Env: env, Cwd: c.WorkingDir,
		Capabilities: &agent.LinuxCapabilities{Bounding: granted, Effective: granted, Permitted: granted},
		// Absent means allowed, which is Kubernetes' default.
		NoNewPrivileges: context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation,
	}, annotations, nil
}

func capabilities(change *corev1.Capabilities) []string {
	granted := slices.Clone(defaultCapabilities)
	if change == nil {
		return granted
	}
	full := func(c corev1.Capability) string {
		name := strings.ToUpper(string(c))
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		return name
	}
	for _, c := range change.Drop {
		if full(c) == "CAP_ALL" {
			granted = nil
		}
		granted = slices.DeleteFunc(granted, func(have string) bool { return have == full(c) })
	}
	for _, c := range change.Add {
		if !slices.Contains(granted, full(c)) {
			granted = append(granted, full(c))
		}
	}
	return granted
}

// resources limits one container inside the guest; the guest as a whole is limited by its size.
func resources(c *corev1.Container) *agent.LinuxResources {
	const period = 100_000 // microseconds
	r := &agent.LinuxResources{}
	if memory := c.Resources.Limits.Memory(); !memory.IsZero() {
		r.Memory = &agent.LinuxMemory{Limit: memory.Value()}
	}
	if cpu := c.Resources.Limits.Cpu(); !cpu.IsZero() {
		r.CPU = &agent.LinuxCPU{Period: period, Quota: cpu.MilliValue() * period / 1000}
	}
	return r
}

func readOnlyRoot(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem
}

func hostname(p *corev1.Pod) string { return cmp.Or(p.Spec.Hostname, p.Name) }
