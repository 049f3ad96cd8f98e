// SPDX-License-Identifier: Apache-2.0

// Command nacre-guest is the guest: process 1 of the microVM, the agent that it supervises, and the sandboxed child
// that unpacks image layers. Which of the three runs is decided by the first argument; none is for people to type.
package main

import (
	"os"

	"github.com/nacre-project/nacre/internal/guest/boot"
	"github.com/nacre-project/nacre/internal/guest/unpack"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == unpack.Argument {
		os.Exit(unpack.Main())
	}
	boot.Main(os.Args[1:])
}
