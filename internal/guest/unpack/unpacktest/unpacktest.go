// SPDX-License-Identifier: Apache-2.0

// Package unpacktest gives tests the real unpacking sandbox. It is for tests only; it needs root and the go command,
// and skips the test, saying why, where a machine has not got what the sandbox takes.
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

// child is built once for a test program, and unlinked at once: only the descriptor keeps it.
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

// Sandbox returns the real sandbox.
func Sandbox(t testing.TB, limits unpack.Limits) *unpack.Sandbox {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the unpacker's namespace maps every identity, which takes root")
	}
	program, err := child()
	if err != nil {
		t.Fatalf("building the unpacker: %v", err)
	}
	return &unpack.Sandbox{Executable: fmt.Sprintf("/proc/self/fd/%d", program.Fd()), Limits: limits}
}
