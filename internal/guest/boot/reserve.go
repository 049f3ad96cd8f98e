// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroupRoot is where the one hierarchy of control groups is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// containersGroup is the control group above those of all containers, where the agent's runtime makes them.
const containersGroup = "nacre"

// What containers together leave to the guest: the agent, the unpackers of images and the container runtime.
const (
	reservedThreads = 512
	reservedMemory  = 64 << 20 // bytes
)

// reserve limits the containers as a whole, so that they cannot starve what looks after them: each has limits of its
// own, and their sum may be more than there is. In a machine that is hardly larger than the reserve they get half.
// The files are those of the kernel, cgroup.subtree_control and below in group.
func reserve(group, threadsMax, meminfo string) error {
	threads, err := os.ReadFile(threadsMax)
	if err != nil {
		return fmt.Errorf("reading how many threads there can be: %w", err)
	}
	most, err := strconv.ParseInt(strings.TrimSpace(string(threads)), 10, 64)
	if err != nil {
		return fmt.Errorf("reading how many threads there can be: %w", err)
	}
	memory, err := totalMemory(meminfo)
	if err != nil {
		return fmt.Errorf("reading how much memory there is: %w", err)
	}
	containers := filepath.Join(group, containersGroup)
	if err := os.Mkdir(containers, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the containers' control group: %w", err)
	}
	for _, s := range []struct{ path, value string }{
		{filepath.Join(group, "cgroup.subtree_control"), "+pids +memory"},
		{filepath.Join(containers, "pids.max"), strconv.FormatInt(max(most-reservedThreads, most/2), 10)},
		{filepath.Join(containers, "memory.max"), strconv.FormatInt(max(memory-reservedMemory, memory/2), 10)},
	} {
		if err := write(s.path, s.value); err != nil {
			return fmt.Errorf("limiting the containers as a whole: %w", err)
		}
	}
	return nil
}

// totalMemory reads MemTotal, in bytes (proc_meminfo(5)).
func totalMemory(meminfo string) (int64, error) {
	text, err := os.ReadFile(meminfo)
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) == 3 && words[0] == "MemTotal:" && words[2] == "kB" {
			kib, err := strconv.ParseInt(words[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no MemTotal", meminfo)
}
