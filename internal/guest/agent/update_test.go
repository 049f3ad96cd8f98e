// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// TestAttackUpdate asks for resources that are more than a container may have: limits go, devices come.
func TestAttackUpdate(t *testing.T) {
	for name, c := range map[string]struct {
		asked *agent.LinuxResources
		want  string
	}{
		"all devices": {
			&agent.LinuxResources{Devices: []*agent.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}, `{}`,
		},
		"no limits": {&agent.LinuxResources{
			Memory: &agent.LinuxMemory{Limit: -1, Swap: -1, DisableOOMKiller: true}, Pids: &agent.LinuxPids{Limit: -1},
			CPU: &agent.LinuxCPU{Quota: -1},
		}, `{"cpu":{}}`},
		"too many processes": {
			&agent.LinuxResources{Pids: &agent.LinuxPids{Limit: 1 << 40}}, `{"pids":{"limit":16384}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			limits, err := updated(c.asked)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(limits)
			if err != nil || string(got) != c.want {
				t.Errorf("%s, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestUpdateAndPause(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	pause := func() error {
		return second(g.PauseContainer(t.Context(), &agent.PauseContainerRequest{ContainerId: "c1"}))
	}
	resume := func() error {
		return second(g.ResumeContainer(t.Context(), &agent.ResumeContainerRequest{ContainerId: "c1"}))
	}
	update := func(r *agent.LinuxResources) error {
		return second(g.UpdateContainer(t.Context(), &agent.UpdateContainerRequest{ContainerId: "c1", Resources: r}))
	}
	if err := pause(); status.Code(err) != codes.NotFound {
		t.Errorf("pausing nothing: %v", err)
	}
	if _, err := g.CreateContainer(t.Context(), g.request("c1", "wait")); err != nil {
		t.Fatal(err)
	}
	if err := pause(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("pausing before the start: %v", err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if err := update(&agent.LinuxResources{Memory: &agent.LinuxMemory{Limit: 64 << 20}}); err != nil {
		t.Errorf("updating: %v", err)
	}
	if err := update(&agent.LinuxResources{Memory: &agent.LinuxMemory{Limit: 1}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("updating to hardly any memory: %v", err)
	}
	if err := update(nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("updating nothing: %v", err)
	}
	if err := resume(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("resuming what runs: %v", err)
	}
	if err := pause(); err != nil {
		t.Fatal(err)
	}
	if err := pause(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("pausing twice: %v", err)
	}
	if err := resume(); err != nil {
		t.Error(err)
	}
	if err := pause(); err != nil {
		t.Error(err)
	}
	// A paused container can be removed.
	if _, err := g.RemoveContainer(t.Context(), &agent.RemoveContainerRequest{ContainerId: "c1"}); err != nil {
		t.Error(err)
	}
}
