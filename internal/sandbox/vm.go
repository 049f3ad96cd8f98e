// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
	"github.com/nacre-project/nacre/internal/sandbox/vmm"
	"github.com/nacre-project/nacre/internal/transport"
)

// What the guest finds its devices by.
const (
	rootSerial     = "nacre-root"
	initDataSerial = "nacre-initdata"
	agentPort      = "org.nacre.agent.0"
	simteePort     = "org.nacre.simtee.0"
)

// bootTime is how long a guest may take until its agent listens: with TCG on a busy machine, several times what it needs.
const bootTime = 3 * time.Minute

// endTime is how long a machine whose guest has hung up may take to end.
const endTime = 2 * time.Second

// AgentPort is where the guest's agent listens, by Kata's convention.
const AgentPort = 1024

// VM is a running guest whose agent has said hello. Whoever started it must call Stop.
type VM struct {
	launch    Launch
	processor *signer.Processor
	process   *vmm.Process
	host      *transport.Host
	console   *console
	accel     qemu.Accel

	agent Agent

	stop  func()
	owned sync.WaitGroup // goroutines of this VM
}

// Start boots a guest and returns when its agent listens. If the guest refuses to come up, the error is a *GuestRefused. On
// failure nothing is left running. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	done := cfg.step(StepProbe, "finding out what executes the guest")
	answer, err := cfg.prober().Probe(ctx)
	if err != nil {
		return nil, err
	}
	done(fmt.Sprintf("%s: %s", answer.Accel, answer.Reason))

	done = cfg.step(StepMeasure, "measuring what boots")
	vm := &VM{console: &console{copyTo: cfg.Console}, accel: answer.Accel}
	boot, err := vm.prepare(&cfg)
	if err != nil {
		return nil, err
	}
	defer boot.close()
	done(fmt.Sprintf("launch measurement %x", vm.launch.Measurement))

	done = cfg.step(StepBoot, "booting the guest")
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("the guest did not come up within %v", bootTime))
	defer cancel()
	if vm.process, err = vmm.Start(ctx, cfg.QEMU, boot.machine, &boot.files, cfg.Log); err != nil {
		boot.closeStreams()
		return nil, err
	}
	vm.serve(boot, cfg.Log)
	if err := vm.connect(ctx); err != nil {
		vm.Stop()
		return nil, vm.explain(err)
	}
	done("the agent listens")
	return vm, nil
}

// serve takes over the host's ends of the machine's streams.
func (vm *VM) serve(b *boot, log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	vm.host = transport.NewHost(b.agent)
	vm.owned.Go(func() {
		// The console ends with the machine, or is cut by stop; either way there is nothing to report.
		_, _ = io.Copy(vm.console, b.console)
	})
	vm.owned.Go(func() {
		if err := vm.processor.Serve(ctx, b.simtee); err != nil && ctx.Err() == nil {
			log.Warn("the simulated processor no longer answers its guest", "error", err)
		}
	})
	vm.stop = sync.OnceFunc(func() {
		// The machine first: its end flushes what the guest printed last.
		vm.process.Stop()
		cancel()
		// The peer of both is gone.
		if vm.agent.conn != nil {
			_ = vm.agent.conn.Close()
		}
		_ = vm.host.Close()
		vm.owned.Wait()
		b.closeStreams()
	})
}

// connect waits for the guest's hello and connects to its agent.
func (vm *VM) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	connected := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-vm.process.Halted():
			cancel(fmt.Errorf("QEMU stopped the virtual processor: %s", vm.process.Complaints()))
		case <-connected:
		}
	})
	conn, err := vm.host.Dial(ctx, AgentPort)
	close(connected)
	watching.Wait()
	cause := context.Cause(ctx)
	cancel(nil)
	if err != nil {
		return errors.Join(cause, err)
	}
	vm.agent.connect(conn)
	return nil
}

// Explain returns err, which came from talking to the guest, with what is known about a guest that hung up in place of an answer:
// a *GuestRefused if it said why it ends, else the last that it printed. An answer of the guest needs no explanation.
func (vm *VM) Explain(err error) error {
	if _, answered := status.FromError(err); answered {
		return err
	}
	select {
	case <-vm.host.Done():
	default:
		return err
	}
	select {
	case <-vm.process.Done():
	case <-time.After(endTime):
		return err
	}
	return vm.explain(err)
}

// explain makes of a failure the reason that lies deepest. The machine is gone.
func (vm *VM) explain(err error) error {
	if refused := vm.console.refusal(); refused != nil {
		return refused
	}
	err = fmt.Errorf("the guest has ended: %w", errors.Join(err, vm.process.Err()))
	if last := vm.console.last(5); last[0] != "" {
		err = fmt.Errorf("%w\nthe last that it printed:\n  %s", err, strings.Join(last, "\n  "))
	}
	return err
}

// Launch is what the guest was launched with.
func (vm *VM) Launch() Launch { return vm.launch }

// Processor is the simulated processor that answers this guest.
func (vm *VM) Processor() *signer.Processor { return vm.processor }

// Accel is what executes the guest.
func (vm *VM) Accel() qemu.Accel { return vm.accel }

// PID is the process id of the machine.
func (vm *VM) PID() int { return vm.process.PID() }

// Agent is the guest's agent. What it may be asked for is decided in the guest, by its policy.
func (vm *VM) Agent() *Agent { return &vm.agent }

// Dial connects to a port of the guest.
func (vm *VM) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return vm.host.Dial(ctx, port)
}

// Done is closed when the machine is gone.
func (vm *VM) Done() <-chan struct{} { return vm.process.Done() }

// Console returns the last lines, at most n, that the guest printed, cleaned of what controls a terminal.
func (vm *VM) Console(n int) []string { return vm.console.last(n) }

// Stop ends the guest and returns when nothing of it is left. It may be called more than once.
func (vm *VM) Stop() { vm.stop() }
