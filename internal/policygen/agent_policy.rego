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
		storage.driver == "ephemeral"
	}
}

# What the owner decides: whether the host reads the containers' output, and whether it may start programs in them.

ReadStreamRequest if policy_data.allow_logs

ExecProcessRequest if policy_data.allow_exec

WriteStreamRequest if policy_data.allow_exec

CloseStdinRequest if policy_data.allow_exec

TtyWinResizeRequest if policy_data.allow_exec

# Containers: only those that policy_data names.

CreateContainerRequest if {
	count(input.devices) == 0
	count(input.shared_mounts) == 0
	input.sandbox_pidns == false
	some container in policy_data.containers
	image_matches(container)
	process_matches(container)
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
	every set in ["Bounding", "Effective", "Inheritable", "Permitted", "Ambient"] {
		every capability in got.Capabilities[set] {
			capability in want.Capabilities.Bounding
		}
	}
	image_decides(input.OCI.Annotations) == image_decides(container.OCI.Annotations)
}

env_allowed(variable, want) if variable in want

env_allowed(variable, _) if regex.match(`^HOSTNAME=[a-z0-9.-]*$`, variable)

# What a container leaves to its image: whether its arguments follow the entry point, and its user.
image_decides(annotations) := [value |
	some name in ["io.nacre.image.args", "io.nacre.image.user"]
	value := object.get(annotations, name, "")
]

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

