// SPDX-License-Identifier: Apache-2.0

// Package suite runs conformance cases and reports on them. A case asks a server for something and compares the answer
// with what a document says; it does not know who wrote the server.
//
// A verdict is one of four. "pass" is what the document says. "differs" is another answer of which the case names the
// reason why it may be given: stricter, or more exact, where stock clients get along with it. "fail" is anything else.
// "skip" says what was missing to ask at all. Nothing is left out silently.
package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Level is how much a case weighs, in the sense of RFC 2119.
type Level string

// The levels.
const (
	Must   Level = "MUST"   // stock peers depend on it
	Should Level = "SHOULD" // documented, and nothing breaks at once without
)

// Verdict is the result of a case.
type Verdict string

// The verdicts.
const (
	Pass    Verdict = "pass"
	Differs Verdict = "differs"
	Fail    Verdict = "fail"
	Skip    Verdict = "skip"
)

// Case is one thing that is asked of a server.
type Case struct {
	Name  string // group/name, unique
	Ref   string // where it is written: a section of the fact sheets, an RFC
	Level Level
	Want  string // what is demanded, in a sentence
	Run   func(context.Context, *Probe)
}

// Result is what came out of a case.
type Result struct {
	Name    string   `json:"name"`
	Ref     string   `json:"ref"`
	Level   Level    `json:"level"`
	Want    string   `json:"want"`
	Verdict Verdict  `json:"verdict"`
	Notes   []string `json:"notes,omitempty"` // what was seen, and why it may differ
	Seconds float64  `json:"seconds"`
}

// Probe is what a case records its findings with. Several findings make one verdict, the worst.
type Probe struct {
	fails, differs []string
	skip           string
}

// Failf records that an answer is not what it must be.
func (p *Probe) Failf(format string, args ...any) {
	p.fails = append(p.fails, fmt.Sprintf(format, args...))
}

// Fatalf is Failf, and ends the case.
func (p *Probe) Fatalf(format string, args ...any) {
	p.Failf(format, args...)
	runtime.Goexit()
}

// Differsf records an answer that is not the documented one and may be given, and why. The same is recorded once.
func (p *Probe) Differsf(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); !slices.Contains(p.differs, note) {
		p.differs = append(p.differs, note)
	}
}

// Skipf ends the case: something is missing to ask.
func (p *Probe) Skipf(format string, args ...any) {
	p.skip = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// Check records a failure unless ok, and returns ok.
func (p *Probe) Check(ok bool, format string, args ...any) bool {
	if !ok {
		p.Failf(format, args...)
	}
	return ok
}

// Failed says whether a failure was recorded.
func (p *Probe) Failed() bool { return len(p.fails) > 0 }

// caseTimeout bounds one case: a server that never answers must not keep the rest from being asked.
const caseTimeout = time.Minute

// Run runs the cases whose names contain only, one after the other, and tells progress of each result.
func Run(ctx context.Context, cases []Case, only string, progress func(Result)) []Result {
	var results []Result
	for _, c := range cases {
		if !strings.Contains(c.Name, only) {
			continue
		}
		r := run(ctx, c)
		if progress != nil {
			progress(r)
		}
		results = append(results, r)
	}
	return results
}

func run(ctx context.Context, c Case) Result {
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	p := &Probe{}
	start := time.Now()
	done := make(chan struct{})
	go func() { // a goroutine of its own, which Fatalf and Skipf can end
		defer close(done)
		c.Run(ctx, p)
	}()
	<-done
	r := Result{Name: c.Name, Ref: c.Ref, Level: c.Level, Want: c.Want, Verdict: Pass,
		Seconds: time.Since(start).Seconds()}
	switch {
	case len(p.fails) > 0:
		r.Verdict, r.Notes = Fail, p.fails
	case p.skip != "":
		r.Verdict, r.Notes = Skip, []string{p.skip}
	case len(p.differs) > 0:
		r.Verdict, r.Notes = Differs, p.differs
	}
	return r
}

// Count returns how many results have a verdict.
func Count(results []Result, v Verdict) int {
	n := 0
	for _, r := range results {
		if r.Verdict == v {
			n++
		}
	}
	return n
}

// Failures returns how many cases failed that count: those that must hold, and in strict mode those that should.
func Failures(results []Result, strict bool) int {
	n := 0
	for _, r := range results {
		if r.Verdict == Fail && (strict || r.Level == Must) {
			n++
		}
	}
	return n
}

// maxNote caps a note in the table, in bytes; servers write what they like.
const maxNote = 300

// WriteTable writes results for people.
func WriteTable(out io.Writer, results []Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "verdict\tlevel\tcase\twritten in")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Verdict, r.Level, r.Name, r.Ref)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, v := range []Verdict{Fail, Differs, Skip} {
		if Count(results, v) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%s:\n", map[Verdict]string{Fail: "failed", Differs: "different, and why that may be",
			Skip: "skipped"}[v])
		for _, r := range results {
			if r.Verdict != v {
				continue
			}
			fmt.Fprintf(out, "  %s (%s): %s\n", r.Name, r.Ref, r.Want)
			for _, note := range r.Notes {
				if len(note) > maxNote {
					note = note[:maxNote] + "…"
				}
				fmt.Fprintf(out, "    %s\n", strings.ToValidUTF8(note, "\uFFFD"))
			}
		}
	}
	_, err := fmt.Fprintf(out, "\n%d cases: %d pass, %d differ, %d fail, %d skipped\n", len(results),
		Count(results, Pass), Count(results, Differs), Count(results, Fail), Count(results, Skip))
	return err
}

// WriteJSON writes results for programs.
func WriteJSON(out io.Writer, results []Result) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{
		"results": results, "pass": Count(results, Pass), "differs": Count(results, Differs),
		"fail": Count(results, Fail), "skip": Count(results, Skip),
	})
}

// Exit statuses of the programs.
const (
	ExitConforms = 0
	ExitFails    = 1 // a case failed that counts
	ExitUsage    = 2 // nothing could be asked
)
