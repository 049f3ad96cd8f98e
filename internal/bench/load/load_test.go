// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHistogramIsExactEnough(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h Histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(math.Exp(random.Float64() * 30)) // from nanoseconds to hours
		h.Record(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(int(q*float64(len(all))+0.5), 1)-1]
		if got := h.Quantile(q); got < want || float64(got) > float64(want)*(1+1.0/128)+1 {
			t.Errorf("quantile %g is %s, want %s", q, got, want)
		}
	}
	if h.Count() != 10_000 || h.Max() != all[len(all)-1] || h.Quantile(1) != h.Max() {
		t.Errorf("%d durations, the longest %s, want %s", h.Count(), h.Max(), all[len(all)-1])
	}
	var none Histogram
	if none.Quantile(0.5) != 0 || none.Mean() != 0 {
		t.Error("a histogram of nothing has a latency")
	}
}

func TestBucketsCoverAllDurations(t *testing.T) {
	for shift := range 62 {
		for _, d := range []time.Duration{1<<shift - 1, 1 << shift, 1<<shift + 1} {
			b := bucket(d)
			if longest(b) < d || b > 0 && longest(b-1) >= d {
				t.Errorf("%d is in bucket %d, which ends at %d", d, b, longest(b))
			}
		}
	}
	if bucket(-1) != 0 {
		t.Error("a clock that went back has a bucket of its own")
	}
}

func TestMix(t *testing.T) {
	m, err := ParseMix("attest=1, resource=9")
	if err != nil || m.String() != "attest=1,resource=9" {
		t.Fatal(m, err)
	}
	counts := map[Operation]int{}
	for n := range int64(1000) {
		counts[m.at(n)]++
	}
	if counts[Attest] < 98 || counts[Attest] > 102 || counts[Attest]+counts[Resource] != 1000 {
		t.Errorf("of 1000 requests: %v", counts)
	}
	for _, bad := range []string{"", "attest", "attest=0", "attest=-1,resource=2", "attest=x", "walk=1", "attest=1,attest=2",
		"attest=99999999999"} {
		if m, err := ParseMix(bad); err == nil {
			t.Errorf("%q became %s", bad, m)
		}
	}
}

func mix(t *testing.T, text string) Mix {
	t.Helper()
	m, err := ParseMix(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func name(err error) string { return err.Error() }

// A server that takes 10 ms answers a client in a closed loop a hundred times a second.
func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seconds []Second
		r, err := Load{
			Clients: 4, Duration: 3*time.Second + time.Millisecond, Mix: mix(t, "attest=1,resource=3"), Code: name,
			Progress: func(s Second) { seconds = append(seconds, s) },
			Do: func(_ context.Context, client int, _ Operation) error {
				if time.Sleep(10 * time.Millisecond); client == 3 {
					return errors.New("refused")
				}
				return nil
			},
		}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var good uint64
		for _, o := range r.Operations {
			if good += o.Requests; o.P50 != 10 || o.Max != 10 || o.Mean != 10 {
				t.Errorf("%+v", o)
			}
		}
		var bad uint64
		for _, f := range r.Errors {
			bad += f.Count
		}
		if good != 903 || bad != 301 || len(r.Errors) != 2 || r.Errors[0].Code != "refused" || r.Unsent != 0 {
			t.Errorf("%d good, %d bad, %+v", good, bad, r)
		}
		if len(seconds) != 3 || seconds[1].Requests < 290 || seconds[1].Errors < 90 || seconds[1].P99 != 10*time.Millisecond {
			t.Errorf("%+v", seconds)
		}
	})
}

// A server that answers at once but stands still for a second makes all wait that come in that second: with one client
// at 100 requests a second, one waits for 1000 ms, the next 990, and so on. A generator that waits with the server would
// have seen one slow answer in a thousand.
func TestOpenLoopDoesNotWaitWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		stood := false
		r, err := Load{
			Clients: 1, Rate: 100, Duration: 10 * time.Second, Mix: mix(t, "resource=1"), Code: name,
			Do: func(context.Context, int, Operation) error {
				if !stood && time.Since(start) >= 5*time.Second {
					stood = true
					time.Sleep(time.Second)
				}
				return nil
			},
		}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o := r.Operations[0]
		if o.Requests != 1000 || o.P50 != 0 || o.P99 < 890 || o.Max != 1000 || r.Unsent != 0 {
			t.Errorf("%+v, %d unsent", o, r.Unsent)
		}
	})
}

// What was due and never sent is told, because no latency has it.
func TestOpenLoopSaysWhatItDidNotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := Load{
			Clients: 2, Rate: 100, Duration: 10 * time.Second, Mix: mix(t, "resource=1"), Code: name,
			Do: func(context.Context, int, Operation) error { time.Sleep(100 * time.Millisecond); return nil },
		}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if o := r.Operations[0]; o.Requests < 199 || o.Requests > 202 || r.Unsent != 1000-int64(o.Requests) || o.Max < 7900 {
			t.Errorf("%+v, %d unsent", o, r.Unsent)
		}
		var text strings.Builder
		if err := r.Print(&text); err != nil || !strings.Contains(text.String(), "latencies are too short") {
			t.Error(text.String(), err)
		}
	})
}

func TestInterruptedLoadTellsWhatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second+5*time.Millisecond)
		defer cancel()
		r, err := Load{
			Clients: 1, Duration: time.Hour, Mix: mix(t, "attest=1"), Code: name,
			Do: func(ctx context.Context, _ int, _ Operation) error {
				select {
				case <-time.After(10 * time.Millisecond):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		}.Run(ctx)
		if err != nil || !r.Interrupted || r.Operations[0].Requests != 200 || len(r.Errors) != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		text, err := json.Marshal(r)
		if err != nil || !strings.Contains(string(text), `"p99_ms":10`) || !strings.Contains(string(text), `"errors":[]`) {
			t.Errorf("%s, %v", text, err)
		}
	})
}

func TestLoadThatMakesNoSense(t *testing.T) {
	for i, l := range []Load{
		{Duration: 1, Mix: mix(t, "attest=1")},
		{Clients: 1, Mix: mix(t, "attest=1")},
		{Clients: 1, Duration: 1},
		{Clients: 1, Duration: 1, Rate: -1, Mix: mix(t, "attest=1")},
	} {
		if _, err := l.Run(t.Context()); err == nil {
			t.Errorf("load %d was sent", i)
		}
	}
}
