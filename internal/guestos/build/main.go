// SPDX-License-Identifier: Apache-2.0

// Command build makes the guest image: kernel, initial RAM file system, verified root image and firmware, with a
// manifest, a bill of materials and the licence texts.
//
// It needs no root. It trusts Debian's archive key (through apt), the Go checksum database (through the go command)
// and this source tree; it does not boot or measure what it builds. The same inputs give the same bytes: nothing of
// the time, the place or the user of a build enters the image.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var c config
	flag.StringVar(&c.out, "out", "build/image", "`directory` that the image is written to; an image there is replaced")
	flag.StringVar(&c.cache, "cache", "build/cache/image", "`directory` for downloaded packages and built programs")
	flag.StringVar(&c.guest, "guest", "./cmd/nacre-guest", "Go `package` of the guest program")
	flag.StringVar(&c.policy, "policy", "internal/guest/boot/default-policy.rego", "agent policy `file` of the image")
	flag.BoolVar(&c.refresh, "refresh", false, "look for newer Debian packages in place of those in the cache")
	check := flag.Bool("check", false, "build a second time, with an empty Go build cache, and compare every byte")
	flag.Parse()
	if flag.NArg() != 0 {
		fmt.Fprintf(os.Stderr, "build: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	start := time.Now()
	c.log = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "image: %5.1f s  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := build
	if *check {
		run = checkReproducible
	}
	if err := run(ctx, c); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}
