// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/guest/pull"
)

// Limits of what a host can make the guest hold.
const (
	maxContainers = 64
	maxProcesses  = 64       // of one container, that were executed in it
	maxRead       = 64 << 10 // bytes in one answer; a pipe holds no more
)

// container is one container from CreateContainer to RemoveContainer.
type container struct {
	id     string
	bundle string
	cancel context.CancelFunc // ends its creation

	busy   sync.Mutex // held by the operations that change its state, so that they follow each other
	paused bool       // busy guards it

	mu        sync.Mutex
	state     containerState
	image     *pull.Image
	oom       *oomWatch // nil where the kernel does not tell of memory events
	main      *process
	processes map[string]*process // by exec id; main has the container's id and the exec id of its request
}

type containerState int

const (
	stateCreating containerState = iota
	stateCreated
	stateRunning
	stateRemoved
)

// CreateContainer pulls the container's image, if it is not there, and makes the container, up to the point where its
// program only has to be executed.
func (a *Agent) CreateContainer(ctx context.Context, r *agent.CreateContainerRequest) (*emptypb.Empty, error) {
	image, err := a.checkCreate(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, host, err := a.reserve(r, cancel)
	if err != nil {
		return nil, err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	if err := a.create(ctx, c, r, image, host); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), runtimeTime)
		defer cancel()
		err = errors.Join(err, a.discard(clean, c))
		return nil, failed("creating container "+c.id, err)
	}
	return nothing, nil
}

// checkCreate refuses what this guest does not do, and returns the storage that names the image.
func (a *Agent) checkCreate(r *agent.CreateContainerRequest) (*agent.Storage, error) {
	if err := checkIdentifier("container id", r.ContainerId); err != nil {
		return nil, err
	}
	if r.ContainerId == sandboxDir || r.ContainerId == sharedDir {
		return nil, invalid("container id %q is taken", r.ContainerId)
	}
	if r.ExecId != "" {
		if err := checkIdentifier("exec id", r.ExecId); err != nil {
			return nil, err
		}
	}
	switch {
	case r.OCI.GetProcess() == nil || r.OCI.GetLinux() == nil:
		return nil, invalid("a container needs a process and a linux section")
	case len(r.Devices) > 0:
		return nil, invalid("devices of the host cannot be given to a container")
	case len(r.SharedMounts) > 0:
		return nil, invalid("mounts shared between containers are not supported")
	case r.SandboxPidns:
		return nil, invalid("a PID namespace that containers share is not supported")
	case r.StringUser != nil:
		return nil, invalid("string_user is not supported: give numbers, or leave the user to the image")
	case r.StdinPort != 0 || r.StdoutPort != 0 || r.StderrPort != 0:
		return nil, invalid("streams over ports of their own are not supported")
	}
	var image *agent.Storage
	for _, s := range r.Storages {
		if s.GetDriver() != driverImage {
			continue
		}
		if image != nil {
			return nil, invalid("two storages name an image")
		}
		image = s
	}
	if image == nil {
		return nil, invalid("no storage names the image: want driver %s", driverImage)
	}
	if want := filepath.Join(a.Dir, r.ContainerId, "rootfs"); image.MountPoint != want {
		return nil, invalid("the image is to be mounted at %.200q, want %s", image.MountPoint, want)
	}
	return image, nil
}

// reserve enters a container, and makes the volumes that its request brings. It also returns the pod's host name.
func (a *Agent) reserve(r *agent.CreateContainerRequest, cancel context.CancelFunc) (*container, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.sandbox == nil:
		return nil, "", status.Error(codes.FailedPrecondition, "there is no sandbox yet")
	case a.containers[r.ContainerId] != nil:
		return nil, "", status.Errorf(codes.AlreadyExists, "container %s is there already", r.ContainerId)
	case len(a.containers) >= maxContainers:
		return nil, "", status.Errorf(codes.ResourceExhausted, "%d containers are there, no more are made", maxContainers)
	}
	for _, s := range r.Storages {
		if s.GetDriver() == driverImage {
			continue
		}
		if err := a.addVolume(s); err != nil {
			return nil, "", err
		}
	}
	main := &process{exited: make(chan struct{})}
	c := &container{
		id: r.ContainerId, bundle: filepath.Join(a.Dir, r.ContainerId), cancel: cancel, main: main,
		processes: map[string]*process{r.ContainerId: main},
	}
	if r.ExecId != "" {
		c.processes[r.ExecId] = main
	}
	a.containers[c.id] = c
	return c, a.sandbox.hostname, nil
}

