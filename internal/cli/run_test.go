// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nacre-project/nacre/internal/cli/busybox"
)

// nacre is the command as a process of its own, in a home of its own. The test binary is the program (see TestMain).
func nacre(t *testing.T, home string, args ...string) *exec.Cmd {
	t.Helper()
	if testing.Short() || os.Getenv("NACRE_IMAGE_DIR") == "" {
		t.Skip("boots a guest: not with -short, and NACRE_IMAGE_DIR must name an image; `make test` builds one and sets it")
	}
	program := filepath.Join(t.TempDir(), "nacre")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=", "XDG_STATE_HOME=", "XDG_CACHE_HOME=", "XDG_DATA_HOME=")
	return cmd
}

func writePod(t *testing.T, text string) string {
	t.Helper()
	images, err := busybox.Serve(t.Context(), "/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(images.Close)
	path := filepath.Join(t.TempDir(), "pod.yaml")
	text = "apiVersion: v1\nkind: Pod\nmetadata: {name: test}\nspec:\n" + strings.ReplaceAll(text, "IMAGE", images.Reference)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunShowsOutputAndExitsWithThePodsCode(t *testing.T) {
	cmd := nacre(t, t.TempDir(), "run", writePod(t, `
  restartPolicy: Never
  containers:
  - {name: one, image: "IMAGE", command: [sh, -c, "echo first; echo second; exit 3"]}
  - {name: two, image: "IMAGE", args: [echo, arguments]}
`))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("got %v, want exit code 3\n%s", err, stderr.String())
	}
	for _, want := range []string{"one | first\none | second\n", "two | arguments\n"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("printed %q, want %q", stdout.String(), want)
		}
	}
	for _, want := range []string{"no init-data", "the agent listens", "container one: exit code 3", "first output came after"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("said %q, want %q", stderr.String(), want)
		}
	}
	t.Log(stderr.String())
}

// Ctrl-C while the pod runs: it ends, in good order, and nothing stays behind.
func TestRunEndsOnInterrupt(t *testing.T) {
	cmd := nacre(t, t.TempDir(), "run", "--json", writePod(t, `
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "IMAGE", command: [sh, -c, "echo ready; sleep 1000"]}
`))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := false
	for s := bufio.NewScanner(out); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Errorf("%q is not an event: %v", s.Text(), err)
		}
		if l.Event == "output" && strings.Contains(l.Text, "ready") && !ready {
			ready = true
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !ready || !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("ready %v, ended with %v, want exit code 130\n%s", ready, err, stderr.String())
	}
}
