// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/sys/unix"
)

// Sandbox unpacks layers in child processes, one each, at any number at a time. The zero value works in a program
// that calls [Main] when its first argument is [Argument].
type Sandbox struct {
	// Executable is the program to run; "" is the running one. It must be built without C code.
	Executable string
	Limits     Limits
}

const pipeBytes = 256 << 10

// Unpack unpacks the tar stream layer into the existing empty directory dir, and reads it to its end. On an error the
// directory holds what it holds; the caller removes it. An error of layer itself is returned as it is, so that the
// caller can tell his own errors (errors.Is) from an [Error] about the content.
//
// The program must have /proc, and the right to make a user namespace that maps what its own maps. It may reap its
// children elsewhere as PID 1 does (wait4(-1)): the outcome is the child's report, not its exit status.
func (s *Sandbox) Unpack(ctx context.Context, dir string, layer io.Reader) (Stats, error) {
	limits, err := json.Marshal(s.Limits.withDefaults())
	if err != nil {
		return Stats{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Stats{}, err
	}
	uids, err := sameIDs("/proc/self/uid_map")
	if err != nil {
		return Stats{}, failed("reading the identities to map", err)
	}
	gids, err := sameIDs("/proc/self/gid_map")
	if err != nil {
		return Stats{}, failed("reading the identities to map", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	executable := s.Executable
	if executable == "" {
		executable = "/proc/self/exe"
	}
	var status, complaint capped
	cmd := exec.CommandContext(ctx, executable)
	cmd.Args = []string{"nacre-unpack", Argument, string(limits)}
	cmd.Env = []string{}
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &status, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: uids,
		GidMappings: gids,
		Setsid:      true,
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return Stats{}, failed("making the stream's pipe", err)
	}
	defer ours.Close()
	growPipe(ours)
	cmd.Stdin = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return Stats{}, failed("starting the unpacker", err)
	}
	source := &source{Reader: layer}
	_, copyErr := io.CopyBuffer(struct{ io.Writer }{ours}, source, make([]byte, pipeBytes))
	if source.err != nil {
		cancel() // kills the child, which otherwise would take the end of the stream for the end of the layer
	}
	ours.Close()
	waitErr := cmd.Wait()
	switch {
	case source.err != nil:
		return Stats{}, source.err
	case ctx.Err() != nil:
		return Stats{}, failed("unpacking", context.Cause(ctx))
	case status.dropped:
		return Stats{}, refuse(CodeFailed, "the unpacker's report is too long")
	}
	stats, err := parseReport(status.Bytes())
	if err == nil && copyErr != nil {
		err = failed("passing the layer to the unpacker", copyErr)
	}
	if err == nil && waitErr != nil && !errors.Is(waitErr, syscall.ECHILD) {
		err = failed("unpacking", waitErr)
	}
	if CodeOf(err) == CodeFailed && complaint.Len() > 0 {
		err = fmt.Errorf("%w; the unpacker said %q", err, firstLine(complaint.Bytes()))
	}
	return stats, err
}

// growPipe saves switches between the two processes. It is no matter if the kernel refuses.
func growPipe(w *os.File) {
	if raw, err := w.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}

// parseReport reads the child's last words as those of somebody who may have been taken over: known codes only, and
// texts cut short and quoted.
func parseReport(text []byte) (Stats, error) {
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return Stats{}, failed("the unpacker died without a report", err)
	}
	if r.Code == "" {
		return r.Stats, nil
	}
	known := []Code{CodeMalformed, CodeEscape, CodeTooLarge, CodeUnsupported, CodeNoSpace}
	if !slices.Contains(known, r.Code) {
		r.Code = CodeFailed
	}
	return r.Stats, &Error{Code: r.Code, Entry: string(r.Entry[:min(len(r.Entry), 512)]), Detail: printable(r.Detail)}
}

// printable makes foreign text fit for one line of a log.
func printable(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), 512)], "?")
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, text)
}

func firstLine(text []byte) []byte {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return line[:min(len(line), 256)]
}

// sameIDs reads a map of identities (user_namespaces(7)) and returns one for a child namespace in which each stands
// for itself.
func sameIDs(path string) ([]syscall.SysProcIDMap, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var ids []syscall.SysProcIDMap
	for line := range strings.Lines(string(text)) {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: size})
	}
	return ids, nil
}

// source remembers why reading stopped, to tell the stream's errors from those of the pipe behind it.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// capped keeps the first 64 KiB of what is written to it, and takes the rest without keeping it: the writer must not
// wait for a reader.
type capped struct {
	bytes.Buffer
	dropped bool
}

func (c *capped) Write(p []byte) (int, error) {
	room := 64<<10 - c.Len()
	c.dropped = c.dropped || len(p) > room
	c.Buffer.Write(p[:min(len(p), room)])
	return len(p), nil
}
