// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is a closed loop: each of the clients sends its next request when the answer to its last one is there, until
// all requests are done in all.
type load struct {
	clients  int
	requests int
	// do sends request number n (from 0) as client c (from 0) and reads the whole answer.
	do func(ctx context.Context, c, n int) error
}

// outcome is what came of a load.
type outcome struct {
	// cpu is what the server spent on a request.
	cpu time.Duration
	// median is what a client waited for an answer, worst what one in a hundred waited longer than.
	median, worst time.Duration
}

// against runs the load while it watches the server process. The first error ends it.
func (l load) against(ctx context.Context, serverPID int) (outcome, error) {
	before, err := CPUTime(serverPID)
	if err != nil {
		return outcome{}, err
	}
	latencies, err := l.run(ctx)
	if err != nil {
		return outcome{}, err
	}
	after, err := CPUTime(serverPID)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{cpu: (after - before) / time.Duration(l.requests), median: median(latencies)}
	o.worst = latencies[(len(latencies)-1)*99/100] // sorted now
	return o, nil
}

// run is the loop itself; it returns what each request took.
func (l load) run(ctx context.Context) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	latencies := make([]time.Duration, l.requests)
	var next atomic.Int64
	var clients sync.WaitGroup
	for c := range l.clients {
		clients.Go(func() {
			for n := int(next.Add(1)) - 1; n < l.requests && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				start := time.Now()
				if err := l.do(ctx, c, n); err != nil {
					cancel(fmt.Errorf("request %d: %w", n, err))
					return
				}
				latencies[n] = time.Since(start)
			}
		})
	}
	clients.Wait()
	return latencies, context.Cause(ctx)
}

// median of values, of which there is at least one; it sorts them.
func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
