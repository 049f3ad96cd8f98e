// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/internal/bench/floor"
)

// CPUTime is the CPU time, user and system, that a process has used so far, all its threads together. Its clock is
// the scheduler's, and counts nanoseconds; /proc/PID/stat counts hundredths of a second.
func CPUTime(pid int) (time.Duration, error) {
	// The id of a process's CPU clock: what clock_getcpuclockid(3) computes (CPUCLOCK_SCHED of linux/posix-timers.h).
	const sched = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// server is a running process that serves HTTPS on loopback.
type server struct {
	url  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended, once done is closed
	once sync.Once
}

// stopTime is how long a server may take to end before it is killed.
const stopTime = 20 * time.Second

// startServer starts a program that prints the line floor.Listening once it listens, and waits for that line. It
// must be stopped; it ends with this process in any case.
func startServer(ctx context.Context, cmd *exec.Cmd) (*server, error) {
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, stopTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, done: make(chan struct{})}
	listening := make(chan string, 1)
	started := make(chan error, 1)
	go func() {
		defer close(s.done)
		// The signal of a parent's death follows the thread that forked, so that thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var l floor.Listening
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Event == "listening" {
				listening <- l.URL
			}
		}
		s.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	select {
	case s.url = <-listening:
		return s, nil
	case <-s.done:
		return nil, fmt.Errorf("%s ended as soon as it was started: %w", cmd.Path, s.err)
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), s.stop())
	}
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// stop ends the process, gently at first, and returns when it is gone.
func (s *server) stop() error {
	s.once.Do(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.done:
		case <-time.After(stopTime):
			_ = s.cmd.Process.Kill()
			<-s.done
		}
	})
	if s.err != nil {
		return fmt.Errorf("%s did not end in good order: %w", s.cmd.Path, s.err)
	}
	return nil
}
