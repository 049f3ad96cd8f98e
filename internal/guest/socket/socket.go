// SPDX-License-Identifier: Apache-2.0

// Package socket serves ttrpc at UNIX sockets of the guest itself. They are for programs of the measured image: they
// lie in the guest's own mount namespace, in a directory and with a mode that root alone passes, and a peer of another
// user is turned away. They must never be mounted into a container.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Paths where programs written for the stock components look for them.
const (
	AttestationAgent    = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
	ConfidentialDataHub = "/run/confidential-containers/cdh.sock"
)

// Listen makes a socket at path, mode 0600, and its directory, mode 0700, if that is not there. It replaces a socket
// that an earlier run has left, and nothing else.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, errors.New("something that is no socket is there")
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// handshake lets the same user in, and puts frames before the library.
type handshake struct{ sameUser ttrpc.Handshaker }

func (h handshake) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	approved, credentials, err := h.sameUser.Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	return newFrames(approved), credentials, nil
}

// contain makes a panic in a handler that call's failure, and no more: the process is the whole guest's.
func contain(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (answer any, err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.ErrorContext(ctx, "a request made a service fail", "method", info.FullMethod, "panic", fmt.Sprint(p))
			answer, err = nil, status.Errorf(codes.Internal, "%s failed in the guest", info.FullMethod)
		}
	}()
	return method(ctx, decode)
}

// Serve serves what register adds to a server, at l, until ctx ends, which is no error. Then l and all
// connections are closed, and the context of calls that are under way has ended.
func Serve(ctx context.Context, l net.Listener, register func(*ttrpc.Server)) error {
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(handshake{ttrpc.UnixSocketRequireSameUser()}),
		ttrpc.WithUnaryServerInterceptor(contain))
	if err != nil {
		return fmt.Errorf("serving at %s: %w", l.Addr(), err)
	}
	register(server)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err = server.Serve(ctx, l)
	if ctx.Err() != nil && errors.Is(err, ttrpc.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving at %s: %w", l.Addr(), err)
}
