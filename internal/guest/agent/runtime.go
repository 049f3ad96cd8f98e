// SPDX-License-Identifier: Apache-2.0

package agent

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
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime runs the OCI runtime of the root image, runc. The processes that it leaves behind become children of this
// process, which therefore must be a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER).
type Runtime struct {
	Path string // "" is /usr/bin/runc
	Root string // where the runtime keeps its state; "" is /run/runc
}

// runtimeTime bounds one call of the runtime.
const runtimeTime = 60 * time.Second

// stdio are the ends of a process's standard streams that the process gets; nil is /dev/null. With a console they are a
// terminal, which the runtime makes and sends there.
type stdio struct {
	in, out, err *os.File
	console      *console
}

// options tell the runtime of a terminal.
func (s stdio) options() []string {
	if s.console == nil {
		return nil
	}
	return []string{"--console-socket", s.console.path()}
}

// create makes a container from its bundle and returns the process that waits in it to be started.
func (r Runtime) create(ctx context.Context, id, bundle string, streams stdio) (*os.Process, error) {
	pidFile := filepath.Join(bundle, "pid")
	args := append([]string{"create", "--bundle", bundle, "--pid-file", pidFile}, streams.options()...)
	err := r.run(ctx, bundle, streams, append(args, id)...)
	if err != nil {
		return nil, err
	}
	return adopt(pidFile)
}

// start lets the process of a container execute its program.
func (r Runtime) start(ctx context.Context, id, bundle string) error {
	return r.run(ctx, bundle, stdio{}, "start", id)
}

// exec runs one more process in a container. The process description is a file, name is unique in the bundle.
func (r Runtime) exec(
	ctx context.Context, id, bundle, name string, description []byte, streams stdio,
) (*os.Process, error) {
	file := filepath.Join(bundle, name+".json")
	if err := os.WriteFile(file, description, 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(file)
	pidFile := filepath.Join(bundle, name+".pid")
	defer os.Remove(pidFile)
	args := append([]string{"exec", "--detach", "--process", file, "--pid-file", pidFile}, streams.options()...)
	err := r.run(ctx, bundle, streams, append(args, id)...)
	if err != nil {
		return nil, err
	}
	return adopt(pidFile)
}

// remove forgets a container and ends what is left of it.
func (r Runtime) remove(ctx context.Context, id, bundle string) error {
	return r.run(ctx, bundle, stdio{}, "delete", "--force", id)
}

// run executes the runtime. What it reports goes to a log file, because its standard streams are the container's.
func (r Runtime) run(ctx context.Context, bundle string, streams stdio, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	path, root := r.Path, r.Root
	if path == "" {
		path = "/usr/bin/runc"
	}
	if root == "" {
		root = "/run/runc"
	}
	log := filepath.Join(bundle, "runtime.log")
	_ = os.Remove(log)
	global := []string{"--root", root, "--log", log, "--log-format", "json"}
	cmd := exec.CommandContext(ctx, path, append(global, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	// Only *os.File and nil here: another writer would make Wait wait for the container, which inherits the streams.
	if streams.in != nil {
		cmd.Stdin = streams.in
	}
	if streams.out != nil {
		cmd.Stdout = streams.out
	}
	if streams.err != nil {
		cmd.Stderr = streams.err
	}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(path), args[0], context.Cause(ctx))
	}
	if text := lastLogError(log); text != "" {
		err = errors.New(text)
	}
	return fmt.Errorf("%s %s: %w", filepath.Base(path), args[0], err)
}

// maxRuntimeLog is how much of the runtime's log is read, in bytes. The container may have had a hand in it.
const maxRuntimeLog = 64 << 10

// lastLogError returns the last error in a log of JSON lines, "" if there is none.
func lastLogError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text := ""
	for lines := bufio.NewScanner(io.LimitReader(f, maxRuntimeLog)); lines.Scan(); {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(bytes.TrimSpace(lines.Bytes()), &entry) != nil {
			continue
		}
		if entry.Level == "error" || entry.Level == "fatal" {
			text = entry.Msg
		}
	}
	return clip(text)
}

// adopt returns the process that a pid file names. Its parent, the runtime, has ended, so it is a child of ours now
// and cannot vanish before we wait for it.
func adopt(pidFile string) (*os.Process, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, fmt.Errorf("reading the process id that the runtime has written: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("the runtime has written the process id %.20q", text)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("finding the process that the runtime has started: %w", err)
	}
	return p, nil
}

// signalNamespace sends a signal to every process in the PID namespace of a container's first process.
func signalNamespace(first *os.Process, signal unix.Signal) error {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first.Pid))
	// A process that is there now was there then: the link was its own and not a later process's of the same number.
	if errors.Is(first.Signal(unix.Signal(0)), os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	if own, err := os.Readlink("/proc/self/ns/pid"); err != nil || own == namespace {
		return errors.New("the process has no PID namespace of its own")
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// The descriptor pins the process; looking at its namespace after opening it leaves no room for another
		// process to take the number in between.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err == nil && ns == namespace {
			_ = unix.PidfdSendSignal(fd, signal, nil, 0) // it may have ended
		}
		_ = unix.Close(fd)
	}
	return nil
}
