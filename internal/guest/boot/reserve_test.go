// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAttackStarvation is a pod that takes all that its guest has: threads and memory are left for the guest.
func TestAttackStarvation(t *testing.T) {
	for name, c := range map[string]struct{ threads, memory, pids, bytes string }{
		"ordinary": {"15000", "2000000", "14488", "1980891136"},
		"tiny":     {"600", "100000", "300", "51200000"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := func(path, text string) string {
				t.Helper()
				full := filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return full
			}
			control := file("cgroup.subtree_control", "")
			pids, memory := file("nacre/pids.max", "max"), file("nacre/memory.max", "max")
			threads := file("threads-max", c.threads+"\n")
			meminfo := file("meminfo", "MemFree: 1 kB\nMemTotal:   "+c.memory+" kB\n")
			if err := reserve(dir, threads, meminfo); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]string{control: "+pids +memory", pids: c.pids, memory: c.bytes} {
				if got, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(got)) != want {
					t.Errorf("%s: %q, %v; want %s", path, got, err, want)
				}
			}
			if err := os.Remove(pids); err != nil {
				t.Fatal(err)
			}
			if err := reserve(dir, threads, meminfo); err == nil {
				t.Error("a kernel without the limit was accepted")
			}
		})
	}
}

// TestAttackCtrlAltDel is a host that presses keys. A test that fails ends with its process.
func TestAttackCtrlAltDel(t *testing.T) {
	before := ignoredByChildren(t) // what started the test may have chosen: nohup does
	surviveSignals()
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if err := unix.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
	}
	// Containers are programs that process 1 has started, at some remove: they must not have inherited a deaf ear.
	if after := ignoredByChildren(t); after&^before != 0 {
		t.Errorf("programs ignore the signals %#x, before they did %#x", after, before)
	}
}

// ignoredByChildren is the set of signals that a program started from here ignores, a bit for each from 1.
func ignoredByChildren(t *testing.T) uint64 {
	t.Helper()
	status, err := exec.CommandContext(t.Context(), "cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "SigIgn:\t")
	text, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		t.Fatalf("no SigIgn in:\n%s", status)
	}
	return set
}
