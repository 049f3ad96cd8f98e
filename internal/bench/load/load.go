// SPDX-License-Identifier: Apache-2.0

// Package load sends requests to a trustee and tells how long they took: as guests of a simulated platform do, with
// evidence that is really signed.
//
// There are two kinds of load. A closed loop has a number of clients, each of which sends its next request when it
// has its last answer: it finds out how much a server can do. An open loop sends at a rate, whatever the server does,
// as guests do that know nothing of each other: it finds out how long they wait. Its latencies count from when a
// request was to be sent, not from when a client was free to send it: a server that stops for a second makes all wait
// that would have come in that second, and a generator that waits with it would not count them (coordinated omission).
//
// The package trusts nobody: what it measures of a server is what clients see of it. It judges no figure.
package load

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Load is what is sent.
type Load struct {
	// Clients is how many connections there are. In a closed loop each has one request under way at any time; in an
	// open loop a request that is due waits until one of them is free.
	Clients int
	// Rate is how many requests are due in a second, evenly; 0 makes a closed loop.
	Rate float64
	// Duration is how long new requests are sent. Those under way are waited for.
	Duration time.Duration
	Mix      Mix
	// Do sends one request as a client, numbered from 0, and waits for the answer. A client has one request at a time.
	Do func(ctx context.Context, client int, operation Operation) error
	// Code names an error in the report.
	Code func(error) string
	// Progress, if set, is told about each second that is over.
	Progress func(Second)
}

// Second is what came of one second.
type Second struct {
	Elapsed  time.Duration
	Requests uint64 // that were answered well
	Errors   uint64
	P50, P99 time.Duration // of the requests
}

// Run sends until the duration is over or ctx ends, and reports what there is by then.
func (l Load) Run(ctx context.Context) (*Report, error) {
	if l.Clients < 1 || l.Rate < 0 || l.Duration <= 0 || l.Mix.total == 0 {
		return nil, errors.New("a load wants at least one client, a rate that is not negative, a duration and a mix")
	}
	start := time.Now()
	r := newRecorder()
	until, stop := context.WithDeadline(ctx, start.Add(l.Duration))
	defer stop()
	var clients, ticker sync.WaitGroup
	var next atomic.Int64
	for c := range l.Clients {
		clients.Go(func() {
			for {
				n := next.Add(1) - 1
				due, ok := l.wait(until, start, n)
				if !ok {
					return
				}
				operation := l.Mix.at(n)
				if l.Rate == 0 {
					due = time.Now()
				}
				err := l.Do(ctx, c, operation)
				if err != nil && ctx.Err() != nil {
					return // it failed because nobody waits for it any more
				}
				r.record(operation, time.Since(due), l.code(err))
			}
		})
	}
	ended := make(chan struct{})
	ticker.Go(func() { l.tick(start, r, ended) })
	clients.Wait()
	close(ended)
	ticker.Wait()
	report := r.report(time.Since(start))
	report.Clients, report.Rate, report.Mix, report.Interrupted = l.Clients, l.Rate, l.Mix.String(), ctx.Err() != nil
	if l.Rate > 0 {
		// Each client took one number that it did not send, the one after the last that it did.
		sent := next.Load() - int64(l.Clients)
		due := int64(l.Rate * min(time.Since(start), l.Duration).Seconds())
		report.Unsent = max(due-sent, 0)
	}
	return report, nil
}

// wait waits until request n is due and returns when that was; false when the time for new requests is over.
func (l Load) wait(until context.Context, start time.Time, n int64) (time.Time, bool) {
	if until.Err() != nil {
		return time.Time{}, false
	}
	if l.Rate == 0 {
		return start, true
	}
	due := start.Add(time.Duration(float64(n) / l.Rate * float64(time.Second)))
	if !due.Before(start.Add(l.Duration)) {
		return time.Time{}, false
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-until.Done():
		return time.Time{}, false
	case <-timer.C:
		return due, true
	}
}

func (l Load) code(err error) string {
	if err == nil {
		return ""
	}
	return l.Code(err)
}

func (l Load) tick(start time.Time, r *recorder, ended <-chan struct{}) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
			second := r.second()
			if second.Elapsed = time.Since(start); l.Progress != nil {
				l.Progress(second)
			}
		}
	}
}

// recorder is what was seen so far.
type recorder struct {
	mu         sync.Mutex
	operations map[Operation]*Histogram
	errors     map[failed]uint64
	latest     Histogram
	failures   uint64 // since the latest began
}

type failed struct {
	operation Operation
	code      string
}

func newRecorder() *recorder {
	return &recorder{operations: map[Operation]*Histogram{}, errors: map[failed]uint64{}}
}

// record counts one answer; code is empty if it was a good one. What a refusal took is no latency: it would make a
// server look fast that refuses.
func (r *recorder) record(o Operation, took time.Duration, code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code != "" {
		r.errors[failed{o, code}]++
		r.failures++
		return
	}
	h := r.operations[o]
	if h == nil {
		h = &Histogram{}
		r.operations[o] = h
	}
	h.Record(took)
	r.latest.Record(took)
}

// second is what came since it was asked last.
func (r *recorder) second() Second {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Second{Requests: r.latest.Count(), Errors: r.failures, P50: r.latest.Quantile(0.5), P99: r.latest.Quantile(0.99)}
	r.latest, r.failures = Histogram{}, 0
	return s
}
