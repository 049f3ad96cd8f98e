// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	corev1 "k8s.io/api/core/v1"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
)

// Agent is what of the Kata agent protocol an ordinary pod needs.
type Agent interface {
	Check(context.Context, *agent.CheckRequest) (*agent.HealthCheckResponse, error)
	UpdateInterface(context.Context, *agent.UpdateInterfaceRequest) (*agent.Interface, error)
	UpdateRoutes(context.Context, *agent.UpdateRoutesRequest) (*agent.Routes, error)
	CreateSandbox(context.Context, *agent.CreateSandboxRequest) (*emptypb.Empty, error)
	CopyFile(context.Context, *agent.CopyFileRequest) (*emptypb.Empty, error)
	CreateContainer(context.Context, *agent.CreateContainerRequest) (*emptypb.Empty, error)
	StartContainer(context.Context, *agent.StartContainerRequest) (*emptypb.Empty, error)
	SignalProcess(context.Context, *agent.SignalProcessRequest) (*emptypb.Empty, error)
	WaitProcess(context.Context, *agent.WaitProcessRequest) (*agent.WaitProcessResponse, error)
	ReadStdout(context.Context, *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error)
	ReadStderr(context.Context, *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error)
	RemoveContainer(context.Context, *agent.RemoveContainerRequest) (*emptypb.Empty, error)
	DestroySandbox(context.Context, *agent.DestroySandboxRequest) (*emptypb.Empty, error)
}

// Options say what becomes of what a pod does. The zero value keeps nothing.
type Options struct {
	// Output returns where a container's standard output and error go. It is called once a container.
	Output func(container string) (stdout, stderr io.Writer)
	// Events is told what happens to containers; it must return soon and be safe for concurrent use.
	Events func(Event)
	Log    *slog.Logger
}

// State is what happened to a container.
type State string

const (
	Creating State = "creating" // the guest pulls the image and prepares the container
	Started  State = "started"
	Exited   State = "exited"
)

// Event says what happened to a container of the pod.
type Event struct {
	Container string
	ID        string // the container's id in the guest
	State     State
	ExitCode  int           // of Exited
	Took      time.Duration // since the state before
}

const (
	// rpcTime bounds requests that do not wait for an image or a process.
	rpcTime = 30 * time.Second
	// createTime bounds the creation of a container, which pulls its image; Kata's image_pull_timeout.
	createTime = 20 * time.Minute
	// drainTime is how long a container's last output may take after its end, and how long a killed one may take to end.
	drainTime = 5 * time.Second
	// chunk is how much output is asked for at once, in bytes.
	chunk = 32 << 10

	defaultGrace = 30 * time.Second

	sigterm, sigkill = 15, 9

	firstRestart, lastRestart = time.Second, time.Minute
)

// The guest's end of the user-mode network (see qemu.Machine.Network).
const (
	guestAddress = "10.0.2.15"
	gateway      = "10.0.2.2"
	nameServer   = "10.0.2.3"
	prefixLength = "24"
	linkName     = "eth0"
)

// Run runs the pod to its end and returns its exit code: that of the first container, in the order of the manifest, whose
// code was not 0. When ctx ends, the containers are asked to terminate, killed after the pod's grace period, and the error is
// ctx's cause. The guest is left running, its sandbox destroyed.
func Run(ctx context.Context, a Agent, p *Manifest, o Options) (int, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.Output == nil {
		o.Output = func(string) (io.Writer, io.Writer) { return io.Discard, io.Discard }
	}
	r := &runner{Options: o, agent: a, pod: p, sandboxID: randomID()}
	if err := r.prepare(ctx); err != nil {
		return 0, fmt.Errorf("pod %q: %w", p.Name, err)
	}
	code, err := r.containers(ctx)
	// Whether it went well or not, the guest shall sync and let go.
	destroy, cancel := context.WithTimeout(context.WithoutCancel(ctx), rpcTime)
	defer cancel()
	if _, destroyErr := a.DestroySandbox(destroy, &agent.DestroySandboxRequest{}); destroyErr != nil && err == nil {
		o.Log.Warn("the guest did not take its sandbox down; it is going to be stopped anyway", "error", destroyErr)
	}
	if err != nil {
		return code, fmt.Errorf("pod %q: %w", p.Name, err)
	}
	return code, nil
}

// answerError is the guest's refusal of a request, or the failure to get an answer. status.Code tells its code.
type answerError struct {
	doing string
	err   error
}

