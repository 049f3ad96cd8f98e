// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// oomEvents are the containers that ran out of memory and of which the host does not know yet: each is there once, however
// often it happened, and they are never more than there can be containers. A host that never asks makes nothing grow.
type oomEvents struct {
	mu      sync.Mutex
	pending []string
	changed chan struct{} // closed when pending grows; nil while nobody waits
}

func (e *oomEvents) add(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Contains(e.pending, id) {
		return
	}
	if len(e.pending) == maxContainers { // the oldest is of one that was removed since, or the host does not ask
		e.pending = e.pending[1:]
	}
	e.pending = append(e.pending, id)
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// take returns the oldest, or what to wait for.
func (e *oomEvents) take() (id string, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending) > 0 {
		id = e.pending[0]
		e.pending = e.pending[1:]
		return id, nil
	}
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return "", e.changed
}

// GetOOMEvent waits until the kernel has killed a process of a container because memory ran out, and names the container.
// It is an error when the sandbox ends before.
func (a *Agent) GetOOMEvent(ctx context.Context, _ *agent.GetOOMEventRequest) (*agent.OOMEvent, error) {
	for {
		id, changed := a.oom.take()
		if changed == nil {
			return &agent.OOMEvent{ContainerId: id}, nil
		}
		select {
		case <-changed:
		case <-a.finished:
			return nil, status.Error(codes.Unavailable, "the sandbox has ended")
		case <-ctx.Done():
			return nil, failed("waiting for an event", ctx.Err())
		}
	}
}

// oomWatch follows the memory events of one container's control group.
type oomWatch struct {
	id, file string
	events   *oomEvents
	notify   *os.File // inotify
	ended    chan struct{}

	mu    sync.Mutex
	kills uint64
}

// watchOOM begins to watch a container. The kernel modifies the file memory.events with each event.
func watchOOM(events *oomEvents, id, group string) (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching memory events: %w", err)
	}
	w := &oomWatch{
		id: id, file: filepath.Join(group, "memory.events"), events: events, notify: os.NewFile(uintptr(fd), "inotify"),
		ended: make(chan struct{}),
	}
	if _, err := unix.InotifyAddWatch(fd, w.file, unix.IN_MODIFY); err != nil {
		return nil, errors.Join(fmt.Errorf("watching memory events: %w", err), w.notify.Close())
	}
	go func() {
		defer close(w.ended)
		events := make([]byte, 4<<10)
		for {
			w.look()
			if _, err := w.notify.Read(events); err != nil {
				return // it was closed
			}
		}
	}()
	return w, nil
}

// look reads how many processes were killed, and tells when there are more than before. A file that is gone or cannot be
// read tells nothing.
func (w *oomWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := &groupReader{dir: filepath.Dir(w.file)}
	if kills := g.values(filepath.Base(w.file))["oom_kill"]; g.err == nil && kills > w.kills {
		w.kills = kills
		w.events.add(w.id)
	}
}

// close ends the watch; what happened until now is told.
func (w *oomWatch) close() {
	if w == nil {
		return
	}
	_ = w.notify.Close()
	<-w.ended
	w.look()
}
