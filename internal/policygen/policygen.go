// SPDX-License-Identifier: Apache-2.0

// Package policygen writes agent policies: the rules by which a guest decides what its host may ask of it.
//
// A policy is a fixed set of rules and the data of one pod. The data is made from the very requests by which the pod would be run,
// so that what is allowed and what is asked cannot drift apart; what a request may have in any form (identifiers, sandbox names) is
// left out. Whoever authorises the policy has to read the data only.
//
// The package trusts the pod's manifest, which is the owner's. It evaluates nothing: the guest does.
package policygen

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/api/agent"
)

//go:embed agent_policy.rego
var rules string

const (
	annotationImage = "io.kubernetes.cri.image-name"
	annotationName  = "io.kubernetes.cri.container-name"
	annotationArgs  = "io.nacre.image.args"
	annotationUser  = "io.nacre.image.user"
)

// standardMounts are what every container has, by destination, with the types in which hosts ask for them. The guest mounts its own there,
// so the policy says nothing of them; agent_policy.rego has the same list.
var standardMounts = map[string][]string{
	"/proc": {"proc"}, "/dev": {"tmpfs"}, "/dev/pts": {"devpts"}, "/dev/mqueue": {"mqueue"}, "/dev/shm": {"bind", "tmpfs"},
	"/sys": {"sysfs"}, "/sys/fs/cgroup": {"cgroup"}, "/etc/resolv.conf": {"bind"}, "/etc/hosts": {"bind"}, "/etc/hostname": {"bind"},
}

// driverImage is the storage that stands for the container's image; its mount point has the container's id.
const driverImage = "image_guest_pull"

// Pod says what may run. The zero value allows no container.
type Pod struct {
	// Requests are those that create the pod's containers: exactly such containers may run.
	Requests []*agent.CreateContainerRequest
	// Files are what the host copies into the guest: exactly such files, with this content.
	Files []*agent.CopyFileRequest
	// Images may run with whatever arguments, environment and user the host chooses.
	Images []string
	// AllowLogs lets the host read what containers print.
	AllowLogs bool
	// AllowExec lets the host start programs in containers, and thereby read everything in them.
	AllowExec bool
	// Kubelet is what a kubelet adds to the requests of containers, by the container's name. Where there is any, files are taken as a
	// kubelet's host copies them, too.
	Kubelet map[string]Kubelet
}

// The data of a policy, in the shape in which Kata's generator writes it: the parts of a request that are compared.
type (
	data struct {
		AllowExec  bool        `json:"allow_exec"`
		AllowLogs  bool        `json:"allow_logs"`
		Containers []container `json:"containers"`
		Files      []file      `json:"files"`
		// KubeletVolumes and KubeletFiles are patterns of paths: the directories and links of volumes, and files of any content.
		KubeletVolumes []string `json:"kubelet_volumes"`
		KubeletFiles   []string `json:"kubelet_files"`
	}
	container struct {
		Name     string    `json:"name,omitempty"`
		OCI      spec      `json:"OCI"`
		Storages []storage `json:"storages,omitzero"` // absent where only the image is named
		kubernetes
	}
	spec struct {
		Annotations map[string]string
		Process     *process `json:",omitempty"`
		Root        *root    `json:",omitempty"`
		Mounts      []mount  `json:",omitzero"`
	}
	process struct {
		Args, Env       []string
		Cwd             string
		User            user
		NoNewPrivileges bool
		Capabilities    *capabilities // null means whatever the guest grants
		Rlimits         []rlimit
		OOMScoreAdj     int64
	}
	user struct {
		UID, GID       uint32
		AdditionalGids []uint32
	}
	capabilities struct{ Bounding, Effective, Inheritable, Permitted, Ambient []string }
	// rlimit has the fields of the input, which has every field of a message.
	rlimit struct {
		Type       string
		Hard, Soft uint64
	}
	root  struct{ Readonly bool }
	mount struct {
		Destination   string   `json:"destination"`
		Source        string   `json:"source"`
		SourcePattern string   `json:"source_pattern,omitempty"`
		Type          string   `json:"type"`
		Options       []string `json:"options"`
		Optional      bool     `json:"optional,omitempty"`
	}
	// file is a file or directory that the host copies, whole, with its content's SHA-256 in hex.
	file struct {
		Path     string `json:"path"`
		Pattern  string `json:"path_pattern,omitempty"`
		Type     string `json:"file_type"`
		FileMode uint32 `json:"file_mode"`
		DirMode  uint32 `json:"dir_mode"`
		UID      int32  `json:"uid"`
		GID      int32  `json:"gid"`
		Size     int64  `json:"file_size"`
		SHA256   string `json:"data_sha256"`
	}
	// storage is a volume of the pod that the container has made.
	storage struct {
		Driver        string   `json:"driver"`
		DriverOptions []string `json:"driver_options"`
		Source        string   `json:"source"`
		Fstype        string   `json:"fstype"`
		MountPoint    string   `json:"mount_point"`
		Options       []string `json:"options"`
	}
)

