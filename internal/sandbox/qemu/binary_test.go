// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// newerQEMU names a QEMU that knows more platforms than the installed one, e.g. Debian testing's in a chroot.
const newerQEMU = "NACRE_QEMU"

// parsedBy gives args to the real program and returns what it complained about. The machine's descriptors do not exist, so the
// program always stops early; what matters is how far it came.
func parsedBy(t *testing.T, binary string, args []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil {
		t.Fatalf("%s accepted a machine that cannot exist", binary)
	}
	return stderr.String()
}

func installed(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed; `make deps` installs it")
	}
	return binary
}

// board keeps the options that describe processor, memory and protection, which is what a machine without hardware can have
// parsed: the rest names descriptors that only a starter can pass.
func board(t *testing.T, m Machine) []string {
	t.Helper()
	args, err := m.Args()
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for i := 0; i+1 < len(args); i++ {
		switch args[i] {
		case "-machine", "-object", "-cpu", "-smp", "-m", "-vga", "-sandbox", "-display":
			kept = append(kept, args[i], args[i+1])
			i++
		case "-nodefaults", "-no-user-config", "-no-reboot":
			kept = append(kept, args[i])
		}
	}
	return kept
}

// The program checks an object's properties before it looks for the hardware. So a line of which it only says that KVM is
// missing is a line that it understood completely. The twins show that it would have said otherwise.
func TestSNPLineIsUnderstood(t *testing.T) {
	binary := installed(t)
	const kvmMissing = "KVM required"
	right := board(t, hardware(SNP))
	if got := parsedBy(t, binary, right); !strings.Contains(got, kvmMissing) || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q, want only %q", got, kvmMissing)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown property":   {"host-data=", "host-datum=", "Invalid parameter 'host-datum'"},
		"short host data":    {"host-data=3q0A", "host-data=", "not equal to 32"},
		"bad policy":         {"policy=0x30000", "policy=strict", "policy"},
		"unknown board knob": {"smm=off", "smm=off,smn=off", "machine.smn' not found"},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := make([]string, len(right))
			changed := false
			for i, arg := range right {
				wrong[i] = strings.Replace(arg, c.old, c.new, 1)
				changed = changed || wrong[i] != arg
			}
			if !changed {
				t.Fatalf("nothing to replace: %q is not in %q", c.old, right)
			}
			if got := parsedBy(t, binary, wrong); !strings.Contains(got, c.want) || strings.Contains(got, kvmMissing) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// QEMU knows TDX from 10.1 on. An older one must say so; the line itself is then only compared with its golden file.
func TestTDXLineIsUnderstood(t *testing.T) {
	binary := os.Getenv(newerQEMU)
	if binary == "" {
		binary = installed(t)
	}
	got := parsedBy(t, binary, board(t, hardware(TDX)))
	if strings.Contains(got, "does not accept value 'tdx-guest'") {
		t.Skipf("this QEMU is older than 10.1 and knows no TDX; set %s to a newer one. The line is compared with testdata/tdx.args only",
			newerQEMU)
	}
	if !strings.Contains(got, "KVM") {
		t.Errorf("got %q, want a complaint about KVM only", got)
	}
}
