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
// other.
type unimplemented struct{}

func no(method string) error {
	return status.Errorf(codes.Unimplemented, "%s is not implemented by this guest", method)
}

func (unimplemented) UpdateContainer(context.Context, *agent.UpdateContainerRequest) (*emptypb.Empty, error) {
	return nil, no("UpdateContainer")
}

func (unimplemented) UpdateEphemeralMounts(
	context.Context, *agent.UpdateEphemeralMountsRequest,
) (*emptypb.Empty, error) {
	return nil, no("UpdateEphemeralMounts")
}

func (unimplemented) StatsContainer(
	context.Context, *agent.StatsContainerRequest,
) (*agent.StatsContainerResponse, error) {
	return nil, no("StatsContainer")
}

func (unimplemented) PauseContainer(context.Context, *agent.PauseContainerRequest) (*emptypb.Empty, error) {
	return nil, no("PauseContainer")
}

func (unimplemented) ResumeContainer(context.Context, *agent.ResumeContainerRequest) (*emptypb.Empty, error) {
	return nil, no("ResumeContainer")
}

func (unimplemented) RemoveStaleVirtiofsShareMounts(
	context.Context, *agent.RemoveStaleVirtiofsShareMountsRequest,
) (*emptypb.Empty, error) {
	return nil, no("RemoveStaleVirtiofsShareMounts")
}

func (unimplemented) GetDiagnosticData(
	context.Context, *agent.GetDiagnosticDataRequest,
) (*agent.GetDiagnosticDataResponse, error) {
	return nil, no("GetDiagnosticData")
}

func (unimplemented) TtyWinResize(context.Context, *agent.TtyWinResizeRequest) (*emptypb.Empty, error) {
	return nil, no("TtyWinResize")
}

func (unimplemented) ListInterfaces(context.Context, *agent.ListInterfacesRequest) (*agent.Interfaces, error) {
	return nil, no("ListInterfaces")
}

func (unimplemented) ListRoutes(context.Context, *agent.ListRoutesRequest) (*agent.Routes, error) {
	return nil, no("ListRoutes")
}

func (unimplemented) AddARPNeighbors(context.Context, *agent.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	return nil, no("AddARPNeighbors")
}

func (unimplemented) GetIPTables(context.Context, *agent.GetIPTablesRequest) (*agent.GetIPTablesResponse, error) {
	return nil, no("GetIPTables")
}

func (unimplemented) SetIPTables(context.Context, *agent.SetIPTablesRequest) (*agent.SetIPTablesResponse, error) {
	return nil, no("SetIPTables")
}

func (unimplemented) MemAgentMemcgSet(context.Context, *agent.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, no("MemAgentMemcgSet")
}

func (unimplemented) MemAgentCompactSet(context.Context, *agent.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, no("MemAgentCompactSet")
}

func (unimplemented) OnlineCPUMem(context.Context, *agent.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	return nil, no("OnlineCPUMem")
}

func (unimplemented) ReseedRandomDev(context.Context, *agent.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	return nil, no("ReseedRandomDev")
}

func (unimplemented) MemHotplugByProbe(context.Context, *agent.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return nil, no("MemHotplugByProbe")
}

func (unimplemented) SetGuestDateTime(context.Context, *agent.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return nil, no("SetGuestDateTime")
}

func (unimplemented) GetOOMEvent(context.Context, *agent.GetOOMEventRequest) (*agent.OOMEvent, error) {
	return nil, no("GetOOMEvent")
}

func (unimplemented) AddSwap(context.Context, *agent.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, no("AddSwap")
}

func (unimplemented) AddSwapPath(context.Context, *agent.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, no("AddSwapPath")
}

func (unimplemented) GetVolumeStats(context.Context, *agent.VolumeStatsRequest) (*agent.VolumeStatsResponse, error) {
	return nil, no("GetVolumeStats")
}

func (unimplemented) ResizeVolume(context.Context, *agent.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nil, no("ResizeVolume")
}

func (unimplemented) SetPolicy(context.Context, *agent.SetPolicyRequest) (*emptypb.Empty, error) {
	return nil, no("SetPolicy")
}
