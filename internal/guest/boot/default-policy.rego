# SPDX-License-Identifier: Apache-2.0

# The agent policy of a pod that brings none. It is part of the measured image. Containers run, and what they print
# can be read; nobody gets into them and nothing is put into the guest. A pod under this policy has no init-data, so
# no broker gives it a secret.
#
# Every request of the protocol has its line: a test demands it. What the agent refuses whatever a policy says
# (loopback addresses, privileges beyond the default) does not stand here.

package agent_policy

default AddARPNeighborsRequest := false

default AddSwapPathRequest := false

default AddSwapRequest := false

default CloseStdinRequest := false

default CopyFileRequest := false

default CreateContainerRequest := false

default CreateSandboxRequest := false

default DestroySandboxRequest := true

default ExecProcessRequest := false

default GetDiagnosticDataRequest := false

default GetIPTablesRequest := false

default GetMetricsRequest := false

default GetOOMEventRequest := false

default GuestDetailsRequest := true

default ListInterfacesRequest := false

default ListRoutesRequest := false

default MemAgentCompactConfig := false

default MemAgentMemcgConfig := false

default MemHotplugByProbeRequest := false

default OnlineCPUMemRequest := false

default PauseContainerRequest := false

default ReadStreamRequest := true

default RemoveContainerRequest := true

default RemoveStaleVirtiofsShareMountsRequest := false

default ReseedRandomDevRequest := false

default ResizeVolumeRequest := false

default ResumeContainerRequest := false

default SetGuestDateTimeRequest := false

default SetIPTablesRequest := false

default SetPolicyRequest := false

default SignalProcessRequest := true

default StartContainerRequest := true

default StatsContainerRequest := false

default TtyWinResizeRequest := false

default UpdateContainerRequest := false

default UpdateEphemeralMountsRequest := false

default UpdateInterfaceRequest := true

default UpdateRoutesRequest := true

default VolumeStatsRequest := false

default WaitProcessRequest := true

default WriteStreamRequest := false

CreateSandboxRequest if {
	input.guest_hook_path == ""
	count(input.kernel_modules) == 0
	not input.sandbox_pidns
	every storage in input.storages {
		storage.driver == "ephemeral"
	}
}

CreateContainerRequest if {
	count(input.devices) == 0
	count(input.shared_mounts) == 0
	not input.sandbox_pidns
	every storage in input.storages {
		storage.driver in {"image_guest_pull", "ephemeral", "local"}
	}
}
