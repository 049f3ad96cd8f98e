// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A mutant whose text went with a change of the code would be noticed by `make mutants` only, which takes long.
func TestTableFitsTheCode(t *testing.T) {
	for _, m := range table {
		text, err := os.ReadFile(filepath.Join("..", "..", m.file))
		if err != nil {
			t.Errorf("%s: %v", m.check, err)
		} else if n := strings.Count(string(text), m.old); n != 1 {
			t.Errorf("%s: the text to take away stands %d times in %s, want once:\n%s", m.check, n, m.file, m.old)
		}
		if len(m.attacks) == 0 {
			t.Errorf("%s: no attack is named", m.check)
		}
		for i, name := range m.attacks {
			if slices.Contains(m.attacks[:i], name) {
				t.Errorf("%s: the attack %s is named twice", m.check, name)
			}
		}
	}
}
