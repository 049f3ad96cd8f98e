// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// TestTerminationMessage has a container leave a message where Kubernetes lets it, and the host ask for it.
func TestTerminationMessage(t *testing.T) {
	g := startGuest(t, ordinaryPolicy)
	g.sandbox(t)
	request := g.request("c1", "write", terminationPath, "it was the disk")
	request.OCI.Process.User = &agent.User{UID: 1000}
	request.OCI.Mounts = []*agent.Mount{{
		Destination: terminationPath, Type: "bind", Options: []string{"rbind", "rprivate", "rw"},
		Source: filepath.Join(g.agent.Dir, copiedDir, "c1-0123-termination-log"),
	}}
	if _, err := g.CreateContainer(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if code := g.wait(t, "c1", "c1"); code != 0 {
		t.Errorf("exit code %d: %s", code, all(t, g.ReadStdout, "c1", "c1"))
	}
	ask := func(kind, id string) (*agent.GetDiagnosticDataResponse, error) {
		return g.GetDiagnosticData(t.Context(), &agent.GetDiagnosticDataRequest{LogType: kind, ContainerId: id})
	}
	if got, err := ask("termination-log", "c1"); err != nil || got.Data != "it was the disk" {
		t.Errorf("%v, %v", got, err)
	}
	wantCode(t, "another container", codes.NotFound)(ask("termination-log", "c2"))
	wantCode(t, "other data", codes.InvalidArgument)(ask("kernel", "c1"))
}

// TestAttackTermination has a container write what no message is, and a host mount what is no place for one.
func TestAttackTermination(t *testing.T) {
	a := testAgent(t)
	a.containers["c1"] = &container{id: "c1", state: stateRunning}
	file := a.terminationFile("c1")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Run("a long one", func(t *testing.T) {
		if err := os.WriteFile(file, []byte(strings.Repeat("x", 1<<20)+"end"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := a.GetDiagnosticData(t.Context(),
			&agent.GetDiagnosticDataRequest{LogType: "termination-log", ContainerId: "c1"})
		if err != nil || len(got.Data) != maxTermination || !strings.HasSuffix(got.Data, "end") {
			t.Errorf("%d bytes, %v", len(got.GetData()), err)
		}
	})
	t.Run("not text", func(t *testing.T) {
		if err := os.WriteFile(file, []byte{'a', 0xff, 'b'}, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := a.GetDiagnosticData(t.Context(),
			&agent.GetDiagnosticDataRequest{LogType: "termination-log", ContainerId: "c1"})
		if err != nil || got.Data != "a\uFFFDb" {
			t.Errorf("%v, %v", got, err)
		}
	})
	shared := filepath.Join(a.Dir, copiedDir)
	for name, m := range map[string]*agent.Mount{
		"another file of /dev": {Destination: "/dev/null", Source: shared + "/c1-termination-log", Type: "bind"},
		"a file of /proc":      {Destination: "/proc/sys/termination-log", Source: shared + "/c1-termination-log", Type: "bind"},
		"over the root":        {Destination: "/", Source: shared + "/c1-termination-log", Type: "bind"},
		"the guest's":          {Destination: terminationPath, Source: "/etc/x-termination-log", Type: "bind"},
		"a copied file":        {Destination: terminationPath, Source: shared + "/v/..data", Type: "bind"},
		"deeper":               {Destination: terminationPath, Source: shared + "/v/termination-log", Type: "bind"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := a.mounts("c1", []*agent.Mount{m}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}
