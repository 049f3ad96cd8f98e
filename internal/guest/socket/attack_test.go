// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

// nobody is a user that no program of the measured image runs as.
const nobody = 65534

// TestAttackAnotherUser is a process of another user that has found its way to the socket.
func TestAttackAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("being somebody else takes root")
	}
	dir, err := os.MkdirTemp("", "nacre-socket-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, func(s *ttrpc.Server) {
			s.RegisterService("test.Service", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
				"Call": func(context.Context, func(any) error) (any, error) { return &emptypb.Empty{}, nil },
			}})
		})
	}()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	call := func(conn net.Conn) error {
		client := ttrpc.NewClient(conn)
		defer client.Close()
		return client.Call(t.Context(), "test.Service", "Call", &emptypb.Empty{}, &emptypb.Empty{})
	}
	own, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := call(own); err != nil {
		t.Fatalf("the same user: %v", err)
	}
	conns := make(chan net.Conn)
	go func() {
		defer close(conns)
		runtime.LockOSThread() // never unlocked: the thread, which is somebody else from here on, ends with the goroutine
		if _, _, errno := unix.Syscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Error(errno)
			return
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
			return
		}
		conns <- conn
	}()
	if conn, ok := <-conns; ok && call(conn) == nil {
		t.Error("another user is answered")
	}
}

// TestAttackOpenSocket looks for a socket, or a directory of sockets, that others than its owner can enter.
func TestAttackOpenSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sockets")
	path := filepath.Join(dir, "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, file := range map[string]string{"socket": path, "directory": dir} {
		t.Run(name, func(t *testing.T) {
			if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}
