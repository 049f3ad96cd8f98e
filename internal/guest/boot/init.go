// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// agentArgument is the first argument of the agent process.
const agentArgument = "agent"

// exitReported is the exit status of an agent process that has said on the console why it ends.
const exitReported = 3

// Out-of-memory scores: the kernel takes containers first, then nothing. (Process 1 it never takes.)
const (
	oomScoreInit  = "-1000"
	oomScoreAgent = "-997"
)

// Main is the guest's program: process 1, or the agent process that process 1 starts. Called by hand it says what it
// is and exits.
func Main(args []string) {
	switch {
	case os.Getpid() == 1 && bootedForUs():
		initMain()
	case len(args) == 1 && args[0] == agentArgument && os.Getppid() == 1:
		os.Exit(agentMain(context.Background()))
	default:
		fmt.Fprintln(os.Stderr, "nacre-guest is the first process of a Nacre guest; boot it with `nacre run`")
		os.Exit(2)
	}
}

// bootedForUs keeps process 1 of somebody's container from locking down the machine that it runs on. The initial RAM
// file system has mounted /proc.
func bootedForUs() bool {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false
	}
	line, err := parseCmdline(string(text))
	return err != nil || line.ours // a wrong line of ours is to be reported as a refusal
}

// logger writes errors to the console, which the host reads: no log line may carry a secret, and what the pod does is
// not the host's to know.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

func initMain() {
	err := supervise(logger())
	if err != nil {
		report(os.Stderr, err)
	}
	powerOff()
}

// powerOff ends the machine.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// Without a way to power off (no ACPI) process 1 ends, and panic= on the command line decides.
	os.Exit(1)
}

// supervise prepares the machine, runs the agent process to its end and returns why that ended; nil is an orderly end.
func supervise(log *slog.Logger) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = refuse(CodePanic, "process 1: %v", r)
		}
	}()
	if err := prepare(log); err != nil {
		return err
	}
	agent := exec.CommandContext(context.Background(), "/proc/self/exe", agentArgument)
	agent.Args[0] = "nacre-guest"
	agent.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp",
		"GOTRACEBACK=none", // a trace on the console would show the host parts of memory
	}
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	if err := agent.Start(); err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	pid := agent.Process.Pid
	_ = agent.Process.Release() // reap waits for every child, this one too
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(oomScoreAgent), 0); err != nil {
		return fmt.Errorf("protecting the agent from the out-of-memory killer: %w", err)
	}
	debug.FreeOSMemory() // process 1 has nothing more to do but wait
	return reap(pid)
}

func prepare(log *slog.Logger) error {
	if err := mountAll(); err != nil {
		return err
	}
	surviveSignals()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // the host's Ctrl-Alt-Del becomes SIGINT to process 1
	if err := reserve(cgroupRoot, "/proc/sys/kernel/threads-max", "/proc/meminfo"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScoreInit), 0); err != nil {
		return fmt.Errorf("protecting process 1 from the out-of-memory killer: %w", err)
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel command line: %w", err)
	}
	if _, err := parseCmdline(string(text)); err != nil {
		return err
	}
	if err := lockDown("/proc/sys"); err != nil {
		return err
	}
	if err := entropyReady("/sys/class/misc", "/sys/module"); err != nil {
		return err
	}
	img, err := readImage(imageFile)
	if err != nil {
		return err
	}
	if err := newClock(img).raise(log); err != nil {
		return fmt.Errorf("setting the clock to the image's age: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bringing the loopback interface up: %w", err)
	}
	return nil
}

// surviveSignals has process 1 live on when it is asked to end: the Go runtime would exit, and the kernel panic. The
// signals are caught and dropped rather than ignored, because programs inherit what is ignored, and containers must be
// able to get these.
func surviveSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
}

// reap collects every child until the agent process has ended. Orphans whose parents did not wait become children of
// process 1; those of the agent's own children it collects itself (see agentMain).
func reap(agent int) error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("waiting for the agent: %w", err)
		case pid != agent:
			continue
		}
		switch {
		case status.Exited() && status.ExitStatus() == 0:
			return nil
		case status.Exited() && status.ExitStatus() == exitReported:
			return nil // the agent said why
		case status.Signaled():
			return refuse(CodePanic, "the agent was ended by signal %v", status.Signal())
		}
		return refuse(CodePanic, "the agent ended with status %d", status.ExitStatus())
	}
}
