// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// untilLine reads a terminal until a line stands in what it says.
func untilLine(t *testing.T, g *guest, id, execID, line string) {
	t.Helper()
	said := ""
	for !strings.Contains(said, line+"\r\n") {
		answer, err := g.ReadStdout(t.Context(), &agent.ReadStreamRequest{ContainerId: id, ExecId: execID, Len: 4096})
		if err != nil {
			t.Fatalf("no %q, but %q and %v", line, said, err)
		}
		said += string(answer.Data)
	}
}

// TestTerminal gives a container, and a process that is executed in it, a terminal, and works with it.
func TestTerminal(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	request := g.request("c1", "terminal")
	request.OCI.Process.Terminal, request.OCI.Process.ConsoleSize = true, &agent.Box{Height: 24, Width: 80}
	if _, err := g.CreateContainer(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	execute := &agent.ExecProcessRequest{ContainerId: "c1", ExecId: "e1", Process: &agent.Process{
		Args: []string{"/probe", "terminal"}, Terminal: true, ConsoleSize: &agent.Box{Height: 24, Width: 80}, OOMScoreAdj: 1000,
		Rlimits: []*agent.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
	}}
	if _, err := g.ExecProcess(t.Context(), execute); err != nil {
		t.Fatal(err)
	}
	for _, execID := range []string{"e1", "c1"} {
		untilLine(t, g, "c1", execID, "terminal 24x80 24x80 24x80")
		resize := func(rows uint32) error {
			return second(g.TtyWinResize(t.Context(), &agent.TtyWinResizeRequest{
				ContainerId: "c1", ExecId: execID, Row: rows, Column: 132,
			}))
		}
		if err := resize(maxWindow + 1); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a huge window: %v", err)
		}
		if err := resize(50); err != nil {
			t.Error(err)
		}
		untilLine(t, g, "c1", execID, "resized 50x132")
		wantCode(t, "the other output", codes.OutOfRange)(
			g.ReadStderr(t.Context(), &agent.ReadStreamRequest{ContainerId: "c1", ExecId: execID, Len: 1}))
		if _, err := g.CloseStdin(t.Context(), &agent.CloseStdinRequest{ContainerId: "c1", ExecId: execID}); err != nil {
			t.Error(err)
		}
		input := &agent.WriteStreamRequest{ContainerId: "c1", ExecId: execID, Data: []byte("there and back\n")}
		if _, err := g.WriteStdin(t.Context(), input); err != nil {
			t.Error(err)
		}
		if got := all(t, g.ReadStdout, "c1", execID); !strings.Contains(got, "typed there and back\r\n") {
			t.Errorf("%s said %q", execID, got)
		}
		if code := g.wait(t, "c1", execID); code != 0 {
			t.Errorf("%s: exit code %d", execID, code)
		}
	}
	g.create(t, "c2", "wait")
	wantCode(t, "no terminal", codes.FailedPrecondition)(
		g.TtyWinResize(t.Context(), &agent.TtyWinResizeRequest{ContainerId: "c2"}))
	left, _ := os.ReadDir(os.TempDir())
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "console-") {
			t.Errorf("the socket in %s is still there", e.Name())
		}
	}
}

// TestTerminalThatNobodyMayRead has a container with a terminal write more than that holds, under a policy without logs.
func TestTerminalThatNobodyMayRead(t *testing.T) {
	g := startGuest(t, allow("CreateSandboxRequest", "CreateContainerRequest", "StartContainerRequest",
		"WaitProcessRequest"))
	g.sandbox(t)
	request := g.request("c1", "flood", "500")
	request.OCI.Process.Terminal = true
	if _, err := g.CreateContainer(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if code := g.wait(t, "c1", "c1"); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestAttackConsole has the runtime's socket deliver what is no terminal.
func TestAttackConsole(t *testing.T) {
	file, err := os.Open("console_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, sent := range map[string][]byte{
		"nothing":   nil,
		"a file":    unix.UnixRights(int(file.Fd())),
		"two files": unix.UnixRights(int(file.Fd()), int(file.Fd())),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := listenConsole()
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.path(), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, _, err := conn.WriteMsgUnix([]byte("/dev/ptmx"), sent, nil); err != nil {
				t.Fatal(err)
			}
			if terminal, err := c.terminal(); err == nil {
				terminal.Close()
				t.Error("it was taken for a terminal")
			}
		})
	}
}
