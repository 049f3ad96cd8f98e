# SPDX-License-Identifier: Apache-2.0

# What the host may ask of this pod's guest. The rules are the same for every pod; what differs is policy_data at the end, which names
# the containers that may run. A request without a rule here is refused.

package agent_policy

import rego.v1

# What every pod needs: an address, a sandbox, the end of both.

UpdateInterfaceRequest := true

UpdateRoutesRequest := true

GuestDetailsRequest := true

StartContainerRequest := true

SignalProcessRequest := true

WaitProcessRequest := true

StatsContainerRequest := true

DestroySandboxRequest := true

CreateSandboxRequest if {
	input.guest_hook_path == ""
	count(input.kernel_modules) == 0
	input.sandbox_pidns == false
	every storage in input.storages {
		shared_memory(storage)
	}
}

# The memory that the pod's containers share, and nothing where a container's volume is going to be: of two that make a volume the
# first decides.
shared_memory(storage) if {
	storage.driver == "ephemeral"
	storage.driver_options == []
	storage.fstype == "tmpfs"
	storage.fs_group == null
	storage.mount_point == "/run/kata-containers/sandbox/shm"
	every option in storage.options {
		regex.match(`^(noexec|nosuid|nodev|mode=1777|size=[1-9][0-9]*)$`, option)
	}
}

# What the owner decides: whether the host reads the containers' output, and whether it may start programs in them.

ReadStreamRequest if policy_data.allow_logs

ReadStreamRequest if execution_allowed

WriteStreamRequest if policy_data.allow_exec

WriteStreamRequest if execution_allowed

CloseStdinRequest if policy_data.allow_exec

CloseStdinRequest if execution_allowed

TtyWinResizeRequest if policy_data.allow_exec

# The process is one that an execution pattern of the owner allowed. Those of probes and hooks are no such: their exit codes count.
execution_allowed if state[concat(" ", [input.container_id, input.exec_id])] == "exec"

# Programs in containers: those of probes and hooks, and those that the owner's patterns name, each in its container alone and as its
# container's user. What is known of containers is what this policy's own answers left.

ExecProcessRequest if {
	policy_data.allow_exec
} else := {"allowed": true} if {
	exec_argv in execution.argv
	count(exec_faults) == 0
} else := {"allowed": true, "ops": [op]} if {
	some pattern in execution.patterns
	regex.match(pattern, concat("\u0000", exec_argv))
	every word in exec_argv {
		not contains(word, "\u0000")
	}
	count(exec_faults) == 0
	op := {"op": "add", "path": sprintf("/pstate/%s %s", [input.container_id, input.exec_id]), "value": "exec"}
} else := {"allowed": false, "reasons": exec_reasons}

running := element(policy_data.containers, state[input.container_id])

execution := running.exec

# What earlier answers left: for the id of a container its place in policy_data, and which programs the owner's patterns let run.
default state := {}

state := data.pstate

# Functions say nothing of their arguments' types, so that what one policy's data lacks is undefined and no mistake.
element(list, i) := list[i]

containers := untyped(policy_data.containers)

files := untyped(policy_data.files)

untyped(value) := value

exec_argv := input.process.Args

exec_fields := ["exec_id", "string_user", "process.Terminal", "process.Env", "process.Cwd", "process.User", "process.Capabilities"]

exec_faults := [field | some field in exec_fields; not exec_matches(field)]

exec_matches("exec_id") if identifier(input.exec_id)

exec_matches("string_user") if input.string_user == null

exec_matches("process.Terminal") if input.process.Terminal == false

exec_matches("process.Env") if env_matches(running, input.process.Env)

exec_matches("process.Cwd") if cwd_matches(running, input.process.Cwd)

exec_matches("process.User") if same_user(execution.user, input.process.User)

exec_matches("process.Capabilities") if {
	capability_sets(input.process.Capabilities) == capability_sets(running.OCI.Process.Capabilities)
}

exec_reasons := ["container_id is none of this policy's containers that allows commands"] if {
	not execution
} else := [sprintf("%s is not what the policy has", [field]) | some field in exec_faults] if {
	count(exec_faults) > 0
} else := ["process.Args is no command of a probe, a hook or --allow exec"]

# Files that the host copies: only those that policy_data names, whole, and with the content that it has. The guest keeps them
# below one directory whatever their path.

CopyFileRequest if {
	some file in files
	input.file_type == file.file_type
	copied_to(file)
	count([field | some field in file_fields; not same_in_file(field, file)]) == 0
	input.offset == 0
} else if {
	kubelet_file
} else := {"allowed": false, "reasons": copy_reasons}

