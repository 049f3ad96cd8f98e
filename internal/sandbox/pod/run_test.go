// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// fakeAgent remembers the requests and runs containers that end as the test says.
type fakeAgent struct {
	mu       sync.Mutex
	calls    []string
	byID     map[string]*fakeContainer
	created  []*agent.CreateContainerRequest
	refuse   string           // name of the request to be refused
	codes    map[string][]int // exit codes by container name, one a run
	forever  bool             // containers run until they are signalled
	stubborn bool             // and then until they are killed
}

type fakeContainer struct {
	name   string
	output io.Reader
	ended  chan int32
}

func (f *fakeAgent) call(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	if name == f.refuse {
		return status.Errorf(codes.PermissionDenied, "%sRequest is blocked by policy: no", name)
	}
	return nil
}

func (f *fakeAgent) Check(context.Context, *agent.CheckRequest) (*agent.HealthCheckResponse, error) {
	return &agent.HealthCheckResponse{Status: agent.HealthCheckResponse_SERVING}, f.call("Check")
}

func (f *fakeAgent) UpdateInterface(_ context.Context, r *agent.UpdateInterfaceRequest) (*agent.Interface, error) {
	return r.Interface, f.call("UpdateInterface")
}

func (f *fakeAgent) UpdateRoutes(_ context.Context, r *agent.UpdateRoutesRequest) (*agent.Routes, error) {
	return r.Routes, f.call("UpdateRoutes")
}

func (f *fakeAgent) CreateSandbox(context.Context, *agent.CreateSandboxRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.call("CreateSandbox")
}

func (f *fakeAgent) CopyFile(_ context.Context, r *agent.CopyFileRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.call(fmt.Sprintf("CopyFile %s %o %s", r.Path, r.FileMode, r.Data))
}

func (f *fakeAgent) DestroySandbox(context.Context, *agent.DestroySandboxRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.call("DestroySandbox")
}

func (f *fakeAgent) CreateContainer(_ context.Context, r *agent.CreateContainerRequest) (*emptypb.Empty, error) {
	if err := f.call("CreateContainer"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name := r.OCI.Annotations[annotationContainerName]
	c := &fakeContainer{name: name, output: strings.NewReader("from " + name + "\n"), ended: make(chan int32, 1)}
	f.byID[r.ContainerId] = c
	f.created = append(f.created, r)
	return &emptypb.Empty{}, nil
}

func (f *fakeAgent) container(id string) *fakeContainer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byID[id]
}

func (f *fakeAgent) StartContainer(_ context.Context, r *agent.StartContainerRequest) (*emptypb.Empty, error) {
	c := f.container(r.ContainerId)
	err := f.call("StartContainer " + c.name)
	if !f.forever {
		code := 0
		f.mu.Lock()
		if codes := f.codes[c.name]; len(codes) > 0 {
			code, f.codes[c.name] = codes[0], codes[1:]
		}
		f.mu.Unlock()
		c.ended <- int32(code)
	}
	return &emptypb.Empty{}, err
}

func (f *fakeAgent) SignalProcess(_ context.Context, r *agent.SignalProcessRequest) (*emptypb.Empty, error) {
	c := f.container(r.ContainerId)
	if r.Signal == sigkill || !f.stubborn {
		c.ended <- int32(128 + r.Signal)
	}
	return &emptypb.Empty{}, f.call(fmt.Sprintf("SignalProcess %d", r.Signal))
}

