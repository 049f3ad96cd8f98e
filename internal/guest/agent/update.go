// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// UpdateContainer changes the resources of a container, within the limits that hold when one is made. What the request
// does not limit stays as it is: an update takes no limit away, and gives no device.
func (a *Agent) UpdateContainer(ctx context.Context, r *agent.UpdateContainerRequest) (*emptypb.Empty, error) {
	if r.Resources == nil {
		return nil, invalid("no resources to update")
	}
	limits, err := updated(r.Resources)
	if err != nil {
		return nil, err
	}
	return a.onLive(r.ContainerId, "updating", func(c *container) error {
		text, err := json.Marshal(limits)
		if err != nil {
			return err
		}
		return a.Runtime.update(ctx, c.id, c.bundle, text)
	})
}

// updated is what a request changes of a container's resources.
func updated(asked *agent.LinuxResources) (*specs.LinuxResources, error) {
	limits, err := resources(asked)
	if err != nil {
		return nil, err
	}
	limits.Devices = nil
	if asked.Pids.GetLimit() <= 0 {
		limits.Pids = nil
	}
	return limits, nil
}

// PauseContainer stops all processes of a running container where they are.
func (a *Agent) PauseContainer(ctx context.Context, r *agent.PauseContainerRequest) (*emptypb.Empty, error) {
	return a.onLive(r.ContainerId, "pausing", func(c *container) error {
		if c.get() != stateRunning {
			return status.Error(codes.FailedPrecondition, "it was not started")
		}
		if c.paused {
			return status.Error(codes.FailedPrecondition, "it is paused already")
		}
		c.paused = true // even if it is only in part
		return a.Runtime.run(ctx, c.bundle, stdio{}, "pause", c.id)
	})
}

// ResumeContainer lets the processes of a paused container go on.
func (a *Agent) ResumeContainer(ctx context.Context, r *agent.ResumeContainerRequest) (*emptypb.Empty, error) {
	return a.onLive(r.ContainerId, "resuming", func(c *container) error {
		return a.resume(ctx, c)
	})
}

// resume is ResumeContainer for a caller that has the container's turn.
func (a *Agent) resume(ctx context.Context, c *container) error {
	if !c.paused {
		return status.Error(codes.FailedPrecondition, "it is not paused")
	}
	if err := a.Runtime.run(ctx, c.bundle, stdio{}, "resume", c.id); err != nil {
		return err
	}
	c.paused = false
	return nil
}

// onLive does something with a container that is there and has not ended, in its turn.
func (a *Agent) onLive(id, doing string, do func(*container) error) (*emptypb.Empty, error) {
	c, err := a.find(id)
	if err != nil {
		return nil, err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	if state := c.get(); state != stateCreated && state != stateRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is not there", c.id)
	}
	if c.main.ended() {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s has ended", c.id)
	}
	if err := do(c); err != nil {
		return nil, failed(doing+" container "+c.id, err)
	}
	return nothing, nil
}

// update changes a container's resources; their description is JSON of the OCI runtime specification.
func (r Runtime) update(ctx context.Context, id, bundle string, resources []byte) error {
	file := filepath.Join(bundle, "resources.json")
	if err := os.WriteFile(file, resources, 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	return r.run(ctx, bundle, stdio{}, "update", "--resources", file, id)
}