file_fields := ["file_mode", "dir_mode", "uid", "gid", "file_size", "data_sha256"]

same_in_file(field, file) if input[field] == file[field]

same_in_file("dir_mode", file) if {
	input.path != file.path # in a kubelet's volume; 0750, 0755
	input.dir_mode in {488, 493}
}

copied_to(file) if input.path == file.path

# A host that hands on a kubelet's volume names the directory after the container, and keeps the files behind two links.
copied_to(file) if regex.match(file.path_pattern, input.path)

# The directories and links of a kubelet's volumes, and the files that the guest makes anew or that are the cluster's.
kubelet_file if {
	some volume in policy_data.kubelet_volumes
	regex.match(volume, input.path)
	input.offset == 0
	kubelet_entry
}

kubelet_file if {
	input.file_type == "Regular"
	some pattern in policy_data.kubelet_files
	regex.match(pattern, input.path)
}

kubelet_entry if input.file_type == "Directory"

kubelet_entry if {
	input.file_type == "Symlink"
	regex.match(`^\.\.(data(/[A-Za-z0-9_.-]+)+|[0-9][0-9_.]*)$`, input.symlink_target)
	not contains(input.symlink_target, "/..")
}

copy_reasons := [sprintf("%s is not what the policy has of %s", [field, file.path]) |
	some file in files
	copied_to(file)
	some field in array.concat(["file_type"], file_fields)
	not same_in_file(field, file)
] if {
	some file in files
	copied_to(file)
} else := ["path is none that the policy has"]

# Containers: only those that policy_data names. Every field below is compared by a rule that must hold; what no rule can tell is a
# difference. The state keeps which container an id stands for.

CreateContainerRequest := {"allowed": true, "ops": [op]} if {
	every field in request_fields {
		request_matches(field)
	}
	index := min({i | some i, container in containers; container_matches(container)})
	op := {"op": "add", "path": concat("/", ["/pstate", input.container_id]), "value": index}
	object.get(state, input.container_id, index) == index
} else := {"allowed": false, "reasons": array.concat(request_reasons, container_reasons)}

RemoveContainerRequest := {"allowed": true, "ops": ops} if {
	of_container := sprintf("%s ", [input.container_id])
	known := [{"op": "remove", "path": concat("/", ["/pstate", key])} |
		some key, _ in state
		known_as(key, of_container)
	]
	ops := array.slice(known, 0, 64) # as many as the guest does at once; what is left is of no container
}

known_as(key, _) if key == input.container_id

known_as(key, of_container) if startswith(key, of_container)

identifier(id) if regex.match(`^[A-Za-z0-9_.-]*$`, id)

request_fields := [
	"container_id",
	"devices",
	"shared_mounts",
	"sandbox_pidns",
	"string_user",
	"storages.driver",
	"OCI.Hooks",
	"OCI.Linux.Devices",
	"OCI.Linux.Sysctl",
	"OCI.Linux.Namespaces",
	"OCI.Linux.UIDMappings",
]

request_matches("container_id") if identifier(input.container_id)

request_matches("devices") if input.devices == []

request_matches("shared_mounts") if input.shared_mounts == []

request_matches("sandbox_pidns") if input.sandbox_pidns == false

request_matches("string_user") if input.string_user == null

# Memory of the guest, and the image, which is pulled in it.
request_matches("storages.driver") if {
	every storage in input.storages {
		storage.driver in {"image_guest_pull", "ephemeral"}
	}
}

request_matches("OCI.Hooks") if input.OCI.Hooks == null

request_matches("OCI.Hooks") if {
	every _, hooks in input.OCI.Hooks {
		hooks == []
	}
}

request_matches("OCI.Linux.Devices") if input.OCI.Linux.Devices == []

request_matches("OCI.Linux.Sysctl") if input.OCI.Linux.Sysctl == {}

request_matches("OCI.Linux.Namespaces") if {
	every namespace in input.OCI.Linux.Namespaces {
		namespace.Path == ""
	}
}

request_matches("OCI.Linux.UIDMappings") if {
	input.OCI.Linux.UIDMappings == []
	input.OCI.Linux.GIDMappings == []
}

container_fields := [
	"image",
	"OCI.Process.Args",
	"OCI.Process.Env",
	"OCI.Process.Cwd",
	"OCI.Process.User",
	"OCI.Process.Terminal",
	"OCI.Process.NoNewPrivileges",
	"OCI.Process.Capabilities",
	"OCI.Process.Rlimits",
	"OCI.Process.OOMScoreAdj",
	"OCI.Root.Readonly",
	"OCI.Mounts",
	"storages",
]

