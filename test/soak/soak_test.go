// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-project/nacre/test/machine"
)

// programs is where the tests' programs are built.
var programs string

// program builds the trustee once.
var program = sync.OnceValues(func() (string, error) { return run{}.trustee(context.Background(), programs) })

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "nacre-soak-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// platform is the simulated machine of all runs; making it takes seconds.
var platform = machine.Lazy("soak")

func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts programs; not with -short")
	}
}

// A handful of rounds of `soak kill`; more of them with `make soak`.
func TestKill(t *testing.T) {
	skipShort(t)
	built, err := program()
	if err != nil {
		t.Fatal(err)
	}
	simulated, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := run{rounds: 5, seed: uint64(time.Now().UnixNano()), program: built, platform: simulated, out: &out}
	if err := r.kill(t.Context(), t.TempDir()); err != nil {
		t.Errorf("%v\nseed %d\n%s", err, r.seed, &out)
	}
	t.Log(out.String())
}

// One round of `soak power`: that the machine boots, loses its power, and boots again.
func TestPower(t *testing.T) {
	skipShort(t)
	if os.Getenv("NACRE_IMAGE_DIR") == "" {
		t.Skip("NACRE_IMAGE_DIR names no guest image; `make test` builds one and sets it")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	built, err := program()
	if err != nil {
		t.Fatal(err)
	}
	simulated, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := run{rounds: 1, seed: uint64(time.Now().UnixNano()), program: built, platform: simulated, out: &out}
	if err := r.power(t.Context(), t.TempDir(), false); err != nil {
		t.Errorf("%v\nseed %d\n%s", err, r.seed, &out)
	}
	t.Log(out.String())
}

// rollback is a place where the data of an earlier day comes back.
type rollback struct {
	*process
	data   string
	starts int
}

func (r *rollback) start(ctx context.Context) (string, error) {
	old := r.data + ".old"
	switch r.starts++; r.starts {
	case 2:
		if err := os.CopyFS(old, os.DirFS(r.data)); err != nil {
			return "", err
		}
	case 4:
		if err := errors.Join(os.RemoveAll(r.data), os.Rename(old, r.data), os.Chmod(r.data, 0o700)); err != nil {
			return "", err
		}
	}
	return r.process.start(ctx)
}

// A store that is whole, but old, has lost what was acknowledged since; that must be seen.
func TestOldStoreIsNoticed(t *testing.T) {
	skipShort(t)
	built, err := program()
	if err != nil {
		t.Fatal(err)
	}
	simulated, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var out strings.Builder
	r := run{rounds: 4, seed: 1, platform: simulated, out: &out}
	_, i, err := r.prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := &rollback{process: newProcess(built, dir, i, 1), data: filepath.Join(dir, "data")}
	err = r.soak(t.Context(), at, i, simulated, pace{load: 300 * time.Millisecond, strike: 8})
	if !errors.Is(err, errViolated) || !strings.Contains(err.Error(), "forgotten") || !strings.Contains(err.Error(), "chained") {
		t.Errorf("an old store was not seen: %v\n%s", err, &out)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"dance"}, {"kill", "--rounds", "0"}, {"kill", "extra"}, {"kill", "--unsafe-ignore-flush"}} {
		if err := command(t.Context(), args, &strings.Builder{}); err == nil {
			t.Errorf("soak %q was understood", args)
		}
	}
}
