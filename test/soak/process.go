// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// child is a process that ends with this one. It tells of itself in lines on its standard output.
type child struct {
	cmd   *exec.Cmd
	lines chan string // of its output; closed at its end
	done  chan struct{}
	err   error // how it ended; after done
}

// maxUnreadLines is how many lines of output are kept for whoever reads them; later ones are dropped.
const maxUnreadLines = 1024

// spawn starts a process.
func spawn(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, lines: make(chan string, maxUnreadLines), done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(c.done)
		defer close(c.lines)
		// The signal of a parent's death follows the thread that forked, so that thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if started <- err; err != nil {
			return
		}
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			select {
			case c.lines <- scanner.Text():
			default:
			}
		}
		_, _ = io.Copy(io.Discard, output) // after a line that is too long
		c.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return c, nil
}

// kill ends the process and returns when it is gone.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may be gone
	<-c.done
}

// listening waits for the line by which a trustee says that it listens, and returns its URL. It returns what was said
// before, too.
func (c *child) listening(ctx context.Context) (url, said string, err error) {
	var before strings.Builder
	for {
		select {
		case <-ctx.Done():
			return "", before.String(), context.Cause(ctx)
		case line, ok := <-c.lines:
			if !ok {
				return "", before.String(), errors.New("it ended before it listened")
			}
			var l struct {
				Event string `json:"event"`
				URL   string `json:"url"`
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Event == "listening" {
				return l.URL, before.String(), nil
			}
			fmt.Fprintln(&before, line)
		}
	}
}

// process is a trustee on this machine. What it wrote is there after it was killed, whether or not it asked the kernel
// to put it on a disk.
type process struct {
	program string
	args    []string
	log     string // a file
	random  *rand.Rand
	running *child
}

// strikeTime is how long a process lives at most that is killed while it starts; a start takes about as long.
const strikeTime = 200 * time.Millisecond

// newProcess is a trustee whose data lies below a directory.
func newProcess(program, dir string, i identity, seed uint64) *process {
	return &process{program: program, random: rand.New(rand.NewPCG(seed, 1)), log: filepath.Join(dir, "trustee.log"),
		args: i.arguments("127.0.0.1:0", i.dir, filepath.Join(dir, "data"), filepath.Join(dir, "key", "store.key"))}
}

func (p *process) start(ctx context.Context) (string, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer log.Close()
	//nolint:noctx // a context would kill it by a timer of its own
	cmd := exec.Command(p.program, p.args...)
	cmd.Stderr = log
	if p.running, err = spawn(cmd); err != nil {
		return "", err
	}
	url, _, err := p.running.listening(ctx)
	if err != nil {
		p.running.kill()
		return "", fmt.Errorf("%w; its log is %s", err, p.log)
	}
	return url, nil
}

func (p *process) strike(ctx context.Context) (string, error) {
	short, cancel := context.WithTimeout(ctx, time.Duration(p.random.Int64N(int64(strikeTime))))
	defer cancel()
	if _, err := p.start(short); err == nil {
		return p.kill()
	} else if short.Err() == nil {
		return "", err
	}
	return "killed", ctx.Err()
}

func (p *process) kill() (string, error) {
	select {
	case <-p.running.done:
		return "", fmt.Errorf("the trustee ended by itself: %w; its log is %s", p.running.err, p.log)
	default:
	}
	p.running.kill()
	return "killed", nil
}

// endTime is how long a trustee may take to end in good order.
const endTime = 30 * time.Second

func (p *process) end() error {
	_ = p.running.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.running.done:
		return p.running.err
	case <-time.After(endTime):
		p.running.kill()
		return fmt.Errorf("the trustee did not end within %s", endTime)
	}
}
