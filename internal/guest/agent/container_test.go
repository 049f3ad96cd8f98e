// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/internal/guest/pull"
)

// oneImage is an image store with one image, a static program at /probe.
type oneImage struct {
	program string
	config  ocispec.ImageConfig
}

func (s oneImage) Pull(_ context.Context, ref string) (*pull.Image, error) {
	if ref != "image" {
		return nil, errors.New("no such image: " + ref)
	}
	return &pull.Image{Reference: ref, Config: s.config}, nil
}

func (s oneImage) Mount(_ *pull.Image, bundle string) (string, error) {
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return "", err
	}
	return root, os.Link(s.program, filepath.Join(root, "probe"))
}

func (s oneImage) Unmount(bundle string) error { return os.RemoveAll(filepath.Join(bundle, "rootfs")) }

// runc finds the runtime that the image builder makes.
func runc(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers take root")
	}
	const cache = "../../../build/cache/"
	for _, path := range []string{os.Getenv("NACRE_RUNC"), cache + "image/bin/runc", cache + "bin/runc"} {
		if _, err := os.Stat(path); path != "" && err == nil {
			abs, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			return abs
		}
	}
	t.Skip("no runc: build the guest image (make image), or name one in NACRE_RUNC")
	return ""
}

// guest is a served agent with clients' ends of its services.
type guest struct {
	agent.AgentServiceService
	health agent.HealthService
	agent  *Agent
	ended  chan error
}

func startGuest(t *testing.T, rego string, changes ...func(*Config)) *guest {
	t.Helper()
	runtime := runc(t)
	// The containers' processes become our children, as they are the agent's in a guest.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-o", program, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cfg := Config{
		Gate: newGate(t, rego),
		Images: oneImage{program, ocispec.ImageConfig{
			Entrypoint: []string{"/probe"}, Cmd: []string{"show", "cmd"}, Env: []string{"FROM=image"},
		}},
		Runtime: Runtime{Path: runtime, Root: filepath.Join(dir, "runc")},
		Log:     slog.New(slog.DiscardHandler), Version: "test",
		Dir: filepath.Join(dir, "kata"), Groups: testGroups(), Resolver: filepath.Join(dir, "resolv.conf"),
	}
	for _, change := range changes {
		change(&cfg)
	}
	a := New(cfg)
	l, err := net.Listen("unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{agent: a, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { g.ended <- a.Serve(ctx, l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	g.AgentServiceService, g.health = agent.NewAgentServiceClient(client), agent.NewHealthClient(client)
	t.Cleanup(func() {
		a.mu.Lock()
		left := a.containers
		a.containers = map[string]*container{}
		a.mu.Unlock()
		for _, c := range left {
			if err := a.remove(context.Background(), c, 10*time.Second); err != nil {
				t.Logf("removing %s: %v", c.id, err)
			}
		}
		client.Close()
		cancel()
	})
	return g
}

func (g *guest) sandbox(t *testing.T) {
	t.Helper()
	if _, err := g.CreateSandbox(t.Context(), &agent.CreateSandboxRequest{
		SandboxId: "pod", Hostname: "probe", Dns: []string{"nameserver 10.0.2.3"},
	}); err != nil {
		t.Fatal(err)
	}
}

// request asks for a container of the test's image.
func (g *guest) request(id string, args ...string) *agent.CreateContainerRequest {
	r := ordinary(func(r *agent.CreateContainerRequest) {
		r.ContainerId, r.ExecId = id, id
		r.OCI.Process.Args = args
		// The machine that tests run on may not let limits be raised.
		r.OCI.Process.Rlimits = []*agent.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}}
		r.OCI.Process.OOMScoreAdj = 1000
		root := filepath.Join(g.agent.Dir, id, "rootfs")
		r.Storages = []*agent.Storage{{Driver: driverImage, Source: "image", MountPoint: root}}
	})
	r.OCI.Annotations = map[string]string{annotationArgs: "append"}
	return r
}

