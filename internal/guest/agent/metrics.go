// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/nacre-project/nacre/api/agent"
)

// GetMetrics says what this program costs its guest, as Prometheus text: memory in proportional set size, what it wrote
// apart from what is mapped of its file, of both its processes. It says nothing of containers.
func (a *Agent) GetMetrics(context.Context, *agent.GetMetricsRequest) (*agent.Metrics, error) {
	processes := []string{"self"}
	if os.Getppid() == 1 {
		processes = append(processes, "1") // in a guest, process 1 is this program as well
	}
	var anonymous, file uint64
	for _, p := range processes {
		// The kernel's sum over all memory areas of a process (proc(5), /proc/PID/smaps_rollup).
		text, err := os.ReadFile(filepath.Join("/proc", p, "smaps_rollup"))
		if err != nil {
			return nil, failed("reading the agent's memory", err)
		}
		written, mapped, err := proportionalSet(string(text))
		if err != nil {
			return nil, failed("reading the agent's memory", err)
		}
		anonymous, file = anonymous+written, file+mapped
	}
	return &agent.Metrics{Metrics: fmt.Sprintf(
		`# HELP nacre_guest_pss_bytes Memory of nacre-guest's processes, in proportional set size.
# TYPE nacre_guest_pss_bytes gauge
nacre_guest_pss_bytes{kind="anonymous"} %d
nacre_guest_pss_bytes{kind="file"} %d
# HELP nacre_guest_goroutines Goroutines of the agent.
# TYPE nacre_guest_goroutines gauge
nacre_guest_goroutines %d
`, anonymous, file, runtime.NumGoroutine())}, nil
}

// proportionalSet reads Pss_Anon and Pss_File, which are in kB, as bytes.
func proportionalSet(rollup string) (anonymous, file uint64, err error) {
	fields := map[string]*uint64{"Pss_Anon:": &anonymous, "Pss_File:": &file}
	for line := range strings.Lines(rollup) {
		words := strings.Fields(line)
		if len(words) != 3 || words[2] != "kB" || fields[words[0]] == nil {
			continue
		}
		kilobytes, err := strconv.ParseUint(words[1], 10, 44) // the kernel's; more cannot be
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", words[0], err)
		}
		*fields[words[0]] = kilobytes << 10
		delete(fields, words[0])
	}
	if len(fields) > 0 {
		return 0, 0, errors.New("smaps_rollup lacks Pss_Anon or Pss_File: the kernel was built without")
	}
	return anonymous, file, nil
}
