// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// allowsSocket follows the filter as the kernel does: it compares 64 bits of the argument.
func allowsSocket(t *testing.T, domain uint64) bool {
	for _, call := range seccomp().Syscalls {
		if call.Action != specs.ActAllow || !slices.Contains(call.Names, "socket") {
			continue
		}
		if len(call.Args) != 1 || call.Args[0].Index != 0 || call.Args[0].Op != specs.OpMaskedEqual {
			t.Fatalf("a rule that this test does not know: %+v", call)
		}
		if domain&call.Args[0].Value == call.Args[0].ValueTwo {
			return true
		}
	}
	return false
}

// TestAttackVsockInWideArgument is a container that asks for a vsock with bits that the kernel throws away.
func TestAttackVsockInWideArgument(t *testing.T) {
	for _, above := range []uint64{0, 1 << 32, 1 << 63, 0xffffffff << 32} {
		for family := range uint64(64) {
			if got := allowsSocket(t, above|family); got != (family != unix.AF_VSOCK) {
				t.Errorf("socket(%#x): allowed is %v", above|family, got)
			}
		}
	}
}

// TestAttackMaskedImage is a host that blanks a file of the image, which the policy that looks at mounts does not see.
func TestAttackMaskedImage(t *testing.T) {
	for _, path := range []string{"/etc/shadow", "/", "/proc", "/procs/x", "/etc/../proc/x", "/dev/null"} {
		if got, err := paths(maskedPaths, []string{path}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	if _, err := paths(maskedPaths, []string{"/proc/keys", "/sys/firmware", "/proc/more"}); err != nil {
		t.Error(err)
	}
}

// TestAttackTrustedAnswers is a host whose name server claims to have verified its answers.
func TestAttackTrustedAnswers(t *testing.T) {
	for line, want := range map[string]string{
		"options edns0 trust-ad":     "options edns0\n",
		"options trust-ad":           "",
		"options trust-adx ndots:5":  "options ndots:5\n",
		"options trust-ad:1 no-aaaa": "options no-aaaa\n",
	} {
		if got, err := resolverFile([]string{line}); got != want || err != nil {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}