// Error leaves out what a remote procedure call says about itself; a reader wants the guest's reason.
func (e answerError) Error() string {
	text := e.err.Error()
	if s, answered := status.FromError(e.err); answered {
		text = s.Message()
	}
	return e.doing + ": " + text
}

func (e answerError) Unwrap() error { return e.err }

type runner struct {
	Options
	agent     Agent
	pod       *Manifest
	sandboxID string
}

// randomID is an identifier as containerd makes them.
func randomID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// prepare brings the guest to the point where containers can be created.
func (r *runner) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	health, err := r.agent.Check(ctx, &agent.CheckRequest{})
	if err != nil {
		return answerError{"asking the agent for its health", err}
	}
	if health.GetStatus() != agent.HealthCheckResponse_SERVING {
		return fmt.Errorf("asking the agent for its health: it is %v", health.GetStatus())
	}
	if _, err := r.agent.UpdateInterface(ctx, &agent.UpdateInterfaceRequest{Interface: &agent.Interface{
		Device: linkName, Name: linkName, HwAddr: qemu.MACAddress, Mtu: 1500,
		IPAddresses: []*agent.IPAddress{{Family: agent.IPFamily_v4, Address: guestAddress, Mask: prefixLength}},
	}}); err != nil {
		return answerError{"setting the guest's address", err}
	}
	if _, err := r.agent.UpdateRoutes(ctx, &agent.UpdateRoutesRequest{Routes: &agent.Routes{
		Routes: []*agent.Route{{Gateway: gateway, Device: linkName}},
	}}); err != nil {
		return answerError{"setting the guest's route", err}
	}
	if _, err := r.agent.CreateSandbox(ctx, &agent.CreateSandboxRequest{
		Hostname: hostname(r.pod.Pod), SandboxId: r.sandboxID, Dns: []string{"nameserver " + nameServer},
		Storages: []*agent.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: sharedMemory,
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}},
	}); err != nil {
		return answerError{"creating the pod's sandbox", err}
	}
	files, err := CopyRequests(r.pod)
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := r.agent.CopyFile(ctx, f); err != nil {
			return answerError{"copying " + strings.TrimPrefix(f.Path, copiedVolumes) + " into the guest", err}
		}
	}
	return nil
}

