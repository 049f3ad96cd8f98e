// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestClosedLoop(t *testing.T) {
	for _, l := range []load{
		{clients: 1, requests: 1},
		{clients: 1, requests: 50},
		{clients: 8, requests: 200},
		{clients: 8, requests: 3},
	} {
		var mu sync.Mutex
		sent := map[int]int{}
		busy := map[int]bool{}
		l.do = func(_ context.Context, c, n int) error {
			mu.Lock()
			if busy[c] || c < 0 || c >= l.clients {
				t.Errorf("client %d sends request %d before it has its last answer", c, n)
			}
			busy[c] = true
			sent[n]++
			mu.Unlock()
			// The others get their turn while this client waits for its answer.
			mu.Lock()
			busy[c] = false
			mu.Unlock()
			return nil
		}
		run, err := l.against(t.Context(), os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if len(sent) != l.requests || run.cpu < 0 || run.median < 0 {
			t.Errorf("%d clients sent %d requests of %d: %+v", l.clients, len(sent), l.requests, run)
		}
		for n, times := range sent {
			if times != 1 || n >= l.requests {
				t.Errorf("request %d was sent %d times", n, times)
			}
		}
	}
}

// All clients send at the same time: each waits for the others.
func TestLoadIsAsManyClientsAsItSays(t *testing.T) {
	const clients = 8
	var here sync.WaitGroup
	here.Add(clients)
	_, err := load{clients: clients, requests: clients, do: func(context.Context, int, int) error {
		here.Done()
		here.Wait()
		return nil
	}}.run(t.Context())
	if err != nil {
		t.Error(err)
	}
}

func TestLoadEndsWithItsFirstError(t *testing.T) {
	failure := errors.New("refused")
	var sent atomic.Int64
	_, err := load{clients: 4, requests: 1_000_000_000, do: func(_ context.Context, _, n int) error {
		sent.Add(1)
		if n == 10 {
			return failure
		}
		return nil
	}}.run(t.Context())
	if !errors.Is(err, failure) {
		t.Error(err)
	}
	if n := sent.Load(); n >= 1_000_000_000 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := load{clients: 2, requests: 1_000_000_000, do: func(context.Context, int, int) error {
		cancel()
		return nil
	}}.run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestComparisonTakesTurns(t *testing.T) {
	var order []string
	turn := func(name string, cpu time.Duration) func() (outcome, error) {
		return func() (outcome, error) {
			order = append(order, name)
			return outcome{cpu: cpu, median: cpu * 2}, nil
		}
	}
	var c comparison
	for _, cpu := range []time.Duration{30 * time.Microsecond, 10 * time.Microsecond, 20 * time.Microsecond} {
		if err := c.add(turn("server", cpu), turn("floor", 10*time.Microsecond)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"server", "floor", "floor", "server", "server", "floor"}
	for i := range want {
		if order[i] != want[i] {
			t.Fatalf("order %q", order)
		}
	}
	if got := c.cpuRow("x"); got != (Result{"x", 20, "µs", 10, 2}) {
		t.Errorf("%+v", got)
	}
	if got := c.latencyRow("x"); got != (Result{"x", 0.04, "ms", 0.02, 2}) {
		t.Errorf("%+v", got)
	}
	failure := errors.New("refused")
	err := c.add(func() (outcome, error) { return outcome{}, failure }, turn("floor", 1))
	if !errors.Is(err, failure) {
		t.Error(err)
	}
}

func TestCPUTimeOfNobody(t *testing.T) {
	if _, err := CPUTime(4 << 20); err == nil {
		t.Error("process 4194304, which no Linux has (PID_MAX_LIMIT), has used CPU time")
	}
}
