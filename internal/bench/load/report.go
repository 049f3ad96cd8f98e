// SPDX-License-Identifier: Apache-2.0

package load

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what came of a load. Its JSON has times in milliseconds.
type Report struct {
	Machine     string      `json:"machine,omitempty"`
	Clients     int         `json:"clients"`
	Rate        float64     `json:"rate_per_second,omitempty"` // 0: a closed loop
	Mix         string      `json:"mix"`
	Seconds     float64     `json:"seconds"` // from the first request to the last answer
	Interrupted bool        `json:"interrupted,omitempty"`
	Operations  []Latencies `json:"operations"`
	Errors      []Failures  `json:"errors"`
	// Unsent requests of an open loop were due, but no client was free before the end. Latencies do not have them, and
	// are too short then: the server, or the number of clients, is too small for the rate.
	Unsent int64 `json:"unsent,omitempty"`
}

// Latencies are how long the good answers of an operation took.
type Latencies struct {
	Operation Operation `json:"operation"`
	Requests  uint64    `json:"requests"`
	PerSecond float64   `json:"per_second"`
	Mean      float64   `json:"mean_ms"`
	P50       float64   `json:"p50_ms"`
	P90       float64   `json:"p90_ms"`
	P99       float64   `json:"p99_ms"`
	P999      float64   `json:"p999_ms"`
	Max       float64   `json:"max_ms"`
}

// Failures are requests that got no good answer.
type Failures struct {
	Operation Operation `json:"operation"`
	Code      string    `json:"code"`
	Count     uint64    `json:"count"`
}

func (r *recorder) report(elapsed time.Duration) *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := &Report{Seconds: elapsed.Seconds(), Operations: []Latencies{}, Errors: []Failures{}}
	for o, h := range r.operations {
		report.Operations = append(report.Operations, Latencies{
			Operation: o, Requests: h.Count(), PerSecond: float64(h.Count()) / elapsed.Seconds(), Mean: millis(h.Mean()),
			P50: millis(h.Quantile(0.5)), P90: millis(h.Quantile(0.9)), P99: millis(h.Quantile(0.99)),
			P999: millis(h.Quantile(0.999)), Max: millis(h.Max()),
		})
	}
	slices.SortFunc(report.Operations, func(a, b Latencies) int { return strings.Compare(string(a.Operation), string(b.Operation)) })
	for f, n := range r.errors {
		report.Errors = append(report.Errors, Failures{f.operation, f.code, n})
	}
	slices.SortFunc(report.Errors, func(a, b Failures) int {
		return cmp.Or(strings.Compare(string(a.Operation), string(b.Operation)), strings.Compare(a.Code, b.Code))
	})
	return report
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	kind := fmt.Sprintf("%d clients, each sends when it is answered", r.Clients)
	if r.Rate > 0 {
		kind = fmt.Sprintf("%g requests a second are due, over %d connections", r.Rate, r.Clients)
	}
	fmt.Fprintf(w, "%s: %s, for %.1f s\n", r.Mix, kind, r.Seconds)
	if r.Machine != "" {
		fmt.Fprintln(w, r.Machine)
	}
	if r.Interrupted {
		fmt.Fprintln(w, "interrupted: this is what there was until then")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\nlatency in ms\trequests\tper s\tmean\tp50\tp90\tp99\tp99.9\tmax\t")
	for _, o := range r.Operations {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n",
			o.Operation, o.Requests, o.PerSecond, o.Mean, o.P50, o.P90, o.P99, o.P999, o.Max)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range r.Errors {
		fmt.Fprintf(w, "%d × %s failed: %s\n", f.Count, f.Operation, f.Code)
	}
	if r.Unsent > 0 {
		fmt.Fprintf(w, "%d requests were due that no connection was free for: the latencies are too short. "+
			"Ask for a lower rate, or for more --clients.\n", r.Unsent)
	}
	return nil
}
