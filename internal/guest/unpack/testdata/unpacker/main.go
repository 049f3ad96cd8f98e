// SPDX-License-Identifier: Apache-2.0

// Command unpacker is the unpacking child alone, for tests: a test's own binary may hold C code (the race detector's)
// and then cannot confine itself.
package main

import (
	"os"

	"github.com/nacre-project/nacre/internal/guest/unpack"
)

func main() { os.Exit(unpack.Main()) }
