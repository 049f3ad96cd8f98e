// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// process is one process that the host may wait for: a container's first, or one that was executed in it.
type process struct {
	stdout, stderr *output
	stdin          *input
	terminal       *os.File // what its streams are then; nil when they are pipes

	making bool // until it runs and has its streams; its container's mu guards it

	exited chan struct{} // closed when code holds

	mu      sync.Mutex
	process *os.Process // nil until it runs
	code    int32
}

// streams makes what the runtime is to give a process for its streams: a terminal, which attach takes over later, or the
// ends of pipes. What the policy keeps from the
// host has no pipe: output that nobody may read must not block its writer, and input that nobody may write is at its
// end from the beginning.
func (p *process) streams(terminal, readable, writable bool) (stdio, error) {
	if terminal {
		c, err := listenConsole()
		return stdio{console: c}, err
	}
	var streams stdio
	var errs [3]error
	if readable {
		p.stdout, streams.out, errs[0] = newOutput()
		p.stderr, streams.err, errs[1] = newOutput()
	}
	if writable {
		p.stdin, streams.in, errs[2] = newInput()
	}
	if err := errors.Join(errs[:]...); err != nil {
		streams.close()
		p.closeStreams()
		return stdio{}, err
	}
	return streams, nil
}

func (s stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
	if s.console != nil {
		s.console.close()
	}
}

func (p *process) closeStreams() {
	if p.terminal != nil {
		p.terminal.Close()
	}
	if p.stdin != nil {
		p.stdin.close()
	}
	if p.stdout != nil {
		p.stdout.file.Close()
	}
	if p.stderr != nil {
		p.stderr.file.Close()
	}
}

// watch takes a running process over: it waits for its end and keeps the code.
func (p *process) watch(running *os.Process) {
	p.mu.Lock()
	p.process = running
	p.mu.Unlock()
	go func() {
		code := int32(unknownCode)
		if state, err := running.Wait(); err == nil {
			status := state.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				code = signalBase + int32(status.Signal())
			} else {
				code = int32(status.ExitStatus())
			}
		}
		p.mu.Lock()
		p.code = code
		p.mu.Unlock()
		close(p.exited)
	}()
}

// Exit codes by the convention of shells.
const (
	signalBase  = 128
	unknownCode = 255
)

// wait returns the exit code once there is one.
func (p *process) wait(ctx context.Context) (int32, error) {
	select {
	case <-p.exited:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ended says whether there is an exit code.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// signal sends a signal; it is no error when the process has ended.
func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return status.Error(codes.FailedPrecondition, "the process does not run")
	}
	if err := p.process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// output is the reading end of a standard stream. The pipe or terminal in the kernel is its only buffer: a host that does not read
// slows the container down and makes nothing grow.
type output struct {
	file *os.File
	turn chan struct{} // one reader at a time
}

// oneTurn is a channel from which one at a time takes the turn, and puts it back.
func oneTurn() chan struct{} {
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	return turn
}

func newOutput() (*output, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &output{file: r, turn: oneTurn()}, w, nil
}

// read returns what is there, at most n bytes, and waits for it if there is nothing. io.EOF means that all processes
// that could write have ended.
func (o *output) read(ctx context.Context, n int) ([]byte, error) {
	select {
	case <-o.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { o.turn <- struct{}{} }()
	defer interruptible(ctx, o.file.SetReadDeadline)()
	buf := make([]byte, n)
	n, err := o.file.Read(buf)
	if n > 0 {
		return buf[:n], nil
	}
	return nil, endOf(ctx, err)
}

// input is the writing end of a standard stream.
type input struct {
	file *os.File
	turn chan struct{}
}

func newInput() (*input, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &input{file: w, turn: oneTurn()}, r, nil
}

// write returns when all of p is in the pipe; the process decides how long that takes.
func (i *input) write(ctx context.Context, p []byte) (int, error) {
	select {
	case <-i.turn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { i.turn <- struct{}{} }()
	defer interruptible(ctx, i.file.SetWriteDeadline)()
	n, err := i.file.Write(p)
	return n, endOf(ctx, err)
}

// close lets the process see the end of its input.
func (i *input) close() { i.file.Close() }

// interruptible makes an operation on a file end with ctx, by its deadline. The function that it returns must be
// called after the operation, and leaves the file without a deadline.
func interruptible(ctx context.Context, setDeadline func(time.Time) error) (done func()) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = setDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	return func() {
		if !stop() {
			<-interrupted
			_ = setDeadline(time.Time{})
		}
	}
}

func endOf(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ctx.Err()
	case errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EIO): // the latter of a terminal that nobody has any more
		return io.EOF
	}
	return err
}
