// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// testGroups keeps the containers of this process apart from those of another that tests at the same time.
func testGroups() string { return fmt.Sprintf("/sys/fs/cgroup/nacre-test-%d", os.Getpid()) }

func TestMain(m *testing.M) {
	code := m.Run()
	// With version 1 of control groups there is one in each hierarchy.
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(testGroups()))
	for _, dir := range append(left, testGroups()) {
		_ = os.Remove(dir)
	}
	os.Exit(code)
}
