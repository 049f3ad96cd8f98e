// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/test/conformance/golden"
	"github.com/nacre-project/nacre/test/conformance/suite"
)

var update = flag.Bool("update", false, "write the golden files")

// trustee starts the real program on loopback and returns the suite's arguments for it.
func trustee(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "nacre-trustee")
	build := exec.Command("go", "build", "-o", program, "github.com/nacre-project/nacre/cmd/nacre-trustee")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the trustee: %v\n%s", err, out)
	}
	machine := filepath.Join(dir, "machine")
	if _, err := newSource(options{simulatedDir: machine}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--json", "--listen", "127.0.0.1:0", "--kds-url", "",
		"--allow-simulated-root", filepath.Join(machine, "root.pem"))
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME=", "XDG_STATE_HOME=")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the trustee's log ends:\n%s", text[max(0, len(text)-4000):])
		}
		log.Close()
	})
	var listening struct {
		URL         string `json:"url"`
		Certificate string `json:"certificate"`
		AdminKey    string `json:"admin_key"`
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &listening) != nil || listening.URL == "" {
		t.Fatalf("the trustee does not listen: %q, %v", line, err)
	}
	return []string{"--url", listening.URL, "--ca", listening.Certificate, "--admin-key", listening.AdminKey,
		"--simulated-dir", machine}
}

// TestTrustee asks our own trustee. Where it differs from stock servers is written down in testdata; what is not
// written there is a slip. A case that SHOULD hold and fails may be written there too, until it is mended.
func TestTrustee(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the trustee")
	}
	var out, errs strings.Builder
	status := run(t.Context(), append(trustee(t), "--json"), &out, &errs)
	var report struct{ Results []suite.Result }
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatalf("status %d: %v\n%s", status, err, errs.String())
	}
	if n := len(report.Results); n < 80 {
		t.Errorf("%d cases", n)
	}
	golden.Compare(t, filepath.Join("testdata", "nacre-trustee.txt"), report.Results, *update)
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--help"}, suite.ExitConforms},
		{[]string{"--list"}, suite.ExitConforms},
		{[]string{"--no-such-flag"}, suite.ExitUsage},
		{nil, suite.ExitUsage},
		{[]string{"--url", "ftp://x"}, suite.ExitUsage},
		{[]string{"--url", "http://127.0.0.1:1"}, suite.ExitUsage},
		{[]string{"--url", "http://127.0.0.1:1", "--evidence-command", "true"}, suite.ExitUsage},
		{[]string{"--url", "http://127.0.0.1:1", "--admin-key", "none.pem"}, suite.ExitUsage},
	} {
		var out, errs strings.Builder
		if got := run(t.Context(), tt.args, &out, &errs); got != tt.want {
			t.Errorf("%q: status %d, want %d\n%s", tt.args, got, tt.want, errs.String())
		}
	}
}

// Every case has a name of its own and says where it is written and what it demands.
func TestCases(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cases(&server{}) {
		if seen[c.Name] || c.Ref == "" || c.Want == "" || c.Run == nil || c.Level != suite.Must && c.Level != suite.Should {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
}
