// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"net"

	"github.com/containerd/ttrpc"

	"github.com/nacre-project/nacre/api/agent"
)

// Agent speaks the Kata agent protocol to a guest: every request that exists, whether or not the guest's policy allows it.
type Agent struct {
	agent.AgentServiceService
	agent.HealthService

	conn *ttrpc.Client
}

func (a *Agent) connect(conn net.Conn) {
	a.conn = ttrpc.NewClient(conn)
	a.AgentServiceService = agent.NewAgentServiceClient(a.conn)
	a.HealthService = agent.NewHealthClient(a.conn)
}
