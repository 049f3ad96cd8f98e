// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vmm

import (
	"fmt"
	"net"
	"os"

	"github.com/nacre-project/nacre/internal/sandbox/qemu"
	"golang.org/x/sys/unix"
)

// Files collects what a machine gets, and says under which number it will see each. The zero value is ready.
type Files struct {
	list  []*os.File
	owned []*os.File
}

// Lend adds a file that the caller keeps.
func (f *Files) Lend(file *os.File) qemu.FD {
	f.list = append(f.list, file)
	// Descriptors 0 to 2 are the standard streams.
	return qemu.FD(2 + len(f.list))
}

// At returns the file that the machine sees under a number, nil if there is none.
func (f *Files) At(fd qemu.FD) *os.File {
	if i := int(fd) - 3; i >= 0 && i < len(f.list) {
		return f.list[i]
	}
	return nil
}

// give adds a file that is closed in this process as soon as the machine has it.
func (f *Files) give(file *os.File) qemu.FD {
	f.owned = append(f.owned, file)
	return f.Lend(file)
}

// Pipe makes a connected pair of stream sockets: one end for the machine, the other for the caller. There is no name by which
// a third process could reach either.
func (f *Files) Pipe(name string) (net.Conn, qemu.FD, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("connecting %s: %w", name, err)
	}
	ours := os.NewFile(uintptr(fds[0]), name)
	theirs := os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, 0, fmt.Errorf("connecting %s: %w", name, err)
	}
	return conn, f.give(theirs), nil
}

// Close closes the machine's ends of pipes in this process. It is called by Start; a caller needs it only if it never starts.
func (f *Files) Close() {
	for _, file := range f.owned {
		file.Close()
	}
	f.owned = nil
}
