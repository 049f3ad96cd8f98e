// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vmm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nacre-project/nacre/internal/sandbox/qemu"
)

// Binary is the program that runs when the caller names none; it is looked up in PATH.
const Binary = "qemu-system-x86_64"

// quitGrace is how long QEMU may take to obey "quit" before it is killed. It has nothing to flush: all drives are read-only.
const quitGrace = 2 * time.Second

// Process is a running QEMU. Whoever starts it must call Stop.
type Process struct {
	monitor *monitor
	stderr  *tail
	pid     int
	kill    func()

	halted chan struct{} // closed when the guest can no longer run although QEMU does
	done   chan struct{} // closed when the process is gone and everything it used is released
	err    error         // how it ended; valid after done
}

// Start runs the machine. The control channel is added here; everything else that m names must be in files. The machine's ends
// of files are closed in this process, also on failure.
func Start(ctx context.Context, binary string, m qemu.Machine, files *Files, log *slog.Logger) (*Process, error) {
	defer files.Close()
	if binary == "" {
		binary = Binary
	}
	resolved, err := exec.LookPath(binary)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w; install it (Debian: apt-get install qemu-system-x86)", binary, err)
	}
	control, fd, err := files.Pipe("control")
	if err != nil {
		return nil, err
	}
	m.Control = fd
	args, err := m.Args()
	if err != nil {
		control.Close()
		return nil, err
	}

	p := &Process{stderr: &tail{}, halted: make(chan struct{}), done: make(chan struct{})}
	//nolint:noctx // The process is ended by Stop, which asks first; a context could only kill.
	cmd := exec.Command(resolved, args...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stderr = p.stderr
	cmd.ExtraFiles = files.list
	cmd.SysProcAttr = attributes()

	started := make(chan error)
	go p.run(cmd, started)
	err = <-started
	// From here on a machine that is gone is an end of file on each of its streams.
	files.Close()
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("starting %s: %w", resolved, err)
	}
	p.pid = cmd.Process.Pid
	p.kill = sync.OnceFunc(func() {
		// The only way to fail is that it is gone already.
		_ = cmd.Process.Kill()
	})
	var once sync.Once
	p.monitor = newMonitor(control, func(event string) {
		log.Debug("machine event", "event", event)
		if event == "STOP" {
			// Nobody asked for it, so QEMU stopped the processors because they cannot go on: an internal error of KVM.
			once.Do(func() { close(p.halted) })
		}
	})
	if err := p.monitor.negotiate(ctx); err != nil {
		p.Stop()
		if p.Err() != nil {
			err = p.Err() // why the channel is closed
		}
		return nil, fmt.Errorf("starting %s: %w", resolved, err)
	}
	log.Debug("machine started", "pid", p.pid, "qemu", resolved)
	return p, nil
}

// run owns the process from its start until it is reaped. Linux sends the parent-death signal when the *thread* that started
// the child ends, so that thread is held until the child is gone; then the signal can only mean that we are.
func (p *Process) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	err := cmd.Wait()
	if text := p.stderr.String(); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	p.err = err
	close(p.done)
}

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Halted is closed when the guest stopped for good although the process still lives, e.g. because KVM met what it cannot do.
func (p *Process) Halted() <-chan struct{} { return p.halted }

// Err says how the process ended: nil after an orderly end, and as long as it has not ended.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Complaints returns the last of what QEMU printed to its standard error.
func (p *Process) Complaints() string { return p.stderr.String() }

// PID is the process id, for tests and for accounting.
func (p *Process) PID() int { return p.pid }

// Stop ends the process, asking first and killing then, and returns when it is gone. It may be called more than once.
func (p *Process) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), quitGrace)
	defer cancel()
	if p.monitor != nil {
		// An error means that the channel is closed already, because the guest ended the machine: it too wants a moment.
		_, _ = p.monitor.execute(ctx, "quit")
		select {
		case <-p.done:
		case <-ctx.Done():
		}
	}
	p.kill()
	<-p.done
	if p.monitor != nil {
		// The peer is gone; there is nothing to lose in the channel.
		_ = p.monitor.close()
	}
}

// The range that systemd gives to short-lived services (DynamicUser=): no account has files under these numbers.
const (
	firstTransientID = 61184
	lastTransientID  = 65519
)

// attributes makes the child die with its parent and, if we are root, be nobody in particular: a user number drawn at random,
// no groups. Two machines with the same number, one in thousands, could signal each other; they still share no descriptor.
func attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if os.Geteuid() == 0 {
		var random [4]byte
		rand.Read(random[:])
		id := firstTransientID + binary.LittleEndian.Uint32(random[:])%(lastTransientID-firstTransientID+1)
		attr.Credential = &syscall.Credential{Uid: id, Gid: id, Groups: []uint32{}}
	}
	return attr
}

// tail keeps the last bytes of what a process prints.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const maxTail = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