// Rego returns the policy's text.
func (p Pod) Rego() (string, error) {
	d := data{AllowExec: p.AllowExec, AllowLogs: p.AllowLogs, Containers: []container{}, Files: []file{},
		KubeletVolumes: []string{}, KubeletFiles: []string{}}
	for _, r := range p.Files {
		f, err := copied(r)
		if err != nil {
			return "", fmt.Errorf("writing an agent policy: %w", err)
		}
		d.Files = append(d.Files, f)
	}
	for _, r := range p.Requests {
		if r.GetOCI().GetProcess() == nil || r.GetOCI().GetAnnotations()[annotationImage] == "" {
			return "", errors.New("writing an agent policy: a request to create a container has no process or no image")
		}
		c := container{Name: r.GetOCI().GetAnnotations()[annotationName], OCI: compared(r.GetOCI()), Storages: volumes(r.GetStorages())}
		k, ok := p.Kubelet[c.Name]
		if !ok {
			c.rest(nil)
		} else if err := c.kubelet(k); err != nil {
			return "", fmt.Errorf("writing an agent policy: container %q: %w", c.Name, err)
		}
		d.Containers = append(d.Containers, c)
	}
	if len(p.Kubelet) > 0 {
		d.kubelet()
	}
	for _, image := range p.Images {
		if image == "" {
			return "", errors.New("writing an agent policy: an image has no name")
		}
		d.Containers = append(d.Containers, container{OCI: spec{Annotations: map[string]string{annotationImage: image}}})
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(d); err != nil {
		return "", fmt.Errorf("writing an agent policy: %w", err)
	}
	// The data is the last rule and begins in this way, so that verifiers can find it and show it as claims.
	return rules + "policy_data := " + text.String(), nil
}

// copied is what a policy says of a file.
func copied(r *agent.CopyFileRequest) (file, error) {
	kind, ok := map[uint32]string{unix.S_IFREG: "Regular", unix.S_IFDIR: "Directory"}[r.GetFileMode()&unix.S_IFMT]
	if !ok || r.GetOffset() != 0 || r.GetFileSize() != int64(len(r.GetData())) {
		return file{}, fmt.Errorf("%s is not a whole file or a directory", r.GetPath())
	}
	digest := sha256.Sum256(r.GetData())
	return file{
		r.GetPath(), "", kind, r.GetFileMode(), r.GetDirMode(), r.GetUid(), r.GetGid(), r.GetFileSize(), hex.EncodeToString(digest[:]),
	}, nil
}

// compared is what of a container's specification the rules look at.
func compared(s *agent.Spec) spec {
	annotations := map[string]string{}
	for key, value := range s.GetAnnotations() {
		if key == annotationImage || strings.HasPrefix(key, "io.nacre.image.") {
			annotations[key] = value
		}
	}
	p := s.GetProcess()
	out := spec{
		Annotations: annotations,
		Process: &process{
			Args: list(p.GetArgs()), Cwd: p.GetCwd(), NoNewPrivileges: p.GetNoNewPrivileges(),
			User: user{p.GetUser().GetUID(), p.GetUser().GetGID(), list(p.GetUser().GetAdditionalGids())},
			// The name of the pod differs from pod to pod of one template.
			Env: list(without(p.GetEnv(), "HOSTNAME=")), OOMScoreAdj: p.GetOOMScoreAdj(), Rlimits: []rlimit{},
		},
		Root: &root{s.GetRoot().GetReadonly()},
	}
	if c := p.GetCapabilities(); c != nil {
		out.Process.Capabilities = &capabilities{
			Bounding: list(c.GetBounding()), Effective: list(c.GetEffective()), Inheritable: list(c.GetInheritable()),
			Permitted: list(c.GetPermitted()), Ambient: list(c.GetAmbient()),
		}
	}
	for _, l := range p.GetRlimits() {
		out.Process.Rlimits = append(out.Process.Rlimits, rlimit{l.GetType(), l.GetHard(), l.GetSoft()})
	}
	out.Mounts = []mount{}
	for _, m := range s.GetMounts() {
		if kinds, ok := standardMounts[m.GetDestination()]; !ok || !slices.Contains(kinds, m.GetType()) {
			out.Mounts = append(out.Mounts, mount{
				Destination: m.GetDestination(), Source: m.GetSource(), Type: m.GetType(), Options: list(m.GetOptions()),
			})
		}
	}
	return out
}

// volumes are a request's storages without the image, of which the reference alone is compared.
func volumes(all []*agent.Storage) []storage {
	out := []storage{}
	for _, s := range all {
		if s.GetDriver() != driverImage {
			out = append(out, storage{
				s.GetDriver(), list(s.GetDriverOptions()), s.GetSource(), s.GetFstype(), s.GetMountPoint(), list(s.GetOptions()),
			})
		}
	}
	return out
}

// list makes an absent list an empty one: Rego tells them apart.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func without(all []string, prefix string) []string {
	var kept []string
	for _, s := range all {
		if !strings.HasPrefix(s, prefix) {
			kept = append(kept, s)
		}
	}
	return kept
}
