// SPDX-License-Identifier: Apache-2.0

// Package golden compares what our own servers made of the conformance cases with what is written down about them. It
// is for tests only.
package golden

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// Compare fails the test for each case that neither passes nor is written down with its verdict in the file, a line
// "verdict name" each, and for each that is written down as different or skipped and is not. A case that MUST hold may
// not be written down as failing. Update writes the file.
func Compare(t testing.TB, file string, results []suite.Result, update bool) {
	t.Helper()
	var lines []string
	for _, r := range results {
		if r.Verdict != suite.Pass {
			lines = append(lines, fmt.Sprintf("%s %s", r.Verdict, r.Name))
		}
	}
	if update {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		written = append(written, s.Text())
	}
	for _, r := range results {
		line := fmt.Sprintf("%s %s", r.Verdict, r.Name)
		if r.Verdict == suite.Pass || slices.Contains(written, line) && (r.Verdict != suite.Fail || r.Level != suite.Must) {
			continue
		}
		t.Errorf("%s\n\t%s (%s %s)\n\t%s", line, r.Want, r.Level, r.Ref, strings.Join(r.Notes, "\n\t"))
	}
	for _, line := range written {
		if !slices.Contains(lines, line) && !strings.HasPrefix(line, string(suite.Fail)+" ") {
			t.Errorf("%s: %q is written down and no longer so; run the test with -update", file, line)
		}
	}
}
