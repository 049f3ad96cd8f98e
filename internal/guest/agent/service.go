// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/guest/pull"
)

// ImageStore brings images into the guest, verified, and makes root file systems of them. [pull.Puller] is the real
// one.
type ImageStore interface {
	Pull(ctx context.Context, ref string) (*pull.Image, error)
	// Mount stacks the image at <bundle>/rootfs; Unmount takes it away again.
	Mount(image *pull.Image, bundle string) (string, error)
	Unmount(bundle string) error
}

// Config is what the agent works with. All fields but the last four are needed.
type Config struct {
	Gate    *Gate
	Images  ImageStore
	Runtime Runtime
	Log     *slog.Logger
	Version string // what the agent says of itself

	// Unsealer opens the sealed secrets in containers' environments and files; nil means that they are refused.
	Unsealer Unsealer
	// Dir holds containers and volumes; "" is /run/kata-containers, where hosts expect it. It is in the guest's memory.
	Dir string
	// Groups is the directory of the control groups (cgroup v2) that the runtime makes for containers, by their ids: one
	// below the root of the groups; "" is /sys/fs/cgroup/nacre.
	Groups string
	// Resolver is the file from which the guest itself learns its name servers; "" is /run/resolv.conf.
	Resolver string
}

// Agent serves the Kata agent protocol for the one pod of this guest.
type Agent struct {
	Config
	network  network
	copied   copied
	oom      oomEvents
	finished chan struct{} // closed when the host has asked for the end
	finish   sync.Once

	mu         sync.Mutex
	sandbox    *sandbox // nil until CreateSandbox
	containers map[string]*container
	volumes    map[string]bool // mount points that requests have made
}

// New makes the agent of a guest.
func New(cfg Config) *Agent {
	if cfg.Dir == "" {
		cfg.Dir = "/run/kata-containers"
	}
	if cfg.Groups == "" {
		cfg.Groups = "/sys/fs/cgroup/nacre"
	}
	if cfg.Resolver == "" {
		cfg.Resolver = "/run/resolv.conf"
	}
	return &Agent{
		Config: cfg, copied: newCopied(), finished: make(chan struct{}),
		containers: make(map[string]*container), volumes: make(map[string]bool),
	}
}

// Serve answers requests from l until the host asks for the end of the sandbox or ctx ends; nil means the former.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	if a.Gate == nil {
		return errors.New("serving the agent protocol: there is no policy")
	}
	server, err := a.newServer()
	if err != nil {
		return err
	}
	guarded := &limitListener{Listener: l, log: a.Log}
	served := make(chan struct{})
	var serveErr error
	go func() {
		defer close(served)
		serveErr = server.Serve(ctx, guarded)
	}()
	select {
	case <-a.finished:
		// The answer to DestroySandbox is still to be sent. The server takes a connection for idle until its first
		// answer is out, and would end it.
		wait, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		select {
		case <-guarded.allAnswered():
		case <-wait.Done():
		}
		_ = server.Shutdown(wait) // what has not been answered by then is not
		<-served
		return nil
	case <-served:
		return fmt.Errorf("serving the agent protocol: %w", serveErr)
	case <-ctx.Done():
		_ = server.Close()
		<-served
		return ctx.Err()
	}
}

// newServer makes the ttrpc server; the gate is its interceptor.
func (a *Agent) newServer() (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(a.Gate.Intercept))
	if err != nil {
		return nil, fmt.Errorf("making the agent's server: %w", err)
	}
	agent.RegisterAgentServiceService(server, service{Agent: a})
	agent.RegisterHealthService(server, health{a.Version})
	return server, nil
}

// service gives Agent the methods that are not implemented.
type service struct {
	*Agent
	unimplemented
}

// health answers whether the agent is there, which it is.
type health struct{ version string }

// protocolVersion is what Version reports for the protocol; Kata's agents have always said this.
const protocolVersion = "0.0.1"

func (health) Check(context.Context, *agent.CheckRequest) (*agent.HealthCheckResponse, error) {
	return &agent.HealthCheckResponse{Status: agent.HealthCheckResponse_SERVING}, nil
}

func (h health) Version(context.Context, *agent.CheckRequest) (*agent.VersionCheckResponse, error) {
	return &agent.VersionCheckResponse{GrpcVersion: protocolVersion, AgentVersion: h.version}, nil
}

// GetGuestDetails says what this agent can do. Memory is not plugged in while a guest runs, so its blocks have no size.
func (a *Agent) GetGuestDetails(context.Context, *agent.GuestDetailsRequest) (*agent.GuestDetailsResponse, error) {
	return &agent.GuestDetailsResponse{AgentDetails: &agent.AgentDetails{
		Version: a.Version, InitDaemon: true, SupportsSeccomp: true,
		StorageHandlers: []string{driverImage, driverEphemeral, driverLocal},
		ExtraFeatures:   []string{"guest-pull", "init-data", "policy"},
	}}, nil
}

// checkIdentifier checks a name that becomes the name of a directory, a cgroup, a file.
func checkIdentifier(what, name string) error {
	const most = 128
	if name == "" || len(name) > most || !alphanumeric(name[0]) ||
		!only(name, func(c byte) bool { return alphanumeric(c) || c == '_' || c == '-' || c == '.' }) {
		return invalid("%s %.200q: want 1 to %d letters, digits, '_', '-', '.', the first a letter or digit",
			what, name, most)
	}
	return nil
}

// only says whether all bytes of s are allowed.
func only(s string, allowed func(byte) bool) bool {
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// failed is the answer for an operation that went wrong inside the guest.
func failed(doing string, err error) error {
	code := codes.Internal
	switch {
	case status.Code(err) != codes.Unknown:
		code = status.Code(err)
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	return status.Errorf(code, "%s: %s", doing, clip(text))
}

// maxErrorText caps what of an error's text goes to the host, in bytes.
const maxErrorText = 2048

func clip(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return text
}

var nothing = &emptypb.Empty{}
