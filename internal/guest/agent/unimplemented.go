// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// unimplemented answers the requests of the protocol that this guest has no use for: no hot-plug, no shared file
// system, no replaceable policy, no packet filter, no clock or entropy from the host. They pass the gate like any
// other, and say why.
type unimplemented struct{}

func no(method, why string) error {
	return status.Errorf(codes.Unimplemented, "%s is not implemented by this guest: %s", method, why)
}

func (unimplemented) UpdateEphemeralMounts(
	context.Context, *agent.UpdateEphemeralMountsRequest,
) (*emptypb.Empty, error) {
	return nil, no("UpdateEphemeralMounts", "a tmpfs keeps the size that it was made with")
}

func (unimplemented) RemoveStaleVirtiofsShareMounts(
	context.Context, *agent.RemoveStaleVirtiofsShareMountsRequest,
) (*emptypb.Empty, error) {
	return nil, no("RemoveStaleVirtiofsShareMounts", "there is no file system that the host shares")
}

func (unimplemented) GetIPTables(context.Context, *agent.GetIPTablesRequest) (*agent.GetIPTablesResponse, error) {
	return nil, no("GetIPTables", "the guest has no packet filter")
}

func (unimplemented) SetIPTables(context.Context, *agent.SetIPTablesRequest) (*agent.SetIPTablesResponse, error) {
	return nil, no("SetIPTables", "the guest has no packet filter")
}

func (unimplemented) MemAgentMemcgSet(context.Context, *agent.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, no("MemAgentMemcgSet", "the guest does not reclaim memory for the host")
}

func (unimplemented) MemAgentCompactSet(context.Context, *agent.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, no("MemAgentCompactSet", "the guest does not compact memory for the host")
}

func (unimplemented) OnlineCPUMem(context.Context, *agent.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	return nil, no("OnlineCPUMem", "processors and memory are measured at boot, none are plugged in later")
}

func (unimplemented) ReseedRandomDev(context.Context, *agent.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	return nil, no("ReseedRandomDev", "the guest takes no entropy from its host")
}

func (unimplemented) MemHotplugByProbe(context.Context, *agent.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return nil, no("MemHotplugByProbe", "memory is measured at boot, none is plugged in later")
}

func (unimplemented) SetGuestDateTime(context.Context, *agent.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return nil, no("SetGuestDateTime", "the guest takes no time from its host")
}

func (unimplemented) AddSwap(context.Context, *agent.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, no("AddSwap", "memory of the guest must not reach a disk")
}

func (unimplemented) AddSwapPath(context.Context, *agent.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, no("AddSwapPath", "memory of the guest must not reach a disk")
}

func (unimplemented) ResizeVolume(context.Context, *agent.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nil, no("ResizeVolume", "volumes are in memory and keep the size that they were made with")
}

func (unimplemented) SetPolicy(context.Context, *agent.SetPolicyRequest) (*emptypb.Empty, error) {
	return nil, no("SetPolicy", "the policy is part of what was measured and cannot be replaced")
}