container_matches(container) if {
	every field in container_fields {
		matches(field, container)
	}
}

# The image is pulled in the guest, by the name that the policy has, or by the same with its registry written out.
matches("image", container) if {
	images := [storage.source | some storage in input.storages; storage.driver == "image_guest_pull"]
	count(images) == 1
	named(container, images[0])
}

named(container, reference) if reference == container.OCI.Annotations["io.kubernetes.cri.image-name"]

named(container, reference) if reference in container.references

# A container of which only the image is named may run anything that is in it.
matches(field, container) if {
	field != "image"
	not container.OCI.Process
}

# The arguments as the manifest has them, the entry point being left to the guest, or all of them.
matches("OCI.Process.Args", container) if {
	argv_matches(container.OCI.Process.Args, object.get(container, "args_patterns", {}), input.OCI.Process.Args)
	image_decides("io.nacre.image.args", input.OCI) == image_decides("io.nacre.image.args", container.OCI)
}

matches("OCI.Process.Args", container) if {
	argv_matches(container.image.Args, object.get(container.image, "args_patterns", {}), input.OCI.Process.Args)
	image_decides("io.nacre.image.args", input.OCI) == ""
}

argv_matches(want, _, got) if got == want

argv_matches(want, patterns, got) if {
	count(patterns) > 0
	count(got) == count(want)
	every i, word in got {
		word_matches(word, want[i], object.get(patterns, format_int(i, 10), null))
	}
}

word_matches(word, want, null) if word == want

word_matches(word, _, pattern) if {
	pattern != null
	regex.match(pattern, word)
}

matches("OCI.Process.Env", container) if env_matches(container, input.OCI.Process.Env)

# All that the owner sets, and else only what the image sets, or what a kubelet adds under names that neither uses. These are asked for
# in one expression, joined by zero bytes, which cannot stand in them.
env_matches(container, variables) if {
	got := {variable | some variable in variables}
	want := {variable | some variable in container.OCI.Process.Env}
	count(want - got) == 0
	rest := (got - want) - image_env(container)
	regex.match(container.env_rest, concat("\u0000", rest))
	every name in object.get(container, "env_reserved", []) {
		every variable in rest {
			not startswith(variable, name)
		}
	}
	every pattern in object.get(container, "env_patterns", {}) {
		some variable in rest
		regex.match(pattern, variable)
	}
}

image_env(container) := {variable | some variable in container.image.Env}

matches("OCI.Process.Cwd", container) if cwd_matches(container, input.OCI.Process.Cwd)

cwd_matches(container, cwd) if cwd == container.OCI.Process.Cwd

cwd_matches(container, cwd) if {
	container.OCI.Process.Cwd == ""
	cwd == container.image.Cwd
}

matches("OCI.Process.User", container) if {
	same_user(container.OCI.Process.User, input.OCI.Process.User)
	image_decides("io.nacre.image.user", input.OCI) == image_decides("io.nacre.image.user", container.OCI)
}

matches("OCI.Process.User", container) if {
	same_user(container.image.User, input.OCI.Process.User)
	image_decides("io.nacre.image.user", input.OCI) == ""
}

# Newer runtimes repeat the group among the others.
same_user(want, got) if {
	got.UID == want.UID
	got.GID == want.GID
	got.Username == ""
	{g | some g in got.AdditionalGids} - {got.GID} == {g | some g in want.AdditionalGids} - {got.GID}
}

matches("OCI.Process.Terminal", container) if {
	container.OCI.Process
	input.OCI.Process.Terminal == false
}

matches("OCI.Process.NoNewPrivileges", container) if {
	input.OCI.Process.NoNewPrivileges == container.OCI.Process.NoNewPrivileges
}

# Fewer capabilities than the owner gives can make a program fail open, so none may be missing either.
matches("OCI.Process.Capabilities", container) if {
	capability_sets(input.OCI.Process.Capabilities) == capability_sets(container.OCI.Process.Capabilities)
}

capability_sets(null) := null

capability_sets(capabilities) := [{c | some c in capabilities.Bounding},
	{c | some c in capabilities.Effective},
	{c | some c in capabilities.Inheritable},
	{c | some c in capabilities.Permitted},
	{c | some c in capabilities.Ambient},
] if {
	capabilities != null
}

