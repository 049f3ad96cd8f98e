// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine names what this program runs on, in one line.
func Machine() string { return machineLine("") }

// machineLine names what the figures were taken on, in one line. Accel is what executes guests, empty when none was
// started.
func machineLine(accel string) string {
	line := fmt.Sprintf("Measured on %s, %d cores, %s", processor(), runtime.NumCPU(), runtime.Version())
	if accel != "" {
		line += "; guests executed by QEMU with " + accel
	}
	return line + "."
}

// processor is the model name of the first processor. (proc(5), /proc/cpuinfo)
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
