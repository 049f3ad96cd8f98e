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

// allowsSocket follows the filter as the kernel does: it compares 64 bits of the arguments, all of a rule's.
func allowsSocket(t *testing.T, arguments ...uint64) bool {
	for _, call := range seccomp().Syscalls {
		if call.Action != specs.ActAllow || !slices.Contains(call.Names, "socket") {
			continue
		}
		if len(call.Args) == 0 {
			return true
		}
		matches := true
		for i, arg := range call.Args {
			// The runtime takes a second rule about one argument for an alternative.
			if arg.Index != uint(i) || arg.Op != specs.OpMaskedEqual {
				t.Fatalf("a rule that this test does not know: %+v", call)
			}
			matches = matches && arguments[i]&arg.Value == arg.ValueTwo
		}
		if matches {
			return true
		}
	}
	return false
}

// wide are bits of an argument that the kernel throws away.
var wide = []uint64{0, 1 << 32, 1 << 63, 0xffffffff << 32}

// TestAttackVsockInWideArgument is a container that asks for a vsock, or another family that is not for it, with bits
// that the kernel throws away.
func TestAttackVsockInWideArgument(t *testing.T) {
	allowed := []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
	for _, above := range wide {
		for family := range uint64(64) {
			if got := allowsSocket(t, above|family, unix.SOCK_STREAM); got != slices.Contains(allowed, family) {
				t.Errorf("socket(%#x): allowed is %v", above|family, got)
			}
		}
	}
}

// TestAttackPacketSocket is a container that asks for packets, its own and the other containers', in the old way too.
func TestAttackPacketSocket(t *testing.T) {
	const sockPacket = 10
	for _, above := range wide {
		for _, flags := range []uint64{0, unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK} {
			for kind := range uint64(16) {
				if allowsSocket(t, above|unix.AF_PACKET, above|flags|kind) {
					t.Errorf("socket(AF_PACKET, %#x) is allowed", above|flags|kind)
				}
				if got := allowsSocket(t, above|unix.AF_INET, above|flags|kind); got != (kind != sockPacket) {
					t.Errorf("socket(AF_INET, %#x): allowed is %v", above|flags|kind, got)
				}
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