func (a *Agent) create(
	ctx context.Context, c *container, r *agent.CreateContainerRequest, storage *agent.Storage, host string,
) error {
	if err := os.Mkdir(c.bundle, 0o700); err != nil {
		return err
	}
	if err := a.makeTermination(c.id); err != nil {
		return err
	}
	image, err := a.Images.Pull(ctx, storage.Source)
	if err != nil {
		return err
	}
	root, err := a.Images.Mount(image, c.bundle)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.image = image
	c.mu.Unlock()
	spec, err := a.spec(r, root, host, image.Config)
	if err != nil {
		return err
	}
	if err := a.resolve(ctx, c.bundle, spec); err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	description := filepath.Join(c.bundle, "config.json")
	err = os.WriteFile(description, text, 0o600)
	clear(text)
	if err != nil {
		return err
	}
	defer os.Remove(description) // the runtime reads it once; what was unsealed need not stay in it
	readable, writable := a.streams(ctx, c.id, c.id)
	streams, err := c.main.streams(spec.Process.Terminal, readable, writable)
	if err != nil {
		return err
	}
	defer streams.close()
	first, err := a.Runtime.create(ctx, c.id, c.bundle, streams)
	if err != nil {
		return err
	}
	c.main.watch(first)
	if err := c.main.attach(streams.console, readable, writable); err != nil {
		return err
	}
	watch, err := watchOOM(&a.oom, c.id, a.group(c.id))
	if err != nil {
		a.Log.Warn("a container that runs out of memory will not be told", "container", c.id, "error", err)
	}
	c.mu.Lock()
	c.state, c.oom = stateCreated, watch
	c.mu.Unlock()
	return nil
}

// streams says whether the host may ever read a process's output and write its input.
func (a *Agent) streams(ctx context.Context, id, execID string) (readable, writable bool) {
	return a.Gate.allows(ctx, &agent.ReadStreamRequest{ContainerId: id, ExecId: execID, Len: maxRead}),
		a.Gate.allows(ctx, &agent.WriteStreamRequest{ContainerId: id, ExecId: execID})
}

