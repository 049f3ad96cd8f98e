// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where a filter finds things (seccomp(2), struct seccomp_data), in bytes.
const (
	offsetCall         = 0
	offsetArchitecture = 4
)

// foreignCalls is where the numbers of x32's system calls begin: the same calls once more.
const foreignCalls = 0x40000000

// denySockets takes sockets away from every thread of the process, for good. The network namespace has no network, but
// a vsock knows no namespaces and would reach the host; io_uring makes sockets too. The process must have no_new_privs.
func denySockets() error {
	architectures := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}
	architecture, known := architectures[runtime.GOARCH]
	if !known {
		return fmt.Errorf("denying sockets: no filter for %s", runtime.GOARCH)
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	answer := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	// skip passes over the next instruction unless the comparison holds.
	skip := func(comparison uint16, value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | comparison | unix.BPF_K, Jf: 1, K: value}
	}
	denied := answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	program := []unix.SockFilter{
		load(offsetArchitecture),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: architecture},
		answer(unix.SECCOMP_RET_KILL_PROCESS), // the numbers mean something else
		load(offsetCall),
		skip(unix.BPF_JGE, foreignCalls), denied,
	}
	for _, call := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_IO_URING_SETUP} {
		program = append(program, skip(unix.BPF_JEQ, call), denied)
	}
	program = append(program, answer(unix.SECCOMP_RET_ALLOW))
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// With this flag a thread that cannot have the filter is told by its id, as the result.
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("denying sockets: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("denying sockets: thread %d cannot have the filter", thread)
	}
	return nil
}