// containers runs the init containers one after the other and then the others at once.
func (r *runner) containers(ctx context.Context) (int, error) {
	for i := range r.pod.Spec.InitContainers {
		c := &r.pod.Spec.InitContainers[i]
		// An init container runs until it succeeds; only Never makes its failure the pod's.
		code, err := r.keepRunning(ctx, c, r.pod.Spec.RestartPolicy != corev1.RestartPolicyNever, false)
		if err != nil {
			return code, err
		}
		if code != 0 {
			return code, nil
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	codes := make([]int, len(r.pod.Spec.Containers))
	errs := make([]error, len(codes))
	policy := r.pod.Spec.RestartPolicy
	var running sync.WaitGroup
	for i := range r.pod.Spec.Containers {
		running.Go(func() {
			c := &r.pod.Spec.Containers[i]
			codes[i], errs[i] = r.keepRunning(ctx, c, policy != corev1.RestartPolicyNever, policy == corev1.RestartPolicyAlways)
			if errs[i] != nil {
				// A container that cannot run ends the pod: there is nobody who would come back to it later.
				cancel(errs[i])
			}
		})
	}
	running.Wait()
	code := 0
	for _, c := range codes {
		if code == 0 {
			code = c
		}
	}
	if err := context.Cause(ctx); err != nil {
		return code, err
	}
	return code, nil
}

// keepRunning runs a container, and again as the restart policy says, each time as a new container in the guest.
func (r *runner) keepRunning(ctx context.Context, c *corev1.Container, onFailure, onSuccess bool) (int, error) {
	stdout, stderr := r.Output(c.Name)
	for delay := firstRestart; ; delay = min(2*delay, lastRestart) {
		code, err := r.once(ctx, c, stdout, stderr)
		if err != nil {
			return code, fmt.Errorf("container %q: %w", c.Name, err)
		}
		if code == 0 && !onSuccess || code != 0 && !onFailure {
			return code, nil
		}
		r.Log.Info("container ends and is restarted", "container", c.Name, "code", code, "after", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return code, context.Cause(ctx)
		}
	}
}

// once runs a container to its end.
func (r *runner) once(ctx context.Context, c *corev1.Container, stdout, stderr io.Writer) (int, error) {
	id := randomID()
	begin := time.Now()
	event := func(s State, code int) {
		r.Events(Event{Container: c.Name, ID: id, State: s, ExitCode: code, Took: time.Since(begin)})
		begin = time.Now()
	}
	request, err := createRequest(r.pod, c, r.sandboxID, id)
	if err != nil {
		return 0, err
	}
	event(Creating, 0)
	create, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	if _, err := r.agent.CreateContainer(create, request); err != nil {
		return 0, answerError{"creating it in the guest", err}
	}
	defer r.remove(ctx, id)
	start, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	if _, err := r.agent.StartContainer(start, &agent.StartContainerRequest{ContainerId: id}); err != nil {
		return 0, answerError{"starting it in the guest", err}
	}
	event(Started, 0)
	code, err := r.attend(ctx, c, id, stdout, stderr)
	if err == nil {
		event(Exited, code)
	}
	return code, err
}

// attend copies a running container's output and waits for its end, bringing that about when ctx ends.
func (r *runner) attend(ctx context.Context, c *corev1.Container, id string, stdout, stderr io.Writer) (int, error) {
	// Not ctx: a container that is to terminate still has something to say.
	rpc, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var copying sync.WaitGroup
	defer copying.Wait()
	defer cancel()
	copied := make(chan struct{})
	copying.Go(func() { r.copyOutput(rpc, c.Name, id, "stdout", r.agent.ReadStdout, stdout) })
	copying.Go(func() { r.copyOutput(rpc, c.Name, id, "stderr", r.agent.ReadStderr, stderr) })
	go func() {
		copying.Wait()
		close(copied)
	}()

	code, err := r.wait(ctx, rpc, id)
	if err != nil {
		return code, err
	}
	select {
	case <-copied:
	case <-time.After(drainTime):
		r.Log.Warn("the container has ended, but its output has not; the rest is dropped", "container", c.Name)
	}
	return code, nil
}

// wait returns the container's exit code. When ctx ends it terminates the container, and kills it after the grace period.
func (r *runner) wait(ctx, rpc context.Context, id string) (int, error) {
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		answer, err := r.agent.WaitProcess(rpc, &agent.WaitProcessRequest{ContainerId: id, ExecId: id})
		ended <- result{int(answer.GetStatus()), err}
	}()
	grace := defaultGrace
	if s := r.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(max(*s, 1)) * time.Second
	}
	stages := []struct {
		signal  uint32
		patient time.Duration
	}{{sigterm, grace}, {sigkill, drainTime}}

	select {
	case e := <-ended:
		if e.err != nil {
			return e.code, answerError{"waiting for its end", e.err}
		}
		return e.code, nil
	case <-ctx.Done():
	}
	for _, stage := range stages {
		signal, cancel := context.WithTimeout(rpc, stage.patient)
		if _, err := r.agent.SignalProcess(signal, &agent.SignalProcessRequest{ContainerId: id, Signal: stage.signal}); err != nil {
			r.Log.Debug("signal not delivered", "container", id, "signal", stage.signal, "error", err)
		}
		select {
		case e := <-ended:
			cancel()
			return e.code, context.Cause(ctx)
		case <-signal.Done():
			cancel()
		}
	}
	return 0, fmt.Errorf("it does not end: %w", context.Cause(ctx))
}

// copyOutput copies one stream until its end, which is an error or an empty answer.
func (r *runner) copyOutput(ctx context.Context, container, id, stream string,
	read func(context.Context, *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error), to io.Writer) {
	for {
		answer, err := read(ctx, &agent.ReadStreamRequest{ContainerId: id, ExecId: id, Len: chunk})
		if status.Code(err) == codes.PermissionDenied {
			r.Log.Warn("the guest's policy keeps the output to itself", "container", container, "stream", stream)
		}
		if err != nil || len(answer.GetData()) == 0 {
			return
		}
		if _, err := to.Write(answer.GetData()); err != nil {
			r.Log.Warn("output is no longer shown", "container", container, "stream", stream, "error", err)
			to = io.Discard
		}
	}
}

func (r *runner) remove(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rpcTime)
	defer cancel()
	_, err := r.agent.RemoveContainer(ctx, &agent.RemoveContainerRequest{ContainerId: id})
	if err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		r.Log.Warn("a container was not removed; it ends with the guest", "container", id, "error", err)
	}
}
