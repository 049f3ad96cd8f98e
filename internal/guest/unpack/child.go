// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Argument is the first argument of a program that must call [Main] and do nothing else.
const Argument = "unpack"

// report is what the child says on its status pipe: one JSON object, its last word.
type report struct {
	Stats  Stats  `json:"stats"`
	Code   Code   `json:"code,omitempty"`
	Entry  []byte `json:"entry,omitempty"` // base64, for names need not be UTF-8
	Detail string `json:"detail,omitempty"`
}

// Main is the child: it confines itself to its working directory, unpacks standard input there, and reports on
// standard output. Arguments are "unpack" and the limits as JSON. It returns the exit status.
func Main() int {
	stats, err := child(os.Args)
	r := report{Stats: stats}
	if err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			e = &Error{Code: CodeFailed, Err: err}
		}
		r.Code, r.Entry, r.Detail = e.Code, []byte(e.Entry), e.reason()
	}
	if writeErr := json.NewEncoder(os.Stdout).Encode(r); err != nil || writeErr != nil {
		return 1
	}
	return 0
}

func child(args []string) (Stats, error) {
	var limits Limits
	if len(args) != 3 || args[1] != Argument {
		return Stats{}, fmt.Errorf("usage: %s <limits>: the program is its own child and is not called by hand", Argument)
	}
	if err := json.Unmarshal([]byte(args[2]), &limits); err != nil {
		return Stats{}, fmt.Errorf("parsing the limits: %w", err)
	}
	if err := confine(limits.withDefaults()); err != nil {
		return Stats{}, fmt.Errorf("confining the unpacker: %w", err)
	}
	root, err := os.Open("/")
	if err != nil {
		return Stats{}, fmt.Errorf("opening the layer's directory: %w", err)
	}
	defer root.Close()
	return Extract(root, os.Stdin, limits)
}

// keptCapabilities is all that making files for others takes (capabilities(7)). They count in the child's own user
// namespace only.
var keptCapabilities = []uint{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP}

// oomScore has the kernel take the unpacker first when memory runs out: a pull can be repeated.
const oomScore = "1000"

// confine gives up everything but the working directory. The namespaces are new already: the parent made them.
func confine(limits Limits) error {
	unix.Umask(0)
	if err := ownNamespaces(); err != nil {
		return err
	}
	// Raising it takes no privilege. The agent's own score, which the kernel spares, must not be inherited.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0); err != nil {
		return fmt.Errorf("offering itself to the out-of-memory killer: %w", err)
	}
	if err := closeInherited(); err != nil {
		return fmt.Errorf("closing inherited descriptors: %w", err)
	}
	if err := enterWorkingDirectory(); err != nil {
		return err
	}
	for resource, limit := range map[int]uint64{
		unix.RLIMIT_CORE:     0,
		unix.RLIMIT_NOFILE:   64,
		unix.RLIMIT_FSIZE:    uint64(limits.FileBytes),
		unix.RLIMIT_DATA:     1 << 30,
		unix.RLIMIT_MEMLOCK:  0,
		unix.RLIMIT_MSGQUEUE: 0,
	} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("setting resource limit %d: %w", resource, err)
		}
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	return denySockets()
}

// ownNamespaces refuses to go on when the process is not the first of a PID namespace of its own: then the parent
// did not make the namespaces, and what follows would change the mounts of the whole system.
func ownNamespaces() error {
	if os.Getpid() != 1 {
		return errors.New("not in namespaces of its own: the program must be started by its parent")
	}
	return nil
}

// closeInherited closes every descriptor above standard error but the Go runtime's own, which are anonymous inodes.
func closeInherited() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if fd <= 2 || err != nil || strings.HasPrefix(target, "anon_inode:[event") { // err: ReadDir's own, closed by now
			continue
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// enterWorkingDirectory makes the working directory the root, and leaves no other mount in sight.
func enterWorkingDirectory() error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("finding the layer's directory: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding the layer's directory: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("entering the layer's directory: %w", err)
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one, and is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", "/", "", flags, ""); err != nil {
		return fmt.Errorf("restricting the layer's mount: %w", err)
	}
	return nil
}

// dropCapabilities applies to every thread; in a program with C code Go cannot do that and answers ENOTSUP, so the
// guest is built without.
func dropCapabilities() error {
	prctl := func(what string, option, arg2, arg3 uintptr) error {
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, option, arg2, arg3); errno != 0 {
			return fmt.Errorf("%s: %w", what, errno)
		}
		return nil
	}
	kept := uint64(0)
	for _, c := range keptCapabilities {
		kept |= 1 << c
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if kept&(1<<c) != 0 {
			continue
		}
		err := prctl("dropping a capability from the bounding set", unix.PR_CAPBSET_DROP, c, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // an older kernel does not know the newest ones
			return err
		}
	}
	err := prctl("clearing the ambient capabilities", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	if err != nil {
		return err
	}
	if err := prctl("setting no_new_privs", unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(kept), uint32(kept>>32)
	data := [2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		return fmt.Errorf("dropping capabilities: %w", errno)
	}
	return nil
}
