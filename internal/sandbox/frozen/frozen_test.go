// SPDX-License-Identifier: Apache-2.0

//go:build linux

package frozen

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestChangesComeTooLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, []byte("measured"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	// The attacker writes into the very file, through the descriptor, and through another opening of it.
	if err := os.WriteFile(path, []byte("attacked"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.OS().WriteAt([]byte("attacked"), 0); !errors.Is(err, syscall.EBADF) {
		t.Errorf("writing through the descriptor: %v, want EBADF", err)
	}
	again := fmt.Sprintf("/proc/self/fd/%d", f.OS().Fd())
	second, err := os.OpenFile(again, os.O_RDWR, 0)
	if err != nil {
		// Forbidden as well, though by the mode and not by the seals.
		t.Logf("opening it again for writing: %v", err)
	} else {
		if _, err := second.WriteAt([]byte("attacked"), 0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("writing through a second opening: %v, want EPERM", err)
		}
		if err := second.Truncate(0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("truncating through a second opening: %v, want EPERM", err)
		}
		second.Close()
	}

	read, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read, []byte("measured")) || !bytes.Equal(f.Bytes(), []byte("measured")) {
		t.Errorf("descriptor reads %q, memory %q", read, f.Bytes())
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	for name, open := range map[string]func() (*File, error){
		"too long":  func() (*File, error) { return New("x", strings.NewReader("12345"), 4) },
		"empty":     func() (*File, error) { return New("x", strings.NewReader(""), 4) },
		"directory": func() (*File, error) { return Open(dir, 4) },
		"missing":   func() (*File, error) { return Open(filepath.Join(dir, "none"), 4) },
	} {
		if f, err := open(); err == nil {
			f.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}
