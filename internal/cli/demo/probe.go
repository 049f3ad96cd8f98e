// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

// seen is what one run of the probe pod came to.
type seen struct {
	// refused is the guest's refusal to come up; the rest is empty then.
	refused *sandbox.GuestRefused
	answers map[string]answer
	// exec is who refused to start a program in the container; the zero value says that it ran.
	exec refusal
}

// ending is how a pod ended.
type ending struct{ err error }

// about is who refused a resource, and the zero value if nobody did.
func (s seen) about(path string) (refusal, error) {
	if r := s.refused; r != nil {
		return refusal{By: "guest", Code: r.Code, Text: r.Text}, nil //nolint:nilerr // that it refuses is what was asked
	}
	return s.answers[path].refusal()
}

// probe boots a guest by cfg, runs the manifest in it until the container has asked for what it asks for, tries to start a program in the
// container, and stops the guest.
func probe(ctx context.Context, cfg sandbox.Config, manifest []byte) (seen, error) {
	p, err := pod.Parse(manifest)
	if err != nil {
		return seen{}, err
	}
	vm, err := sandbox.Start(ctx, cfg)
	if refused, ok := errors.AsType[*sandbox.GuestRefused](err); ok {
		return seen{refused: refused}, nil
	} else if err != nil {
		return seen{}, err
	}
	defer vm.Stop()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	output := newWatched()
	containerID := make(chan string, 1)
	finished := make(chan ending, 1)
	go func() {
		_, err := pod.Run(ctx, vm.Agent(), p, pod.Options{
			Output: func(string) (io.Writer, io.Writer) { return output, io.Discard },
			Events: func(e pod.Event) {
				if e.State == pod.Started {
					containerID <- e.ID
				}
			},
		})
		finished <- ending{err}
	}()
	var s seen
	for {
		var complete bool
		var changed <-chan struct{}
		if s.answers, complete, changed, err = output.answers(); err != nil {
			return seen{}, err
		}
		if complete {
			break
		}
		select {
		case <-changed:
		case end := <-finished:
			return seen{}, fmt.Errorf("the pod ended before it had its answers: %w; it printed %q", end.err, output.String())
		case <-ctx.Done():
			return seen{}, context.Cause(ctx)
		}
	}
	s.exec, err = tryExec(ctx, vm.Agent(), <-containerID)
	vm.Stop()
	<-finished // that the pod ends with its guest is no news
	return s, err
}

// tryExec asks the guest to start a program in a container, as `kubectl exec` would.
func tryExec(ctx context.Context, a *sandbox.Agent, containerID string) (refusal, error) {
	_, err := a.ExecProcess(ctx, &agent.ExecProcessRequest{
		ContainerId: containerID,
		ExecId:      "intruder",
		Process: &agent.Process{
			Args: []string{"/bin/cat", "/proc/1/environ"}, Cwd: "/", Env: []string{"PATH=/bin"}, User: &agent.User{}, NoNewPrivileges: true,
		},
	})
	switch status.Code(err) {
	case codes.OK:
		_, err := a.WaitProcess(ctx, &agent.WaitProcessRequest{ContainerId: containerID, ExecId: "intruder"})
		return refusal{}, err
	case codes.PermissionDenied:
		return refusal{By: "guest", Code: "policy_blocked", Text: status.Convert(err).Message()}, nil
	default:
		return refusal{}, fmt.Errorf("starting a program in the container: %w", err)
	}
}

// watched is what a container printed so far, and tells when there is more.
type watched struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newWatched() *watched { return &watched{changed: make(chan struct{})} }

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
	return w.text.Write(b)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// answers is what was printed as answers, whether that is all of them, and a channel that is closed when more was printed.
func (w *watched) answers() (map[string]answer, bool, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found, complete, err := answers(w.text.String())
	return found, complete, w.changed, err
}
