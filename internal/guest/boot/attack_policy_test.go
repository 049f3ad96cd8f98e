// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	_ "embed"
	"log/slog"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	api "github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/guest/agent"
)

//go:embed default-policy.rego
var defaultPolicy string

// TestAttackDefaultPolicy is a host that asks a pod without init-data for what the image's own policy keeps from it.
func TestAttackDefaultPolicy(t *testing.T) {
	gate, err := agent.NewGate(t.Context(), defaultPolicy, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	storage := func(driver string) []*api.Storage { return []*api.Storage{{Driver: driver}} }
	for name, request := range map[string]proto.Message{
		"exec":                       &api.ExecProcessRequest{},
		"standard input":             &api.WriteStreamRequest{},
		"a file":                     &api.CopyFileRequest{},
		"a policy":                   &api.SetPolicyRequest{},
		"the clock":                  &api.SetGuestDateTimeRequest{},
		"entropy":                    &api.ReseedRandomDevRequest{},
		"packet filters":             &api.SetIPTablesRequest{},
		"a sandbox with a hook":      &api.CreateSandboxRequest{GuestHookPath: "/hooks"},
		"a sandbox with a module":    &api.CreateSandboxRequest{KernelModules: []*api.KernelModule{{Name: "x"}}},
		"a sandbox with shared pids": &api.CreateSandboxRequest{SandboxPidns: true},
		"a sandbox with a disk":      &api.CreateSandboxRequest{Storages: storage("blk")},
		"a container with a device":  &api.CreateContainerRequest{Devices: []*api.Device{{}}},
		"a container with a mount":   &api.CreateContainerRequest{SharedMounts: []*api.SharedMount{{}}},
		"a container in shared pids": &api.CreateContainerRequest{SandboxPidns: true},
		"a container with a disk":    &api.CreateContainerRequest{Storages: storage("virtio-fs")},
	} {
		t.Run(name, func(t *testing.T) {
			encoded, err := proto.Marshal(request)
			if err != nil {
				t.Fatal(err)
			}
			decode := func(into any) error { return proto.Unmarshal(encoded, into.(proto.Message)) }
			_, err = gate.Intercept(t.Context(), decode, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/X"},
				func(_ context.Context, decode func(any) error) (any, error) {
					return nil, decode(request.ProtoReflect().New().Interface())
				})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%v", err)
			}
		})
	}
}