func (f *fakeAgent) WaitProcess(ctx context.Context, r *agent.WaitProcessRequest) (*agent.WaitProcessResponse, error) {
	select {
	case code := <-f.container(r.ContainerId).ended:
		return &agent.WaitProcessResponse{Status: code}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fakeAgent) ReadStdout(_ context.Context, r *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error) {
	b := make([]byte, r.Len)
	n, err := f.container(r.ContainerId).output.Read(b)
	return &agent.ReadStreamResponse{Data: b[:n]}, err
}

func (f *fakeAgent) ReadStderr(context.Context, *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error) {
	return &agent.ReadStreamResponse{}, nil
}

func (f *fakeAgent) RemoveContainer(_ context.Context, r *agent.RemoveContainerRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.call("RemoveContainer " + f.container(r.ContainerId).name)
}

func run(t *testing.T, ctx context.Context, f *fakeAgent, manifest string) (int, string, error) {
	t.Helper()
	f.byID = map[string]*fakeContainer{}
	p, err := Parse([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var out bytes.Buffer
	code, err := Run(ctx, f, p, Options{Output: func(string) (io.Writer, io.Writer) {
		w := writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return out.Write(b)
		})
		return w, w
	}})
	return code, out.String(), err
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }

func TestRun(t *testing.T) {
	f := &fakeAgent{codes: map[string][]int{"main": {7}}}
	code, out, err := run(t, t.Context(), f, ordinary)
	if err != nil || code != 7 {
		t.Errorf("code %d, %v", code, err)
	}
	if out != "from first\nfrom main\n" {
		t.Errorf("output %q", out)
	}
	want := []string{
		"Check", "UpdateInterface", "UpdateRoutes", "CreateSandbox",
		"CreateContainer", "StartContainer first", "RemoveContainer first",
		"CreateContainer", "StartContainer main", "RemoveContainer main", "DestroySandbox",
	}
	if !slices.Equal(f.calls, want) {
		t.Errorf("calls\n%q, want\n%q", f.calls, want)
	}
	spec := f.created[1].OCI
	if got := spec.Process.Args; !slices.Equal(got, []string{"sh", "-c", "echo me"}) {
		t.Errorf("args %q", got)
	}
	if spec.Process.User.UID != 1000 || !spec.Process.NoNewPrivileges || len(spec.Process.Capabilities.Bounding) != 0 {
		t.Errorf("process %v", spec.Process)
	}
	if got := f.created[1].Storages[0]; got.Driver != "image_guest_pull" || got.MountPoint != spec.Root.Path {
		t.Errorf("image storage %v", got)
	}
}

func TestFailedInitContainerEndsThePod(t *testing.T) {
	f := &fakeAgent{codes: map[string][]int{"first": {3}}}
	code, out, err := run(t, t.Context(), f, ordinary)
	if err != nil || code != 3 || out != "from first\n" {
		t.Errorf("code %d, output %q, %v", code, out, err)
	}
}

func TestArgsWithoutCommandComeAfterTheEntryPoint(t *testing.T) {
	f := &fakeAgent{}
	manifest := strings.Replace(ordinary, "    command: [sh, -c]\n", "", 1)
	if _, _, err := run(t, t.Context(), f, manifest); err != nil {
		t.Fatal(err)
	}
	if got := f.created[1].OCI; got.Annotations[AnnotationArgs] != "append" || len(got.Process.Args) != 1 {
		t.Errorf("args %q, annotations %v", got.Process.Args, got.Annotations)
	}
	if got := f.created[0].OCI; got.Annotations[AnnotationArgs] != "" || got.Annotations[AnnotationUser] != "image" {
		t.Errorf("annotations of the plain container %v", got.Annotations)
	}
}

func TestRefusedRequestsAreErrors(t *testing.T) {
	for _, request := range []string{"Check", "UpdateInterface", "UpdateRoutes", "CreateSandbox", "CreateContainer"} {
		f := &fakeAgent{refuse: request}
		if _, _, err := run(t, t.Context(), f, ordinary); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s refused: %v", request, err)
		}
	}
}

func TestCancelTerminatesThenKills(t *testing.T) {
	stop := errors.New("the user pressed Ctrl-C")
	for _, stubborn := range []bool{false, true} {
		f := &fakeAgent{forever: true, stubborn: stubborn}
		ctx, cancel := context.WithCancelCause(t.Context())
		manifest := strings.Replace(ordinary, "restartPolicy: Never", "restartPolicy: Always\n  terminationGracePeriodSeconds: 1", 1)
		started := make(chan struct{})
		go func() {
			<-started
			cancel(stop)
		}()
		f.byID = map[string]*fakeContainer{}
		p, err := Parse([]byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Run(ctx, f, p, Options{Events: func(e Event) {
			if e.State == Started {
				close(started)
			}
		}})
		if !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		want := []string{"StartContainer first", "SignalProcess 15", "RemoveContainer first", "DestroySandbox"}
		if stubborn {
			want = slices.Insert(want, 2, "SignalProcess 9")
		}
		if got := f.calls[5:]; !slices.Equal(got, want) {
			t.Errorf("calls %q, want %q", got, want)
		}
	}
}

func TestRestartUntilSuccess(t *testing.T) {
	f := &fakeAgent{codes: map[string][]int{"main": {1, 0}}}
	begin := time.Now()
	code, out, err := run(t, t.Context(), f, strings.Replace(ordinary, "restartPolicy: Never", "restartPolicy: OnFailure", 1))
	if err != nil || code != 0 || out != "from first\nfrom main\nfrom main\n" {
		t.Errorf("code %d, output %q, %v after %v", code, out, err, time.Since(begin))
	}
}
