// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setting is a file of the kernel, what to write into it, and what must stand in it afterwards.
type setting struct {
	path, value string // "*" in the path stands for every name that is there
	optional    bool   // the kernel may be built without it
}

// settings close what the guest never needs. Modules come first in effect and last in time: the initial RAM file
// system has loaded all that the guest will ever need.
var settings = []setting{
	{path: "kernel/printk", value: "4 4 1 4"}, // the console shows errors only: the host reads it
	{path: "kernel/sysrq", value: "0"},
	{path: "kernel/kexec_load_disabled", value: "1", optional: true},
	{path: "kernel/core_pattern", value: "|/bin/false"}, // no core files, memory holds secrets: there is no such program
	{path: "kernel/core_uses_pid", value: "0"},
	{path: "fs/suid_dumpable", value: "0"},
	{path: "kernel/dmesg_restrict", value: "1"},
	{path: "kernel/kptr_restrict", value: "2"},
	{path: "kernel/unprivileged_bpf_disabled", value: "1", optional: true},
	{path: "net/core/bpf_jit_harden", value: "2", optional: true},
	{path: "kernel/perf_event_paranoid", value: "3", optional: true},
	{path: "kernel/yama/ptrace_scope", value: "2", optional: true},
	{path: "vm/unprivileged_userfaultfd", value: "0", optional: true},
	{path: "dev/tty/ldisc_autoload", value: "0", optional: true},
	{path: "fs/protected_symlinks", value: "1"},
	{path: "fs/protected_hardlinks", value: "1"},
	{path: "fs/protected_fifos", value: "2", optional: true},
	{path: "fs/protected_regular", value: "2", optional: true},
	// "all" does not bind the interfaces that are there already, and "default" only those that come.
	{path: "net/ipv4/conf/*/accept_redirects", value: "0", optional: true},
	{path: "net/ipv6/conf/*/accept_redirects", value: "0", optional: true},
	{path: "net/ipv4/conf/*/accept_source_route", value: "0", optional: true},
	{path: "net/ipv6/conf/*/accept_ra", value: "0", optional: true}, // addresses come by the agent, gated by policy
	{path: "kernel/modules_disabled", value: "1", optional: true},   // cannot be undone
}

// lockDown writes the settings below root, which is /proc/sys, and reads each back.
func lockDown(root string) error {
	for _, s := range settings {
		paths := []string{filepath.Join(root, s.path)}
		if strings.Contains(s.path, "*") {
			var err error
			if paths, err = filepath.Glob(paths[0]); err != nil {
				return fmt.Errorf("locking the kernel down: %s: %w", s.path, err)
			}
		}
		for _, path := range paths {
			if err := s.apply(path); err != nil {
				return fmt.Errorf("locking the kernel down: %s %w", strings.TrimPrefix(path, root+"/"), err)
			}
		}
	}
	return nil
}

func (s setting) apply(path string) error {
	err := write(path, s.value)
	if errors.Is(err, fs.ErrNotExist) && s.optional {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot be set: %w", err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	if strings.Join(strings.Fields(string(got)), " ") != s.value {
		return fmt.Errorf("stays %q, want %q", strings.TrimSpace(string(got)), s.value)
	}
	return nil
}

// entropyReady returns once the kernel's generator is seeded from the processor. A generator that the host offers
// (virtio-rng) may stir the pool and must not count: its credit is set to nothing, below misc and modules, which are
// /sys/class/misc and /sys/module.
func entropyReady(misc, modules string) error {
	text, err := os.ReadFile(filepath.Join(misc, "hw_random/rng_current"))
	if current := strings.TrimSpace(string(text)); err == nil && current != "none" {
		path := filepath.Join(modules, "rng_core/parameters/current_quality")
		if err := write(path, "0"); err != nil {
			return refuse(CodeEntropy, "taking the credit of the generator %s away: %w", current, err)
		}
		got, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(got)) != "0" {
			return refuse(CodeEntropy, "the generator %s keeps its credit %q", current, got)
		}
	}
	for {
		n, err := unix.Getrandom(make([]byte, 1), 0) // waits until the kernel's generator is seeded
		if n == 1 {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return refuse(CodeEntropy, "waiting for the kernel's generator: %w", err)
		}
	}
}

// write writes a line into a file that must exist.
func write(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
