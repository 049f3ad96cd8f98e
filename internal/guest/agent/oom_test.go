// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// kill writes a control group's events as the kernel does when it has killed this many processes.
func kill(t *testing.T, group, count string) {
	t.Helper()
	text := "low 0\nhigh 0\nmax 7\noom 9\noom_kill " + count + "\noom_group_kill 0\n"
	if err := os.WriteFile(filepath.Join(group, "memory.events"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOOMEvent has containers run out of memory before and while somebody waits.
func TestOOMEvent(t *testing.T) {
	a := testAgent(t)
	groups := map[string]string{}
	watches := map[string]*oomWatch{}
	for _, id := range []string{"c1", "c2"} {
		groups[id] = t.TempDir()
		kill(t, groups[id], "0")
		w, err := watchOOM(&a.oom, id, groups[id])
		if err != nil {
			t.Fatal(err)
		}
		defer w.close()
		watches[id] = w
	}
	next := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // for an event that is lost
		defer cancel()
		event, err := a.GetOOMEvent(ctx, &agent.GetOOMEventRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return event.ContainerId
	}
	kill(t, groups["c1"], "1")
	if got := next(); got != "c1" {
		t.Errorf("%s", got)
	}
	waited := make(chan string)
	go func() { waited <- next() }()
	kill(t, groups["c2"], "2")
	if got := <-waited; got != "c2" {
		t.Errorf("%s", got)
	}
	// The last event of a container whose watch ends is not lost, and its other events are not told twice.
	kill(t, groups["c1"], "2")
	watches["c1"].close()
	if got := next(); got != "c1" {
		t.Errorf("%s", got)
	}
	if _, changed := a.oom.take(); changed == nil {
		t.Error("an event was told twice")
	}
	if _, err := watchOOM(&a.oom, "c3", filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a group that is not there is watched")
	}
}

// TestAttackOOMEvents has containers run out of memory without end while no host asks.
func TestAttackOOMEvents(t *testing.T) {
	t.Run("the same one", func(t *testing.T) {
		var e oomEvents
		for range 1000 {
			e.add("c1")
			e.add("c2")
		}
		if len(e.pending) != 2 {
			t.Errorf("%d events are kept", len(e.pending))
		}
	})
	t.Run("one after the other", func(t *testing.T) {
		var e oomEvents
		for i := range 3 * maxContainers {
			e.add(strconv.Itoa(i))
		}
		if id, _ := e.take(); len(e.pending) != maxContainers-1 || id != strconv.Itoa(2*maxContainers) {
			t.Errorf("%d events are kept, the first was %s", len(e.pending), id)
		}
	})
}

// TestOOMEventEnds has the wait end with its request, and with the sandbox.
func TestOOMEventEnds(t *testing.T) {
	a := testAgent(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.GetOOMEvent(gone, &agent.GetOOMEventRequest{}); status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	waited := make(chan error)
	go func() { waited <- second(a.GetOOMEvent(t.Context(), &agent.GetOOMEventRequest{})) }()
	if _, err := a.DestroySandbox(t.Context(), &agent.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
}