// StartContainer executes the container's program.
func (a *Agent) StartContainer(ctx context.Context, r *agent.StartContainerRequest) (*emptypb.Empty, error) {
	c, err := a.find(r.ContainerId)
	if err != nil {
		return nil, err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	if got := c.get(); got != stateCreated {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s was started already, or is gone", c.id)
	}
	if err := a.Runtime.start(ctx, c.id, c.bundle); err != nil {
		return nil, failed("starting container "+c.id, err)
	}
	c.mu.Lock()
	c.state = stateRunning
	c.mu.Unlock()
	return nothing, nil
}

// ExecProcess runs one more process in a running container.
func (a *Agent) ExecProcess(ctx context.Context, r *agent.ExecProcessRequest) (*emptypb.Empty, error) {
	if err := checkIdentifier("exec id", r.ExecId); err != nil {
		return nil, err
	}
	switch {
	case r.Process == nil:
		return nil, invalid("no process to execute")
	case r.StringUser != nil:
		return nil, invalid("string_user is not supported: give numbers")
	case r.StdinPort != 0 || r.StdoutPort != 0 || r.StderrPort != 0:
		return nil, invalid("streams over ports of their own are not supported")
	}
	c, err := a.find(r.ContainerId)
	if err != nil {
		return nil, err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	if c.get() != stateRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s does not run", c.id)
	}
	described, err := execSpec(r.Process)
	if err != nil {
		return nil, err
	}
	if err := (&unsealing{a.Unsealer, 0}).environment(ctx, described.Env); err != nil {
		return nil, failed("executing in container "+c.id, err)
	}
	text, err := json.Marshal(described)
	if err != nil {
		return nil, failed("executing in container "+c.id, err)
	}
	defer clear(text)
	p := &process{exited: make(chan struct{}), making: true}
	if err := c.add(r.ExecId, p); err != nil {
		return nil, err
	}
	if err := a.execute(ctx, c, p, r.ExecId, described.Terminal, text); err != nil {
		p.closeStreams()
		c.drop(r.ExecId)
		return nil, failed("executing in container "+c.id, err)
	}
	c.mu.Lock()
	p.making = false
	c.mu.Unlock()
	return nothing, nil
}

func (a *Agent) execute(ctx context.Context, c *container, p *process, execID string, terminal bool, text []byte) error {
	readable, writable := a.streams(ctx, c.id, execID)
	streams, err := p.streams(terminal, readable, writable)
	if err != nil {
		return err
	}
	defer streams.close()
	// The name in the file system is not the exec id: that could be the name of a file of the bundle.
	running, err := a.Runtime.exec(ctx, c.id, c.bundle, "exec-"+execID, text, streams)
	if err != nil {
		return err
	}
	p.watch(running)
	if err := p.attach(streams.console, readable, writable); err != nil {
		return errors.Join(err, p.signal(unix.SIGKILL))
	}
	return nil
}

// WaitProcess returns a process's exit code once it has ended.
func (a *Agent) WaitProcess(ctx context.Context, r *agent.WaitProcessRequest) (*agent.WaitProcessResponse, error) {
	c, p, err := a.findProcess(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	code, err := p.wait(ctx)
	if err != nil {
		return nil, failed("waiting for a process of container "+c.id, err)
	}
	return &agent.WaitProcessResponse{Status: code}, nil
}

// SignalProcess sends a signal to a process, or to all of a container's when no process is named.
func (a *Agent) SignalProcess(_ context.Context, r *agent.SignalProcessRequest) (*emptypb.Empty, error) {
	const maxSignal = 64
	if r.Signal == 0 || r.Signal > maxSignal {
		return nil, invalid("signal %d: want 1 to %d", r.Signal, maxSignal)
	}
	signal := syscall.Signal(r.Signal)
	c, p, err := a.findProcess(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if r.ExecId != "" {
		err = p.signal(signal)
	} else {
		err = c.signalAll(signal)
	}
	if err != nil {
		return nil, failed("signalling container "+c.id, err)
	}
	return nothing, nil
}

// ReadStdout returns what a process has written, waiting for it if need be. The end is an error, OutOfRange.
func (a *Agent) ReadStdout(ctx context.Context, r *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error) {
	return a.read(ctx, r, func(p *process) *output { return p.stdout })
}

// ReadStderr is ReadStdout for the other stream.
func (a *Agent) ReadStderr(ctx context.Context, r *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error) {
	return a.read(ctx, r, func(p *process) *output { return p.stderr })
}

func (a *Agent) read(
	ctx context.Context, r *agent.ReadStreamRequest, stream func(*process) *output,
) (*agent.ReadStreamResponse, error) {
	c, p, err := a.findProcess(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if r.Len == 0 {
		return nil, invalid("reading nothing")
	}
	from := stream(p)
	if from == nil && p.terminal != nil && p.stdout != nil {
		return nil, status.Error(codes.OutOfRange, "a terminal has one output")
	}
	if from == nil {
		return nil, status.Error(codes.OutOfRange, "the policy keeps the output to the guest")
	}
	data, err := from.read(ctx, int(min(r.Len, maxRead)))
	switch {
	case errors.Is(err, io.EOF):
		return nil, status.Error(codes.OutOfRange, "the output is at its end")
	case err != nil:
		return nil, failed("reading from container "+c.id, err)
	}
	return &agent.ReadStreamResponse{Data: data}, nil
}

// WriteStdin writes to a process's standard input; it returns when all is on its way.
func (a *Agent) WriteStdin(ctx context.Context, r *agent.WriteStreamRequest) (*agent.WriteStreamResponse, error) {
	c, p, err := a.findProcess(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if p.stdin == nil {
		return nil, status.Error(codes.FailedPrecondition, "the process has no standard input")
	}
	n, err := p.stdin.write(ctx, r.Data)
	if err != nil {
		return nil, failed("writing to container "+c.id, err)
	}
	return &agent.WriteStreamResponse{Len: uint32(n)}, nil
}

// CloseStdin ends a process's standard input. That of a terminal has no end: closing it would hang up.
func (a *Agent) CloseStdin(_ context.Context, r *agent.CloseStdinRequest) (*emptypb.Empty, error) {
	_, p, err := a.findProcess(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if p.stdin != nil && p.terminal == nil {
		p.stdin.close()
	}
	return nothing, nil
}

// RemoveContainer ends a container and frees all that it held but its volumes, which are the pod's.
func (a *Agent) RemoveContainer(ctx context.Context, r *agent.RemoveContainerRequest) (*emptypb.Empty, error) {
	c, err := a.find(r.ContainerId)
	if err != nil {
		return nil, err
	}
	patience := time.Duration(r.Timeout) * time.Second
	if patience == 0 || patience > runtimeTime {
		patience = runtimeTime
	}
	if err := a.remove(ctx, c, patience); err != nil {
		return nil, failed("removing container "+c.id, err)
	}
	return nothing, nil
}

func (a *Agent) remove(ctx context.Context, c *container, patience time.Duration) error {
	// This needs no turn: it shall end the operation that has it.
	switch c.get() {
	case stateCreating:
		c.cancel()
	case stateCreated, stateRunning:
		_ = c.main.signal(unix.SIGKILL) // the others in its PID namespace end with it
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	state := c.get()
	if state == stateRemoved {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if state == stateCreated || state == stateRunning {
		_ = c.main.signal(unix.SIGKILL)
		if c.paused {
			_ = a.resume(ctx, c) // what is killed while it stands still ends when it goes on
		}
		if _, err := c.main.wait(ctx); err != nil {
			return err
		}
	}
	return a.discard(ctx, c)
}

// discard frees what a container holds. The caller has its turn, and its processes have ended, or never were.
func (a *Agent) discard(ctx context.Context, c *container) error {
	c.mu.Lock()
	watch := c.oom
	c.oom = nil
	c.mu.Unlock()
	watch.close()
	err := a.Runtime.remove(ctx, c.id, c.bundle)
	if c.get() == stateCreating {
		err = nil // the runtime may not know it
	}
	c.mu.Lock()
	for _, p := range c.processes {
		p.closeStreams()
	}
	mounted := c.image != nil
	c.mu.Unlock()
	if mounted {
		err = errors.Join(err, a.Images.Unmount(c.bundle))
	}
	if err == nil {
		err = os.RemoveAll(c.bundle)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.state = stateRemoved
	c.mu.Unlock()
	a.mu.Lock()
	delete(a.containers, c.id)
	a.mu.Unlock()
	return nil
}

func (a *Agent) find(id string) (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.containers[id]; c != nil {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no container %.200q", id)
}

// findProcess finds a process of a container; without an exec id, the first one.
func (a *Agent) findProcess(id, execID string) (*container, *process, error) {
	c, err := a.find(id)
	if err != nil {
		return nil, nil, err
	}
	if execID == "" {
		execID = id
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateCreating {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "container %s is still being made", id)
	}
	if p := c.processes[execID]; p != nil && !p.making {
		return c, p, nil
	}
	return nil, nil, status.Errorf(codes.NotFound, "there is no process %.200q in container %s", execID, id)
}

func (c *container) get() containerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// add enters a process under its exec id. Those that have ended make room for it.
func (c *container) add(execID string, p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes[execID] != nil {
		return status.Errorf(codes.AlreadyExists, "there is a process %s in container %s already", execID, c.id)
	}
	if len(c.processes) < maxProcesses {
		c.processes[execID] = p
		return nil
	}
	for id, old := range c.processes {
		if old != c.main && old.ended() {
			old.closeStreams()
			delete(c.processes, id)
			c.processes[execID] = p
			return nil
		}
	}
	return status.Errorf(codes.ResourceExhausted, "container %s has %d processes, no more are made", c.id, maxProcesses)
}

func (c *container) drop(execID string) {
	c.mu.Lock()
	delete(c.processes, execID)
	c.mu.Unlock()
}

// signalAll signals every process of the container.
func (c *container) signalAll(signal syscall.Signal) error {
	c.main.mu.Lock()
	first := c.main.process
	c.main.mu.Unlock()
	if c.main.ended() {
		return nil
	}
	if first == nil {
		return status.Error(codes.FailedPrecondition, "the container does not run")
	}
	if signal == unix.SIGKILL {
		return c.main.signal(signal) // the kernel ends the namespace with its first process
	}
	return signalNamespace(first, signal)
}
