// SPDX-License-Identifier: Apache-2.0

//go:build linux

package accel

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/internal/sandbox/qemu"
)

func prober(t *testing.T) Prober {
	t.Helper()
	dir := os.Getenv("NACRE_IMAGE_DIR")
	if dir == "" {
		t.Skip("NACRE_IMAGE_DIR names no guest image; `make test` builds one and sets it")
	}
	if _, err := os.Stat(Device); err != nil {
		t.Skipf("nothing to probe: %v", err)
	}
	return Prober{Kernel: filepath.Join(dir, "vmlinuz"), CacheDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

// Whatever the machine can do, the answer comes, has a reason, and is remembered.
func TestProbe(t *testing.T) {
	p := prober(t)
	first, err := p.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", first.Accel, first.Reason)
	if first.Remembered || first.Reason == "" {
		t.Errorf("first answer: %+v", first)
	}
	second, err := p.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !second.Remembered || second.Accel != first.Accel {
		t.Errorf("second answer %+v after %+v", second, first)
	}
}

func TestWhatIsNoKernelIsNoKVM(t *testing.T) {
	p := prober(t)
	p.Kernel = filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(p.Kernel, []byte("not a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := p.Probe(t.Context())
	if err != nil || a.Accel != qemu.TCG {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestCancelledIsNoAnswer(t *testing.T) {
	p := prober(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a, err := p.Probe(ctx); err == nil {
		t.Errorf("got %+v", a)
	}
	left, err := filepath.Glob(filepath.Join(p.CacheDir, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("remembered %q (%v)", left, err)
	}
}

func TestDamagedAndExpiredAnswersAreForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "answer.json")
	expired := `{"accel":"tcg","reason":"it hung","until":"2001-01-01T00:00:00Z"}`
	for _, text := range []string{"", "{", `{"accel":"hvf"}`, `{}`, strings.Repeat("[", 1000), expired} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if a, ok := recall(file); ok {
			t.Errorf("%q remembered as %+v", text, a)
		}
	}
}
