// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// confinedTest tells a test that it runs in a process of its own, which it may confine.
const confinedTest = "NACRE_TEST_CONFINED"

// TestAttackUnpackerSocket is an unpacker that has been taken over and calls the host.
func TestAttackUnpackerSocket(t *testing.T) {
	if os.Getenv(confinedTest) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), confinedTest+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	ready, elsewhere := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread() // a thread that is there before the filter
		close(ready)
		<-elsewhere
		elsewhere <- socket(unix.AF_VSOCK)
	}()
	<-ready
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := denySockets(); err != nil {
		t.Fatal(err)
	}
	const x32 = 0x40000000
	for name, err := range map[string]error{
		"vsock":                socket(unix.AF_VSOCK),
		"vsock, wide argument": socket(1<<32 | unix.AF_VSOCK),
		"vsock, x32":           call(x32|unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM),
		"unix":                 socket(unix.AF_UNIX),
		"pair":                 call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM),
		"io_uring":             call(unix.SYS_IO_URING_SETUP, 1, 0),
	} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", name, err)
		}
	}
	elsewhere <- nil
	if err := <-elsewhere; !errors.Is(err, unix.EPERM) {
		t.Errorf("in another thread: %v", err)
	}
}

// socket asks for a socket of a family.
func socket(family uintptr) error { return call(unix.SYS_SOCKET, family, unix.SOCK_STREAM) }

func call(number, a, b uintptr) error {
	_, _, errno := unix.RawSyscall(number, a, b, 0)
	return errno
}
