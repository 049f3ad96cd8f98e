// SPDX-License-Identifier: Apache-2.0

// Package bench measures Nacre against floors: what a request cannot cost less than on the machine at hand, measured
// in the same run. A ratio travels from machine to machine; a duration does not.
//
// The server measured and its floor are processes of their own (so is the client, which is the process that calls
// this package), and what is compared is the CPU time that each of them spends on a request. Nothing here is a test:
// no figure fails anything.
package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
)

// Result is one row of bench.json.
type Result struct {
	// Name says what was measured: "attest request".
	Name string `json:"name"`
	// Value is the figure, in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Floor is what the unavoidable part of it takes in the same run, in Unit; 0 where there is no floor to compare
	// with.
	Floor float64 `json:"floor"`
	// Ratio is Value by Floor; 0 where there is no floor.
	Ratio float64 `json:"ratio"`
}

// New is a row with a floor.
func New(name string, value, floor float64, unit string) Result {
	r := Result{Name: name, Value: value, Unit: unit, Floor: floor}
	if floor > 0 {
		r.Ratio = value / floor
	}
	return r
}

// Table is the rows as a Markdown table, the form in which the README shows them.
func Table(results []Result) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "| what\t| figure\t| floor\t| ratio\t|")
	fmt.Fprintln(w, "|---\t|---\t|---\t|---\t|")
	for _, r := range results {
		floor, ratio := "", ""
		if r.Floor > 0 {
			floor, ratio = quantity(r.Floor, r.Unit), fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(w, "| %s\t| %s\t| %s\t| %s\t|\n", r.Name, quantity(r.Value, r.Unit), floor, ratio)
	}
	_ = w.Flush() // into memory
	return b.String()
}

func quantity(v float64, unit string) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f %s", v, unit)
	case v >= 10:
		return fmt.Sprintf("%.1f %s", v, unit)
	default:
		return fmt.Sprintf("%.2f %s", v, unit)
	}
}

// Write writes the rows as JSON.
func Write(path string, results []Result) error {
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// The marks between which a document holds the table.
const (
	tableBegin = "<!-- bench: begin (written by make bench) -->\n"
	tableEnd   = "<!-- bench: end -->"
)

// Insert puts the table, with the line about the machine before it, between the marks of the Markdown document at path.
func Insert(path, machine string, results []Result) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begin := bytes.Cut(text, []byte(tableBegin))
	_, after, end := bytes.Cut(rest, []byte(tableEnd))
	if !begin || !end {
		return errors.New(path + " has no place for the table: it needs the two lines\n" + tableBegin + tableEnd)
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(tableBegin + machine + "\n\n" + Table(results) + tableEnd)
	out.Write(after)
	return os.WriteFile(path, out.Bytes(), 0o644)
}
