# SPDX-License-Identifier: Apache-2.0
#
# An agent policy in the older language, as generators for other engines write it: rules look for members that the
# constant at the end need not have.
package agent_policy

import future.keywords.every
import future.keywords.in

default CreateContainerRequest := false

default ExecProcessRequest := false

CreateContainerRequest {
	some container in policy_data.containers
	container.image == input.image
	every mount in input.mounts {
		mount in container.mounts
	}
}

ExecProcessRequest {
	input.command in policy_data.request_defaults.ExecProcessRequest.allowed_commands
}

policy_data := {"containers": [{"image": "registry.example/app@sha256:aa", "mounts": ["/proc", "/dev"]}]}
