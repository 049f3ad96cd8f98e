// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// maxWindow caps the rows and columns of a terminal: programs make buffers of that size.
const maxWindow = 4096

// consoleTime bounds the wait for a terminal that the runtime has sent before it ended.
const consoleTime = 5 * time.Second

// console is the socket over which the runtime hands a process's pseudo-terminal over. It has a path, and not an abstract
// name: those belong to the network namespace, which the containers share with the agent. The path is short, as socket
// addresses must be, whatever the container's id.
type console struct {
	dir      string
	listener *net.UnixListener
}

func listenConsole() (*console, error) {
	dir, err := os.MkdirTemp("", "console-")
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &console{dir, l}, nil
}

func (c *console) path() string { return c.listener.Addr().String() }

func (c *console) close() {
	_ = c.listener.Close()
	_ = os.RemoveAll(c.dir)
}

// terminal returns the agent's end of the pseudo-terminal that the runtime has sent.
func (c *console) terminal() (*os.File, error) {
	_ = c.listener.SetDeadline(time.Now().Add(consoleTime))
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("waiting for the runtime's terminal: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(consoleTime))
	name, ancillary := make([]byte, unix.PathMax), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, ancillary)
	if err != nil {
		return nil, fmt.Errorf("receiving the runtime's terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(ancillary[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("the runtime has sent no terminal")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, errors.New("the runtime has sent no terminal")
	}
	if _, err := unix.IoctlGetInt(fds[0], unix.TIOCGPTN); err != nil {
		return nil, errors.Join(errors.New("the runtime has sent something else than a terminal"), unix.Close(fds[0]))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // reads and writes must end with their requests
		return nil, errors.Join(err, unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// attach takes the terminal over that the runtime has made for a process. Output that nobody may read is dropped, so that
// it does not block its writer; input that nobody may write does not come.
func (p *process) attach(c *console, readable, writable bool) error {
	if c == nil {
		return nil
	}
	file, err := c.terminal()
	if err != nil {
		return err
	}
	p.terminal = file
	if readable {
		p.stdout = &output{file: file, turn: oneTurn()}
	} else {
		go func() { _, _ = io.Copy(io.Discard, file) }() // ends when the terminal is closed, or nobody has it any more
	}
	if writable {
		p.stdin = &input{file: file, turn: oneTurn()}
	}
	return nil
}

// TtyWinResize sets the size of a process's terminal.
func (a *Agent) TtyWinResize(_ context.Context, r *agent.TtyWinResizeRequest) (*emptypb.Empty, error) {
	if r.Row > maxWindow || r.Column > maxWindow {
		return nil, invalid("a window of %d rows and %d columns, at most %d are set", r.Row, r.Column, maxWindow)
	}
	c, p, err := a.findProcess(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if p.terminal == nil {
		return nil, status.Error(codes.FailedPrecondition, "the process has no terminal")
	}
	raw, err := p.terminal.SyscallConn()
	if err == nil {
		size := &unix.Winsize{Row: uint16(r.Row), Col: uint16(r.Column)}
		var failure error
		err = raw.Control(func(fd uintptr) { failure = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
		err = errors.Join(err, failure)
	}
	if err != nil {
		return nil, failed("resizing the terminal of container "+c.id, err)
	}
	return nothing, nil
}
