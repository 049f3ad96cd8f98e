// SPDX-License-Identifier: Apache-2.0

// Command mutants proves that the tests behind the invariants can fail, each for its own reason. It takes one check away at a time
// (through the go command's -overlay, the tree stays as it is), runs the tests named TestAttack… of every package that links the changed
// one, and demands that exactly the attacks which that check holds off now succeed, and that no other does.
//
// An attack is a test without subtests, or a subtest of one that has them. Its name is the package's path without the module's and
// without "internal/", a dot, and the test's name as `go test -run` takes it, with spaces for underscores in subtests:
// "attest/snp.TestAttackDebug/policy with the debug bit".
//
// The table is in table.go and the files that it names. An entry whose text does not stand exactly once in its file, or that no longer
// compiles, is an error: the table follows the code. A mutant that makes a test panic or hang has proved nothing, and fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	only := flag.String("run", "", "only the mutants whose check or file matches this regular expression")
	list := flag.Bool("untried", false, "list the attacks that no mutant names at the end")
	jobs := flag.Int("jobs", runtime.NumCPU(), "mutants that are tried at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	passed, failed, err := run(ctx, *only, *jobs, *list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	fmt.Printf("mutants: %d passed, %d failed\n", passed, failed)
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, jobs int, list bool) (passed, failed int, err error) {
	filter, err := regexp.Compile(only)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	l, err := openLab(ctx, max(jobs, 1))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	fmt.Printf("mutants: %d attacks in %d packages fail against the code as it is (%.0f s)\n", len(l.attacks), len(l.rooms), time.Since(start).Seconds())
	var chosen []mutant
	for _, m := range table {
		if filter.MatchString(m.check) || filter.MatchString(m.file) {
			chosen = append(chosen, m)
		}
	}
	invariant := 0
	for r := range tryAll(ctx, l, chosen, jobs) {
		if r.mutant.invariant != invariant {
			invariant = r.mutant.invariant
			fmt.Printf("\ninvariant %d: %s\n", invariant, invariants[invariant])
		}
		mark := "ok  "
		if r.verdict != nil {
			mark = "FAIL"
			failed++
		} else {
			passed++
		}
		fmt.Printf("%s %5.1f s  %-52s  %s\n", mark, r.took.Seconds(), r.mutant.check, strings.Join(r.mutant.attacks, "; "))
		if r.verdict != nil {
			fmt.Printf("     %s: %v\n", r.mutant.file, r.verdict)
		}
	}
	if ctx.Err() != nil {
		return passed, failed, ctx.Err()
	}
	if left := l.untried(table); list {
		fmt.Printf("\n%d attacks are held off by the language, a library, or more than one check:\n", len(left))
		for _, name := range left {
			fmt.Printf("     %s\n", name)
		}
	}
	return passed, failed, nil
}

// result is how one mutant fared; a nil verdict means that exactly its attacks succeeded.
type result struct {
	mutant  mutant
	verdict error
	took    time.Duration
}

// tryAll tries mutants, some at a time, and yields the results in the mutants' order.
func tryAll(ctx context.Context, l *lab, mutants []mutant, jobs int) func(func(result) bool) {
	return func(yield func(result) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wait sync.WaitGroup
		defer wait.Wait()
		defer cancel()
		results := make([]chan result, len(mutants))
		for i := range results {
			results[i] = make(chan result, 1)
		}
		turns := make(chan int, len(mutants))
		for i := range mutants {
			turns <- i
		}
		close(turns)
		for range max(jobs, 1) {
			wait.Go(func() {
				for i := range turns {
					start := time.Now()
					results[i] <- result{mutants[i], l.try(ctx, mutants[i]), time.Since(start)}
				}
			})
		}
		for i := range results {
			if r := <-results[i]; ctx.Err() != nil || !yield(r) {
				return
			}
		}
	}
}