matches("OCI.Process.Rlimits", container) if input.OCI.Process.Rlimits == container.OCI.Process.Rlimits

matches("OCI.Process.OOMScoreAdj", container) if {
	not container.oom_score
	input.OCI.Process.OOMScoreAdj == container.OCI.Process.OOMScoreAdj
}

# A kubelet computes it from the node's memory, within the pod's class of service.
matches("OCI.Process.OOMScoreAdj", container) if {
	input.OCI.Process.OOMScoreAdj >= container.oom_score[0]
	input.OCI.Process.OOMScoreAdj <= container.oom_score[1]
}

matches("OCI.Process.OOMScoreAdj", container) if {
	container.oom_score
	input.OCI.Process.OOMScoreAdj == container.OCI.Process.OOMScoreAdj
}

matches("OCI.Root.Readonly", container) if input.OCI.Root.Readonly == container.OCI.Root.Readonly

# No mount more, which could hide what is in the image, and none less, by destination and what is mounted there. Where every container
# has the same, the guest mounts its own whatever is asked.
matches("OCI.Mounts", container) if {
	want := container.OCI.Mounts
	got := [mount | some mount in input.OCI.Mounts; not standard_mount(mount)]
	every mount in got {
		some allowed in want
		same_mount(mount, allowed)
	}
	every mount in want {
		made(mount, got)
	}
	count({mount.destination | some mount in got}) == count(got)
}

made(mount, _) if mount.optional

made(mount, got) if {
	some one in got
	same_mount(one, mount)
}

standard_mounts := {
	"/proc": {"proc"}, "/dev": {"tmpfs"}, "/dev/pts": {"devpts"}, "/dev/mqueue": {"mqueue"}, "/dev/shm": {"bind", "tmpfs"},
	"/sys": {"sysfs"}, "/sys/fs/cgroup": {"cgroup"}, "/etc/resolv.conf": {"bind"}, "/etc/hosts": {"bind"}, "/etc/hostname": {"bind"},
}

# The owner's own mount at such a place is none of these.
standard_mount(mount) if mount.type in standard_mounts[mount.destination]

same_mount(got, want) if {
	got.destination == want.destination
	got.type == want.type
	same_source(got.source, want)
	mount_options(got.options) == mount_options(want.options)
}

same_source(source, want) if source == want.source

same_source(source, want) if regex.match(want.source_pattern, source)

# What the guest does anyway, and what only says that nothing else is asked.
usual_options := {
	"bind", "rbind", "private", "rprivate", "slave", "rslave", "rw", "nosuid", "nodev", "strictatime", "relatime",
}

mount_options(options) := {option | some option in options} - usual_options

matches("storages", container) if {
	made := {volume(storage) | some storage in input.storages; storage.driver != "image_guest_pull"}
	made == {volume(storage) | some storage in container.storages}
	every storage in input.storages {
		storage.fs_group == null
	}
}

volume(storage) := [
	storage.driver, storage.driver_options, storage.source, storage.fstype, storage.mount_point,
	{option | some option in storage.options},
]

# What a container leaves to its image: whether its arguments follow the entry point, and its user.
image_decides(name, oci) := object.get(oci.Annotations, name, "")

# Why a container is refused: the fields of the request, and those in which it differs from the container of its name, else from those of
# its image.

request_reasons := [sprintf("%s is not what the policy takes", [field]) | some field in request_fields; not request_matches(field)]

container_reasons := ["OCI is missing"] if {
	input.OCI == null
} else := [sprintf("container %s: %s is not what the policy has", [object.get(container, "name", "?"), field]) |
	some container in containers
	container.name == input.OCI.Annotations["io.kubernetes.cri.container-name"]
	some field in container_fields
	not matches(field, container)
] if {
	some container in containers
	container.name == input.OCI.Annotations["io.kubernetes.cri.container-name"]
} else := [sprintf("container %s: %s is not what the policy has", [object.get(container, "name", "?"), field]) |
	some container in containers
	matches("image", container)
	some field in container_fields
	not matches(field, container)
] if {
	some container in containers
	matches("image", container)
} else := ["image is none that the policy has"]

