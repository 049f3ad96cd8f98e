// SPDX-License-Identifier: Apache-2.0

// Package machine gives tests simulated machines whose guests' evidence is really signed. It is for tests only, and what it gives is
// worth as little as any simulated platform: see package signer.
//
// Making a machine's keys takes seconds. One that runs tests many times over names a directory in NACRE_TEST_PLATFORMS, in which they
// are then kept.
package machine

import (
	"os"
	"path/filepath"
	"sync"

	"github.com/nacre-project/nacre/attest/simtee/signer"
)

// Lazy returns a function that opens the machine of a name when it is first called, and returns the same one from then on. Different
// names are different machines, with roots of their own.
func Lazy(name string) func() (*signer.Platform, error) {
	return sync.OnceValues(func() (*signer.Platform, error) {
		if kept := os.Getenv("NACRE_TEST_PLATFORMS"); kept != "" {
			return signer.Open(filepath.Join(kept, name))
		}
		dir, err := os.MkdirTemp("", "nacre-machine-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		return signer.Open(filepath.Join(dir, name))
	})
}
