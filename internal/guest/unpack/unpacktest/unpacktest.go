// SPDX-License-Identifier: Apache-2.0

// Package unpacktest gives tests the real unpacking sandbox. It is for tests only; it needs root, and skips the test,
// saying why, where it has not got it.
package unpacktest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nacre-project/nacre/internal/guest/unpack"
)

// Main is for the TestMain of a package that uses Sandbox: the test's own binary is the unpacking child.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == unpack.Argument {
		os.Exit(unpack.Main())
	}
	os.Exit(m.Run())
}

// child is the unpacking child as a program of its own, for test binaries that cannot be it. It is built once for a
// test program, and unlinked at once: only the descriptor keeps it.
var child = sync.OnceValues(func() (*os.File, error) {
	dir, err := os.MkdirTemp("", "nacre-unpacker-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "unpacker")
	cmd := exec.Command("go", "build", "-o", path, "github.com/nacre-project/nacre/internal/guest/unpack/testdata/unpacker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.Open(path)
})

// Sandbox returns the real sandbox. The package's TestMain must call [Main].
func Sandbox(t testing.TB, limits unpack.Limits) *unpack.Sandbox {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the unpacker's namespace maps every identity, which takes root")
	}
	if selfConfines {
		return &unpack.Sandbox{Executable: "/proc/self/exe", Limits: limits}
	}
	program, err := child()
	if err != nil {
		t.Fatalf("building the unpacker: %v", err)
	}
	return &unpack.Sandbox{Executable: fmt.Sprintf("/proc/self/fd/%d", program.Fd()), Limits: limits}
}
