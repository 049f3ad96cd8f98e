// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command nacre runs pods in confidential microVMs and manages the trustee that gives them their secrets.
package main

import (
	"os"

	"github.com/nacre-project/nacre/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
