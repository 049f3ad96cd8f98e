// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
)

// PortName is the virtio-serial port that carries the multiplexed stream.
const PortName = "org.nacre.agent.0"

// Port numbers of the guest.
const (
	AgentPort = 1024 // the Kata agent protocol over ttrpc
)

// ErrNoDevice is returned when the machine has neither the virtio-serial port nor a vsock device.
var ErrNoDevice = errors.New("transport: no virtio-serial port " + PortName + " and no vsock device")

// ListenGuest listens on a port of this guest: through the virtio-serial port PortName where the host gave one, else
// on vsock. It waits up to wait for either to appear. The host is told that the guest is ready before ListenGuest
// returns, so everything that requests need must be in place. The listener ends with ctx.
func ListenGuest(ctx context.Context, port uint32, wait time.Duration, log *slog.Logger) (net.Listener, error) {
	device, err := findDevice(ctx, "/sys/class/virtio-ports", "/dev", wait)
	if err != nil {
		return nil, err
	}
	if device == vsockDevice {
		l, err := vsock.Listen(port, nil)
		if err != nil {
			return nil, fmt.Errorf("transport: listening on vsock port %d: %w", port, err)
		}
		context.AfterFunc(ctx, func() { _ = l.Close() })
		return hostOnly{l}, nil
	}
	g := &Guest{Log: log, Open: func(context.Context) (io.ReadWriteCloser, error) { return OpenPort(device) }}
	l, err := g.Listen(port)
	if err != nil {
		return nil, err
	}
	go func() {
		if err := g.Serve(ctx); ctx.Err() == nil {
			log.Error("the host can no longer be reached", "error", err)
		}
		l.Close()
	}()
	return l, nil
}

// OpenPort opens a virtio-serial port. Closing a port makes the kernel drop what the host sent and nobody read, so a
// session never begins with the rest of another; and writing waits until the host has connected its end.
func OpenPort(path string) (io.ReadWriteCloser, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// hostOnly turns away vsock connections that do not come from the host: programs of the guest could make some.
type hostOnly struct{ net.Listener }

// Accept implements net.Listener.
func (l hostOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := c.RemoteAddr().(*vsock.Addr); ok && from.ContextID == vsock.Host {
			return c, nil
		}
		c.Close()
	}
}

const vsockDevice = "vsock"

// findDevice returns the path of the virtio-serial port's device node, or vsockDevice.
func findDevice(ctx context.Context, ports, dev string, wait time.Duration) (string, error) {
	return poll(ctx, wait, func() (string, error) {
		path, err := findPort(ports, dev, PortName)
		if err != nil || path != "" {
			return path, err
		}
		// The device node exists as soon as the module is loaded; only a host's transport gives the guest an address.
		if cid, err := vsock.ContextID(); err == nil && cid > vsock.Host && cid != ^uint32(0) {
			return vsockDevice, nil
		}
		return "", nil
	}, ErrNoDevice)
}

// FindPort returns the device node of a virtio-serial port by its name, waiting for it to appear. Nothing makes
// /dev/virtio-ports in a guest without udev.
func FindPort(ctx context.Context, name string, wait time.Duration) (string, error) {
	return poll(ctx, wait, func() (string, error) { return findPort("/sys/class/virtio-ports", "/dev", name) },
		fmt.Errorf("transport: no virtio-serial port %s", name))
}

// poll calls find until it finds something or fails; none is the error when the time is over.
func poll(ctx context.Context, wait time.Duration, find func() (string, error), none error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if found, err := find(); err != nil || found != "" {
			return found, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", none
		}
	}
}

// findPort returns the device node of the virtio-serial port with the given name, or "" when there is none. The host
// chooses the names: two ports of one name are refused.
func findPort(ports, dev, name string) (string, error) {
	entries, err := os.ReadDir(ports)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("transport: looking for the port %s: %w", name, err)
	}
	found := ""
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "vport") {
			continue
		}
		f, err := os.Open(filepath.Join(ports, e.Name(), "name"))
		if err != nil {
			continue // a port without a name has no such file
		}
		text, err := io.ReadAll(io.LimitReader(f, 256))
		f.Close()
		if err != nil || strings.TrimSuffix(string(text), "\n") != name {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("transport: two virtio-serial ports are named %s", name)
		}
		node := filepath.Join(dev, e.Name())
		if _, err := os.Stat(node); err == nil {
			found = node
		}
	}
	return found, nil
}