func (g *guest) create(t *testing.T, id string, args ...string) {
	t.Helper()
	if _, err := g.CreateContainer(t.Context(), g.request(id, args...)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

func (g *guest) wait(t *testing.T, id, execID string) int32 {
	t.Helper()
	answer, err := g.WaitProcess(t.Context(), &agent.WaitProcessRequest{ContainerId: id, ExecId: execID})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status
}

type reader func(context.Context, *agent.ReadStreamRequest) (*agent.ReadStreamResponse, error)

// all reads a stream to its end.
func all(t *testing.T, read reader, id, execID string) string {
	t.Helper()
	var out bytes.Buffer
	for {
		answer, err := read(t.Context(), &agent.ReadStreamRequest{ContainerId: id, ExecId: execID, Len: 4096})
		if status.Code(err) == codes.OutOfRange {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Write(answer.Data)
	}
}

// ordinaryPolicy allows what a pod with logs, input and exec needs.
var ordinaryPolicy = allow("CreateSandboxRequest", "CreateContainerRequest", "StartContainerRequest",
	"RemoveContainerRequest", "SignalProcessRequest", "WaitProcessRequest", "ReadStreamRequest", "WriteStreamRequest",
	"CloseStdinRequest", "ExecProcessRequest", "GuestDetailsRequest", "DestroySandboxRequest", "StatsContainerRequest",
	"SetPolicyRequest", "UpdateContainerRequest", "PauseContainerRequest", "ResumeContainerRequest", "TtyWinResizeRequest",
	"GetOOMEventRequest", "GetDiagnosticDataRequest")

func TestContainer(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	wantCode(t, "before the sandbox", codes.FailedPrecondition)(
		g.CreateContainer(t.Context(), g.request("early")))
	g.sandbox(t)
	wantCode(t, "second sandbox", codes.AlreadyExists)(
		g.CreateSandbox(t.Context(), &agent.CreateSandboxRequest{SandboxId: "other"}))
	g.create(t, "c1", "show", "request")
	var out, errs string
	var reading sync.WaitGroup
	reading.Go(func() { out = all(t, g.ReadStdout, "c1", "c1") })
	reading.Go(func() { errs = all(t, g.ReadStderr, "c1", "") })
	if code := g.wait(t, "c1", "c1"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	reading.Wait()
	for _, want := range []string{
		`args=["request"] uid=0 gid=0 pid=1 host=probe`, "env FROM=image", "NoNewPrivs: 1", "CapEff: 00000000a00425fb",
		"CapBnd: 00000000a00425fb", "Seccomp: 2", `/etc/resolv.conf <nil> "nameserver 10.0.2.3\n"`,
		`/etc/hosts <nil> "127.0.0.1\tlocalhost\n`, `/etc/hostname <nil> "probe\n"`,
		"mount operation not permitted", "mknod operation not permitted", "unshare operation not permitted",
		"vsock operation not permitted", "wide vsock operation not permitted",
		"\npacket operation not permitted", "old packet operation not permitted", "wide packet operation not permitted",
		"family 1 <nil>", "family 2 <nil>", "family 10 <nil>", "family 16 <nil>",
		"slabinfo true true", "vmallocinfo true true", "kpagecount true true", "kpageflags true true",
		"kpagecgroup true true", "pagetypeinfo true true",
		"proc open /proc/sys/kernel/domainname: read-only file system",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output:\n%s", want, out)
		}
	}
	if errs != "to the other stream\n" {
		t.Errorf("stderr %q", errs)
	}
	wantCode(t, "the same id again", codes.AlreadyExists)(g.CreateContainer(t.Context(), g.request("c1")))
	if _, err := g.RemoveContainer(t.Context(), &agent.RemoveContainerRequest{ContainerId: "c1"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(g.agent.Dir, "c1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the bundle is still there: %v", err)
	}
	wantCode(t, "a removed container", codes.NotFound)(
		g.WaitProcess(t.Context(), &agent.WaitProcessRequest{ContainerId: "c1"}))
	if _, err := g.DestroySandbox(t.Context(), &agent.DestroySandboxRequest{}); err != nil {
		t.Error(err)
	}
	if err := <-g.ended; err != nil {
		t.Errorf("the agent ended with %v", err)
	}
}

// TestOwnSettings gives a container settings of its own, which the guest does not get.
func TestOwnSettings(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	before, err := os.ReadFile("/proc/sys/kernel/msgmax")
	if err != nil {
		t.Skip(err)
	}
	request := g.request("c1", "read", "/proc/sys/kernel/msgmax")
	request.OCI.Linux.Sysctl = map[string]string{"kernel.msgmax": "12345"}
	if _, err := g.CreateContainer(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if got := all(t, g.ReadStdout, "c1", "c1"); got != "12345\n" {
		t.Errorf("the container has %q", got)
	}
	if after, err := os.ReadFile("/proc/sys/kernel/msgmax"); err != nil || string(after) != string(before) {
		t.Errorf("the guest has %q, %v", after, err)
	}
}

func TestExitCodesAndSignals(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	g.create(t, "c1", "exit", "7")
	if code := g.wait(t, "c1", ""); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	for id, c := range map[string]struct {
		execID string
		signal uint32
		code   int32
		says   string
	}{
		"term-all":  {"", 15, 0, "waiting\ngot terminated\n"},
		"usr1-main": {"usr1-main", 10, 0, "waiting\ngot user defined signal 1\n"},
		"kill-all":  {"", 9, 128 + 9, "waiting\n"},
	} {
		g.create(t, id, "wait")
		first, err := g.ReadStdout(t.Context(), &agent.ReadStreamRequest{ContainerId: id, Len: 100})
		if err != nil {
			t.Fatal(err)
		}
		request := &agent.SignalProcessRequest{ContainerId: id, ExecId: c.execID, Signal: c.signal}
		if _, err := g.SignalProcess(t.Context(), request); err != nil {
			t.Error(err)
		}
		if code := g.wait(t, id, id); code != c.code {
			t.Errorf("%s: exit code %d, want %d", id, code, c.code)
		}
		if said := string(first.Data) + all(t, g.ReadStdout, id, id); said != c.says {
			t.Errorf("%s said %q", id, said)
		}
	}
}

func TestExecAndInput(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	g.create(t, "c1", "wait")
	execute := func(execID string, args ...string) {
		t.Helper()
		p := &agent.Process{
			Args: args, Cwd: "/", User: &agent.User{UID: 5}, OOMScoreAdj: 1000,
			Rlimits: []*agent.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		}
		request := &agent.ExecProcessRequest{ContainerId: "c1", ExecId: execID, Process: p}
		if _, err := g.ExecProcess(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	execute("e1", "/probe", "exit", "9")
	if code := g.wait(t, "c1", "e1"); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
	execute("e2", "/probe", "echo")
	input := &agent.WriteStreamRequest{ContainerId: "c1", ExecId: "e2", Data: []byte("there and back")}
	answer, err := g.WriteStdin(t.Context(), input)
	if err != nil || answer.Len != 14 {
		t.Errorf("%v, %v", answer, err)
	}
	if _, err := g.CloseStdin(t.Context(), &agent.CloseStdinRequest{ContainerId: "c1", ExecId: "e2"}); err != nil {
		t.Error(err)
	}
	if got := all(t, g.ReadStdout, "c1", "e2"); got != "there and back" {
		t.Errorf("got %q", got)
	}
	execute("e3", "/probe", "show")
	got := all(t, g.ReadStdout, "c1", "e3")
	for _, want := range []string{"uid=5", "CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	wantCode(t, "an exec id twice", codes.AlreadyExists)(
		g.ExecProcess(t.Context(), &agent.ExecProcessRequest{
			ContainerId: "c1", ExecId: "e1", Process: &agent.Process{Args: []string{"/x"}},
		}))
}

// TestOutputThatNobodyMayRead runs a container that writes more than a pipe holds under a policy without logs: it must
// not wait for a reader, and nothing of it must reach one.
func TestOutputThatNobodyMayRead(t *testing.T) {
	g := startGuest(t, allow("CreateSandboxRequest", "CreateContainerRequest", "StartContainerRequest",
		"WaitProcessRequest"))
	g.sandbox(t)
	g.create(t, "c1", "flood", "500")
	if code := g.wait(t, "c1", "c1"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	wantCode(t, "reading", codes.PermissionDenied)(
		g.ReadStdout(t.Context(), &agent.ReadStreamRequest{ContainerId: "c1", Len: 100}))
	wantCode(t, "exec", codes.PermissionDenied)(
		g.ExecProcess(t.Context(), &agent.ExecProcessRequest{ContainerId: "c1", ExecId: "e"}))
}

// TestBackPressure reads nothing from a container that writes much: it waits, and goes on when somebody reads.
func TestBackPressure(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	g.create(t, "c1", "flood", "500")
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := g.WaitProcess(short, &agent.WaitProcessRequest{ContainerId: "c1"}); err == nil {
		t.Error("it ended although its output was not read")
	}
	if got := all(t, g.ReadStdout, "c1", ""); len(got) != 500*1024 {
		t.Errorf("%d bytes of output", len(got))
	}
	if code := g.wait(t, "c1", ""); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestAttackRequests sends what no honest host sends to every method that takes more than a name.
func TestAttackRequests(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	create := func(change func(*agent.CreateContainerRequest)) error {
		r := g.request("c1", "exit", "0")
		change(r)
		_, err := g.CreateContainer(t.Context(), r)
		return err
	}
	for name, change := range map[string]func(*agent.CreateContainerRequest){
		"no id":          func(r *agent.CreateContainerRequest) { r.ContainerId = "" },
		"path as id":     func(r *agent.CreateContainerRequest) { r.ContainerId = "../x" },
		"dots":           func(r *agent.CreateContainerRequest) { r.ContainerId = ".." },
		"long id":        func(r *agent.CreateContainerRequest) { r.ContainerId = strings.Repeat("a", 129) },
		"sandbox's name": func(r *agent.CreateContainerRequest) { r.ContainerId = "sandbox" },
		"option as id":   func(r *agent.CreateContainerRequest) { r.ContainerId = "--bundle" },
		"exec id":        func(r *agent.CreateContainerRequest) { r.ExecId = "a/b" },
		"no spec":        func(r *agent.CreateContainerRequest) { r.OCI = nil },
		"no process":     func(r *agent.CreateContainerRequest) { r.OCI.Process = nil },
		"no linux":       func(r *agent.CreateContainerRequest) { r.OCI.Linux = nil },
		"no image":       func(r *agent.CreateContainerRequest) { r.Storages = nil },
		"two images":     func(r *agent.CreateContainerRequest) { r.Storages = append(r.Storages, r.Storages[0]) },
		"image elsewhere": func(r *agent.CreateContainerRequest) {
			r.Storages[0].MountPoint = "/usr"
		},
		"a disk as root": func(r *agent.CreateContainerRequest) { r.Storages[0].Driver = "blk" },
		"device":         func(r *agent.CreateContainerRequest) { r.Devices = []*agent.Device{{}} },
		"shared mount":   func(r *agent.CreateContainerRequest) { r.SharedMounts = []*agent.SharedMount{{}} },
		"shared pids":    func(r *agent.CreateContainerRequest) { r.SandboxPidns = true },
		"string user":    func(r *agent.CreateContainerRequest) { r.StringUser = &agent.StringUser{Uid: "0"} },
		"ports":          func(r *agent.CreateContainerRequest) { r.StdoutPort = 1 },
		"nil in lists": func(r *agent.CreateContainerRequest) {
			r.OCI.Linux.Devices = []*agent.LinuxDevice{nil}
			r.OCI.Mounts = []*agent.Mount{nil}
		},
		"hook": func(r *agent.CreateContainerRequest) { r.OCI.Hooks = &agent.Hooks{Prestart: []*agent.Hook{{}}} },
	} {
		t.Run(name, func(t *testing.T) {
			if err := create(change); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
	if err := create(func(r *agent.CreateContainerRequest) { r.Storages[0].Source = "nothing" }); err == nil {
		t.Error("an image that is not there")
	}
	if entries, _ := os.ReadDir(g.agent.Dir); len(entries) != 1 {
		t.Errorf("refused containers left %v", entries)
	}
	if err := create(func(r *agent.CreateContainerRequest) {
		r.OCI.Process.Args = []string{"/absent"}
		r.OCI.Annotations = nil
	}); err == nil {
		// The runtime finds a missing program when it starts, at the latest.
		if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err == nil {
			t.Error("a program that is not there was started")
		}
	} else if !strings.Contains(err.Error(), "/absent") {
		t.Errorf("the error does not name the program: %v", err)
	}
	g.create(t, "c2", "wait")
	signal := func(number uint32) error {
		_, err := g.SignalProcess(t.Context(), &agent.SignalProcessRequest{ContainerId: "c2", Signal: number})
		return err
	}
	execute := func(id string, p *agent.Process) error {
		_, err := g.ExecProcess(t.Context(), &agent.ExecProcessRequest{ContainerId: "c2", ExecId: id, Process: p})
		return err
	}
	for name, err := range map[string]error{
		"signal 0":     signal(0),
		"signal 65":    signal(65),
		"read nothing": second(g.ReadStdout(t.Context(), &agent.ReadStreamRequest{ContainerId: "c2"})),
		"exec nothing": execute("e", nil),
		"exec id":      execute("../e", &agent.Process{}),
		"exec no args": execute("e", &agent.Process{}),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCode(t, "the policy was replaced", codes.Unimplemented)(
		g.SetPolicy(t.Context(), &agent.SetPolicyRequest{Policy: ordinaryPolicy}))
	wantCode(t, "statistics of nothing", codes.NotFound)(g.StatsContainer(t.Context(), &agent.StatsContainerRequest{}))
	huge, err := g.ReadStdout(t.Context(), &agent.ReadStreamRequest{ContainerId: "c2", Len: 1 << 31})
	if err != nil || string(huge.Data) != "waiting\n" {
		t.Errorf("%v, %v", huge, err)
	}
}

// wantCode takes what a call has returned.
func wantCode(t *testing.T, what string, want codes.Code) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestHealthAndDetails(t *testing.T) {
	g := startGuest(t, denyAll)
	answer, err := g.health.Check(t.Context(), &agent.CheckRequest{})
	if err != nil || answer.Status != agent.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", answer, err)
	}
	wantCode(t, "details", codes.PermissionDenied)(g.GetGuestDetails(t.Context(), &agent.GuestDetailsRequest{}))
	wantCode(t, "the end", codes.PermissionDenied)(g.DestroySandbox(t.Context(), &agent.DestroySandboxRequest{}))
}

// slowImage is an image store whose pulls last until they are given up.
type slowImage struct {
	oneImage
	pulling chan struct{}
}

func (s slowImage) Pull(ctx context.Context, _ string) (*pull.Image, error) {
	close(s.pulling)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestRemoveWhilePulling removes a container whose image is still on its way.
func TestRemoveWhilePulling(t *testing.T) {
	slow := slowImage{pulling: make(chan struct{})}
	g := startGuest(t, ordinaryPolicy, func(c *Config) { c.Images = slow })
	g.sandbox(t)
	created := make(chan error, 1)
	go func() {
		_, err := g.CreateContainer(t.Context(), g.request("c1", "show"))
		created <- err
	}()
	<-slow.pulling
	_, err := g.RemoveContainer(t.Context(), &agent.RemoveContainerRequest{ContainerId: "c1"})
	if code := status.Code(err); code != codes.OK && code != codes.NotFound { // it may be gone already
		t.Error(err)
	}
	if err := <-created; status.Code(err) != codes.Canceled {
		t.Errorf("creating: %v", err)
	}
}
