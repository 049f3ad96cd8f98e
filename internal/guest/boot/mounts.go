// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type mount struct {
	target, fstype, data string
	flags                uintptr
	optional             bool // the kernel may not have it
}

const (
	noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	noDev  = unix.MS_NOSUID | unix.MS_NODEV
)

// mounts in their order. The initial RAM file system may have brought the first ones. Images are unpacked below /run,
// which therefore takes three quarters of the memory and no more: beyond that a pull fails, and the guest lives.
var mounts = []mount{
	{target: "/proc", fstype: "proc", flags: noExec},
	{target: "/sys", fstype: "sysfs", flags: noExec},
	{target: "/dev", fstype: "devtmpfs", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0755"},
	{target: "/dev/pts", fstype: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC,
		data: "newinstance,ptmxmode=0666,mode=0620,gid=5"},
	{target: "/dev/shm", fstype: "tmpfs", flags: noExec, data: "mode=1777,size=64m"},
	{target: "/run", fstype: "tmpfs", flags: noDev, data: "mode=0755,size=75%"},
	{target: "/tmp", fstype: "tmpfs", flags: noExec, data: "mode=1777,size=16m"},
	{target: "/sys/fs/cgroup", fstype: "cgroup2", flags: noExec, data: "nsdelegate"},
	{target: "/sys/kernel/config", fstype: "configfs", flags: noExec, optional: true},
}

func mountAll() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil && !m.optional {
			return fmt.Errorf("making the mount point %s: %w", m.target, err)
		}
		err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data)
		absent := errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT)
		if err == nil || errors.Is(err, unix.EBUSY) || m.optional && absent {
			continue
		}
		return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
	}
	// Processes of a container must not share mounts with the guest.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	return nil
}
