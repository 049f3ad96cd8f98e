// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Init is process 1 of the virtual machine in which the soak test takes a trustee's power away. It mounts the disk,
// brings up the network and runs the trustee, whose standard output is the console; when the trustee ends, it prints the
// end of its log and powers the machine off. It is for that test only.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/internal/guestos/early"
)

const (
	argumentsFile = "/soak/arguments" // JSON, the program first
	diskDevice    = "/dev/vda"
	diskWait      = 20 * time.Second
	diskPoll      = 5 * time.Millisecond
	mountPoint    = "/disk"
	network       = "eth0"
	address       = "10.0.2.15/24" // what QEMU's user network expects its guest to have
	logFile       = "/trustee.log" // in memory
	logTail       = 4 << 10        // bytes of it that are printed
)

func main() {
	err := run()
	fmt.Printf("\nsoak: %v\n", err)
	if log, readErr := os.ReadFile(logFile); readErr == nil {
		fmt.Printf("%s\n", log[max(0, len(log)-logTail):])
	}
	fmt.Println("soak: power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func run() error {
	for _, m := range []struct{ fstype, target string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := up(); err != nil {
		return fmt.Errorf("bring up the network: %w", err)
	}
	for deadline := time.Now().Add(diskWait); ; time.Sleep(diskPoll) {
		if _, err := os.Stat(diskDevice); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	if err := os.MkdirAll(mountPoint, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(diskDevice, mountPoint, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	return trustee()
}

// loadModules loads the modules that the guest image's own initial RAM file system has; this program took the place of
// its /init. Modules of hardware that is not here may fail.
func loadModules() error {
	list, err := os.ReadFile(early.ModuleList)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		name, optional := strings.CutPrefix(name, "?")
		f, err := os.Open(filepath.Join(early.ModuleDir, name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !optional && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// up brings the network up.
func up() error {
	for _, name := range []string{"lo", network} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == network {
			a, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// trustee runs the trustee until it ends, which it should not.
func trustee() error {
	text, err := os.ReadFile(argumentsFile)
	if err != nil {
		return err
	}
	var arguments []string
	if err := json.Unmarshal(text, &arguments); err != nil || len(arguments) == 0 {
		return fmt.Errorf("%s is no list of arguments: %w", argumentsFile, err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	//nolint:noctx // it ends with the machine
	cmd := exec.Command(arguments[0], arguments[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdout, log, []string{"HOME=/"}
	return fmt.Errorf("the trustee ended: %w", cmd.Run())
}
