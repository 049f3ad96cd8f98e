// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// programs runs the commands of the story as a user would type them, in the story's own folders.
type programs struct {
	nacre, trustee string
	dir            string // where the commands run, and files are named from
	env            []string
	out            *lines
}

// run types a command of nacre, shows it and what it answers, and returns what it answered on standard output.
func (p *programs) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	return p.show(ctx, stdin, true, args...)
}

// quiet is run without the answer being shown.
func (p *programs) quiet(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	return p.show(ctx, stdin, false, args...)
}

func (p *programs) show(ctx context.Context, stdin []byte, answer bool, args ...string) ([]byte, error) {
	p.out.printf("    $ nacre %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, p.nacre, args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.Stdin = bytes.NewReader(stdin)
	die(cmd)
	const indent = "      "
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, io.MultiWriter(&stderr, &prefixed{out: p.out, prefix: indent})
	if answer {
		cmd.Stdout = io.MultiWriter(&stdout, &prefixed{out: p.out, prefix: indent})
	}
	// A pod gets the time to end when the story is interrupted.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	// The signal of a parent's death follows the thread that forked, so that thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("nacre %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// die makes a command end with this process, however that ends.
func die(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// trusteeProcess is a running nacre-trustee.
type trusteeProcess struct {
	url  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	once sync.Once
}

// started is the line that the trustee prints when it listens.
type started struct {
	Event string `json:"event"`
	URL   string `json:"url"`
}

// startTrustee starts a trustee and waits until it listens. It must be stopped.
func (p *programs) startTrustee(ctx context.Context, logTo io.Writer, args ...string) (*trusteeProcess, error) {
	p.out.printf("    $ nacre-trustee %s\n", strings.Join(args, " "))
	// Not bound to ctx: the trustee outlives the step that starts it, and is stopped gently.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.trustee, append([]string{"--json"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = p.dir, p.env, logTo
	die(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t := &trusteeProcess{cmd: cmd, done: make(chan struct{})}
	listening := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		defer close(t.done)
		runtime.LockOSThread() // see show
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			failed <- err
			return
		}
		for s := bufio.NewScanner(stdout); s.Scan(); {
			var line started
			if json.Unmarshal(s.Bytes(), &line) == nil && line.Event == "listening" {
				listening <- line.URL
			}
		}
		t.err = cmd.Wait()
	}()
	select {
	case t.url = <-listening:
		return t, nil
	case err := <-failed:
		return nil, fmt.Errorf("starting the trustee: %w", err)
	case <-t.done:
		return nil, fmt.Errorf("the trustee ended as soon as it was started: %w; its log is beside the story's state", errors.Join(t.err, ctx.Err()))
	case <-ctx.Done():
		t.stop()
		return nil, context.Cause(ctx)
	}
}

// stop ends the trustee, gently at first, and returns when it is gone.
func (t *trusteeProcess) stop() {
	t.once.Do(func() {
		if t.cmd.Process != nil {
			_ = t.cmd.Process.Signal(syscall.SIGTERM)
		}
		select {
		case <-t.done:
		case <-time.After(5 * time.Second):
			if t.cmd.Process != nil {
				_ = t.cmd.Process.Kill()
			}
			<-t.done
		}
	})
}

// children are the processes that this one has started and that still run.
func children() ([]string, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		list, err := os.ReadFile("/proc/self/task/" + e.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for pid := range strings.FieldsSeq(string(list)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			found = append(found, strings.TrimSpace(string(name))+" "+pid)
		}
	}
	return found, nil
}
