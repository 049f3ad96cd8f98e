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

RemoveContainerRequest := true

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

ExecProcessRequest if policy_data.allow_exec

WriteStreamRequest if policy_data.allow_exec

CloseStdinRequest if policy_data.allow_exec

TtyWinResizeRequest if policy_data.allow_exec

# Files that the host copies: only those that policy_data names, whole, and with the content that it has. The guest keeps them
# below one directory whatever their path.

CopyFileRequest if {
	some file in object.get(policy_data, "files", [])
	input.path == file.path
	input.file_type == file.file_type
	input.file_mode == file.file_mode
	input.dir_mode == file.dir_mode
	input.uid == file.uid
	input.gid == file.gid
	input.offset == 0
	input.file_size == file.file_size
	input.data_sha256 == file.data_sha256
}

# Containers: only those that policy_data names.

CreateContainerRequest if {
	count(input.devices) == 0
	count(input.shared_mounts) == 0
	input.sandbox_pidns == false
	some container in policy_data.containers
	image_matches(container)
	process_matches(container)
	storages_match(container)
	mounts_match(container)
}

# The image is pulled in the guest, by the name that the policy has; what else is mounted is memory of the guest.
image_matches(container) if {
	reference := container.OCI.Annotations["io.kubernetes.cri.image-name"]
	images := [storage.source | some storage in input.storages; storage.driver == "image_guest_pull"]
	images == [reference]
	every storage in input.storages {
		storage.driver in {"image_guest_pull", "ephemeral"}
	}
}

# A container of which only the image is named may run anything that is in it.
process_matches(container) if not container.OCI.Process

process_matches(container) if {
	want := container.OCI.Process
	got := input.OCI.Process
	got.Args == want.Args
	got.Cwd == want.Cwd
	got.User.UID == want.User.UID
	got.User.GID == want.User.GID
	got.User.AdditionalGids == want.User.AdditionalGids
	got.User.Username == ""
	got.Terminal == false
	got.NoNewPrivileges == want.NoNewPrivileges
	input.OCI.Root.Readonly == container.OCI.Root.Readonly
	every variable in got.Env {
		env_allowed(variable, want.Env)
	}
	every variable in want.Env {
		variable in got.Env
	}
	got.Rlimits == want.Rlimits
	got.OOMScoreAdj == want.OOMScoreAdj
	capability_sets(got.Capabilities) == capability_sets(want.Capabilities)
	image_decides(input.OCI.Annotations) == image_decides(container.OCI.Annotations)
}

# Fewer capabilities than the owner gives can make a program fail open, so none may be missing either.
capability_sets(null) := null

capability_sets(capabilities) := {name: {c | some c in capabilities[name]} |
	some name in ["Bounding", "Effective", "Inheritable", "Permitted", "Ambient"]
} if {
	capabilities != null
}

env_allowed(variable, want) if variable in want

env_allowed(variable, _) if regex.match(`^HOSTNAME=[a-z0-9.-]*$`, variable)

# What a container leaves to its image: whether its arguments follow the entry point, and its user.
image_decides(annotations) := [value |
	some name in ["io.nacre.image.args", "io.nacre.image.user"]
	value := object.get(annotations, name, "")
]

storages_match(container) if not container.OCI.Process

# The volumes of the policy, made as it says. The image has its own rule.
storages_match(container) if {
	container.OCI.Process
	made := {storage |
		some asked in input.storages
		asked.driver != "image_guest_pull"
		storage := volume(asked)
	}
	made == {storage | some storage in container.storages}
	every storage in input.storages {
		storage.fs_group == null
	}
}

volume(storage) := {
	"driver": storage.driver,
	"driver_options": storage.driver_options,
	"source": storage.source,
	"fstype": storage.fstype,
	"mount_point": storage.mount_point,
	"options": storage.options,
}

mounts_match(container) if not container.OCI.Process

