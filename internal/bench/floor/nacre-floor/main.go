// SPDX-License-Identifier: Apache-2.0

// Command nacre-floor is the floor as a process of its own, so that its CPU time can be told from the client's.
// `nacre bench` starts it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/nacre-project/nacre/internal/bench/floor"
)

// gcPercent is the trustee's setting: a floor that collected its garbage more often would not be one.
const gcPercent = 400

func main() {
	path := flag.String("settings", "", "`file` of the settings, JSON")
	flag.Parse()
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := floor.ReadSettings(*path)
	if err == nil {
		err = floor.Run(ctx, s, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nacre-floor:", err)
		os.Exit(1)
	}
}
