// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Step is a step of the story as --json prints it.
type Step struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Attack says that the step is an attempt that has to fail.
	Attack bool `json:"attack"`
	Passed bool `json:"passed"`
	// RefusedBy is who refused: "trustee" or "guest"; empty where nothing was to be refused.
	RefusedBy string `json:"refused_by"`
	// Code is the stable code of the refusal.
	Code string `json:"code"`
	// AuditID is the audit record of the refusal; 0 where none is due, because nothing authentic reached the trustee.
	AuditID int64 `json:"audit_id"`
	// Twin is the same attempt without its one deviation, which succeeds.
	Twin string `json:"twin,omitempty"`
	// Detail is what was seen, for people.
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// refusal is who refused an attempt and why; the zero value says that nobody did.
type refusal struct {
	By, Code, Text string
	RequestID      string // by which the audit trail knows it; empty when the trustee had no part in it
}

// expectation is what the golden table says of a step.
type expectation struct {
	RefusedBy string `json:"refused_by"`
	Code      string `json:"code"`
	Audited   bool   `json:"audited"`
}

//go:embed golden.json
var goldenText []byte

// golden is the table that the steps are compared with, by name.
func golden() (map[string]expectation, error) {
	var g map[string]expectation
	if err := json.Unmarshal(goldenText, &g); err != nil {
		return nil, fmt.Errorf("golden.json: %w", err)
	}
	return g, nil
}

// check compares a step with the table: a step may fail by refusing for another reason than the one expected.
func (s *Step) check(golden map[string]expectation) {
	want, known := golden[s.Name]
	got := expectation{s.RefusedBy, s.Code, s.AuditID != 0}
	switch {
	case !known:
		s.fail(fmt.Errorf("the golden table has no step %q", s.Name))
	case got != want:
		s.fail(fmt.Errorf("refused by %q with code %q, audited: %t; the golden table wants %q, %q, %t",
			got.RefusedBy, got.Code, got.Audited, want.RefusedBy, want.Code, want.Audited))
	}
}

func (s *Step) fail(err error) {
	s.Passed = false
	s.Detail = strings.Join([]string{s.Detail, err.Error()}, "\n")
	s.Detail = strings.TrimSpace(s.Detail)
}

// report collects the steps and tells the story as it goes.
type report struct {
	golden map[string]expectation
	steps  []Step
	out    *lines
	n      int
}

// step runs one step. do may fill in what was refused; its error fails the step, and an error that is the context's ends the story.
func (r *report) step(name, title string, attack bool, do func(s *Step) error) error {
	r.n++
	s := Step{Name: name, Title: title, Attack: attack, Passed: true}
	r.out.printf("\n%2d  %s\n", r.n, title)
	start := time.Now()
	progress := r.out.progress()
	err := do(&s)
	progress()
	s.Seconds = time.Since(start).Round(time.Millisecond).Seconds()
	if err != nil {
		s.fail(err)
	} else {
		s.check(r.golden)
	}
	r.steps = append(r.steps, s)
	mark := "ok"
	switch {
	case !s.Passed:
		mark = "FAILED"
	case attack:
		mark = fmt.Sprintf("refused by the %s (%s)", s.RefusedBy, s.Code)
	}
	for line := range strings.SplitSeq(s.Detail, "\n") {
		if line != "" {
			r.out.printf("    %s\n", line)
		}
	}
	r.out.printf("    %s  %.1fs\n", mark, s.Seconds)
	if s.Twin != "" {
		r.out.printf("    twin: %s\n", s.Twin)
	}
	return err
}

// counts is how many steps passed and failed.
func (r *report) counts() (passed, failed int) {
	for _, s := range r.steps {
		if s.Passed {
			passed++
		} else {
			failed++
		}
	}
	return passed, failed
}

// lines is an output that several goroutines write whole lines to, and that shows progress while nothing else comes.
type lines struct {
	mu   sync.Mutex
	w    io.Writer
	last time.Time
}

func (l *lines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format, args...)
	l.last = time.Now()
}

// quietAfter is how long nothing may be printed before a line says that something still goes on.
const quietAfter = 4 * time.Second

// progress prints a line whenever nothing came for a while, until the function that it returns is called.
func (l *lines) progress() (stop func()) {
	done := make(chan struct{})
	start := time.Now()
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				l.mu.Lock()
				if time.Since(l.last) > quietAfter {
					fmt.Fprintf(l.w, "    … %d s\n", int(time.Since(start).Seconds()))
					l.last = time.Now()
				}
				l.mu.Unlock()
			}
		}
	})
	return func() { close(done); wait.Wait() }
}

// prefixed is a writer that prints each complete line with a prefix.
type prefixed struct {
	out     *lines
	prefix  string
	partial strings.Builder
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.partial.Write(b)
	for {
		line, rest, found := strings.Cut(p.partial.String(), "\n")
		if !found {
			return len(b), nil
		}
		p.out.printf("%s%s\n", p.prefix, strings.TrimRight(line, "\r"))
		p.partial.Reset()
		p.partial.WriteString(rest)
	}
}