# No mount more, which could hide what is in the image, and none less.
mounts_match(container) if {
	container.OCI.Process
	want := object.get(container.OCI, "Mounts", [])
	every mount in input.OCI.Mounts {
		some allowed in want
		same_mount(mount, allowed)
	}
	every mount in want {
		some made in input.OCI.Mounts
		same_mount(made, mount)
	}
}

same_mount(a, b) if {
	a.destination == b.destination
	a.source == b.source
	a.type == b.type
	a.options == b.options
}

policy_data := {
  "allow_exec": false,
  "allow_logs": true,
  "containers": [
    {
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
            "destination": "/proc",
            "source": "proc",
            "type": "proc",
            "options": [
              "nosuid",
              "noexec",
              "nodev"
            ]
          },
          {
            "destination": "/dev",
            "source": "tmpfs",
            "type": "tmpfs",
            "options": [
              "nosuid",
              "strictatime",
              "mode=755",
              "size=65536k"
            ]
          },
          {
            "destination": "/dev/pts",
            "source": "devpts",
            "type": "devpts",
            "options": [
              "nosuid",
              "noexec",
              "newinstance",
              "ptmxmode=0666",
              "mode=0620",
              "gid=5"
            ]
          },
          {
            "destination": "/dev/mqueue",
            "source": "mqueue",
            "type": "mqueue",
            "options": [
              "nosuid",
              "noexec",
              "nodev"
            ]
          },
          {
            "destination": "/dev/shm",
            "source": "/run/kata-containers/sandbox/shm",
            "type": "bind",
            "options": [
              "rbind"
            ]
          },
          {
            "destination": "/sys",
            "source": "sysfs",
            "type": "sysfs",
            "options": [
              "nosuid",
              "noexec",
              "nodev",
              "ro"
            ]
          },
          {
            "destination": "/sys/fs/cgroup",
            "source": "cgroup",
            "type": "cgroup",
            "options": [
              "nosuid",
              "noexec",
              "nodev",
              "relatime",
              "ro"
            ]
          },
          {
            "destination": "/etc/resolv.conf",
            "source": "/run/kata-containers/sandbox/resolv.conf",
            "type": "bind",
            "options": [
              "rbind",
              "rprivate",
              "ro"
            ]
          },
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
      ]
    },
    {
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
        "Mounts": [
          {
            "destination": "/proc",
            "source": "proc",
            "type": "proc",
            "options": [
              "nosuid",
              "noexec",
              "nodev"
            ]
          },
          {
            "destination": "/dev",
            "source": "tmpfs",
            "type": "tmpfs",
            "options": [
              "nosuid",
              "strictatime",
              "mode=755",
              "size=65536k"
            ]
          },
          {
            "destination": "/dev/pts",
            "source": "devpts",
            "type": "devpts",
            "options": [
              "nosuid",
              "noexec",
              "newinstance",
              "ptmxmode=0666",
              "mode=0620",
              "gid=5"
            ]
          },
          {
            "destination": "/dev/mqueue",
            "source": "mqueue",
            "type": "mqueue",
            "options": [
              "nosuid",
              "noexec",
              "nodev"
            ]
          },
          {
            "destination": "/dev/shm",
            "source": "/run/kata-containers/sandbox/shm",
            "type": "bind",
            "options": [
              "rbind"
            ]
          },
          {
            "destination": "/sys",
            "source": "sysfs",
            "type": "sysfs",
            "options": [
              "nosuid",
              "noexec",
              "nodev",
              "ro"
            ]
          },
          {
            "destination": "/sys/fs/cgroup",
            "source": "cgroup",
            "type": "cgroup",
            "options": [
              "nosuid",
              "noexec",
              "nodev",
              "relatime",
              "ro"
            ]
          },
          {
            "destination": "/etc/resolv.conf",
            "source": "/run/kata-containers/sandbox/resolv.conf",
            "type": "bind",
            "options": [
              "rbind",
              "rprivate",
              "ro"
            ]
          }
        ]
      },
      "storages": []
    },
    {
      "OCI": {
        "Annotations": {
          "io.kubernetes.cri.image-name": "registry.example/tool@sha256:cc"
        }
      }
    }
  ]
}