policy_data := {
  "allow_exec": false,
  "allow_logs": true,
  "containers": [
    {
      "name": "main",
      "OCI": {
        "Annotations": {
          "io.kubernetes.cri.image-name": "registry.example/app@sha256:aa",
          "io.nacre.image.args": "append",
          "io.nacre.image.user": "image"
        },
        "Process": {
          "Args": [
            "serve",
            "--all"
          ],
          "Env": [
            "MODE=a=b"
          ],
          "Cwd": "",
          "User": {
            "UID": 0,
            "GID": 0,
            "AdditionalGids": []
          },
          "NoNewPrivileges": false,
          "Capabilities": {
            "Bounding": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FSETID",
              "CAP_FOWNER",
              "CAP_MKNOD",
              "CAP_NET_RAW",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETFCAP",
              "CAP_SETPCAP",
              "CAP_NET_BIND_SERVICE",
              "CAP_SYS_CHROOT",
              "CAP_KILL",
              "CAP_AUDIT_WRITE"
            ],
            "Effective": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FSETID",
              "CAP_FOWNER",
              "CAP_MKNOD",
              "CAP_NET_RAW",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETFCAP",
              "CAP_SETPCAP",
              "CAP_NET_BIND_SERVICE",
              "CAP_SYS_CHROOT",
              "CAP_KILL",
              "CAP_AUDIT_WRITE"
            ],
            "Inheritable": [],
            "Permitted": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FSETID",
              "CAP_FOWNER",
              "CAP_MKNOD",
              "CAP_NET_RAW",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETFCAP",
              "CAP_SETPCAP",
              "CAP_NET_BIND_SERVICE",
              "CAP_SYS_CHROOT",
              "CAP_KILL",
              "CAP_AUDIT_WRITE"
            ],
            "Ambient": []
          },
          "Rlimits": [],
          "OOMScoreAdj": 0
        },
        "Root": {
          "Readonly": false
        },
        "Mounts": [
          {
            "destination": "/scratch",
            "source": "/run/kata-containers/sandbox/ephemeral/scratch",
            "type": "bind",
            "options": [
              "rbind",
              "rprivate",
              "rw"
            ]
          }
        ]
      },
      "storages": [
        {
          "driver": "ephemeral",
          "driver_options": [],
          "source": "tmpfs",
          "fstype": "tmpfs",
          "mount_point": "/run/kata-containers/sandbox/ephemeral/scratch",
          "options": [
            "nosuid",
            "nodev",
            "mode=0777"
          ]
        }
      ],
      "env_rest": "^((HOSTNAME=[a-z0-9.-]*)(\\x00(HOSTNAME=[a-z0-9.-]*))*)?$"
    },
    {
      "name": "second",
      "OCI": {
        "Annotations": {
          "io.kubernetes.cri.image-name": "registry.example/other@sha256:bb"
        },
        "Process": {
          "Args": [
            "/bin/other"
          ],
          "Env": [],
          "Cwd": "",
          "User": {
            "UID": 1000,
            "GID": 0,
            "AdditionalGids": []
          },
          "NoNewPrivileges": false,
          "Capabilities": {
            "Bounding": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FSETID",
              "CAP_FOWNER",
              "CAP_MKNOD",
              "CAP_NET_RAW",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETFCAP",
              "CAP_SETPCAP",
              "CAP_NET_BIND_SERVICE",
              "CAP_SYS_CHROOT",
              "CAP_KILL",
              "CAP_AUDIT_WRITE"
            ],
            "Effective": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FSETID",
              "CAP_FOWNER",
              "CAP_MKNOD",
              "CAP_NET_RAW",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETFCAP",
              "CAP_SETPCAP",
              "CAP_NET_BIND_SERVICE",
              "CAP_SYS_CHROOT",
              "CAP_KILL",
              "CAP_AUDIT_WRITE"
            ],
            "Inheritable": [],
            "Permitted": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FSETID",
              "CAP_FOWNER",
              "CAP_MKNOD",
              "CAP_NET_RAW",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETFCAP",
              "CAP_SETPCAP",
              "CAP_NET_BIND_SERVICE",
              "CAP_SYS_CHROOT",
              "CAP_KILL",
              "CAP_AUDIT_WRITE"
            ],
            "Ambient": []
          },
          "Rlimits": [],
          "OOMScoreAdj": 0
        },
        "Root": {
          "Readonly": false
        },
        "Mounts": []
      },
      "storages": [],
      "env_rest": "^((HOSTNAME=[a-z0-9.-]*)(\\x00(HOSTNAME=[a-z0-9.-]*))*)?$"
    },
    {
      "OCI": {
        "Annotations": {
          "io.kubernetes.cri.image-name": "registry.example/tool@sha256:cc"
        }
      }
    }
  ],
  "files": [],
  "kubelet_volumes": [],
  "kubelet_files": []
}
