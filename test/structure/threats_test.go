// SPDX-License-Identifier: Apache-2.0

package structure

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// THREATS.md promises that a test shows each row. Each test that it names is there, in the package that it names.
func TestEveryThreatNamesATestThatExists(t *testing.T) {
	text, err := os.ReadFile("../../THREATS.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z][a-z0-9/-]*)\\.(Test\\w+)`").FindAllSubmatch(text, -1)
	if len(named) < 50 {
		t.Errorf("%d tests are named; the rule would hold of nothing", len(named))
	}
	mentioned := regexp.MustCompile(`Test[A-Z]\w+`).FindAll(text, -1)
	if most := len(named) + 1; len(mentioned) > most { // one is the example
		t.Errorf("%d tests are mentioned, %d of them with their packages", len(mentioned), len(named))
	}
	for _, m := range named {
		room, name := string(m[1]), string(m[2])
		if room == "trustee/broker" && name == "TestX" {
			continue
		}
		if !testExists(t, name, filepath.Join("../..", room), filepath.Join("../../internal", room)) {
			t.Errorf("THREATS.md names %s.%s, which there is not", room, name)
		}
	}
}

// testExists looks for a test in the packages of some directories.
func testExists(t *testing.T, name string, dirs ...string) bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(t \*testing\.T\)`)
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if declared.Match(text) {
				return true
			}
		}
	}
	return false
}
