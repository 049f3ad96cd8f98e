// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Others on the machine read what its owner left open to them: the trustee refuses to go on like that.
func TestAttackOpenFiles(t *testing.T) {
	for name, open := range map[string]func(o Options) error{
		"a key file that others can read":       func(o Options) error { return os.Chmod(o.KeyFile, 0o644) },
		"a key file that its group can read":    func(o Options) error { return os.Chmod(o.KeyFile, 0o640) },
		"a data directory that others can read": func(o Options) error { return os.Chmod(o.Dir, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			s, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			if err := open(o); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(t.Context(), o); err == nil {
				s.Close()
				t.Error("opened")
			}
		})
	}
}

// A copy of the data directory tells nothing of the values.
func TestAttackReadTheDataDirectory(t *testing.T) {
	o := options(t)
	s := open(t, o)
	update(t, s, func(tx *Tx) error { return tx.Put("n", "key", []byte("a secret value")) })
	s.Close()
	files, err := os.ReadDir(o.Dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		if raw, err := os.ReadFile(filepath.Join(o.Dir, file.Name())); err != nil || bytes.Contains(raw, []byte("a secret value")) {
			t.Errorf("the value stands in %s: %v", file.Name(), err)
		}
	}
}
