// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// exchange asks for a path over a connection of its own, from a loopback address.
func exchange(t *testing.T, p *process, from, path string) (*http.Response, error) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(p.start.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: trustee\r\n\r\n"); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		response.Body.Close()
	}
	return response, err
}

// One client opens connections until nobody else gets one.
func TestAttackAllConnections(t *testing.T) {
	p := launch(t, t.TempDir(), "--max-connections", "8", "--max-connections-per-client", "2", "--unsafe-http")
	for range 2 {
		if _, err := exchange(t, p, "127.0.0.1", "/healthz"); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a third", func(t *testing.T) {
		if _, err := exchange(t, p, "127.0.0.1", "/healthz"); err == nil {
			t.Error("was answered")
		}
	})
	if _, err := exchange(t, p, "127.0.0.2", "/healthz"); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// A load balancer has time to notice that the trustee is about to end; a second signal ends it at once.
func TestDrainDelay(t *testing.T) {
	p := launch(t, t.TempDir(), "--unsafe-http", "--drain-delay", "1h")
	status := func(path string) int {
		t.Helper()
		response, err := exchange(t, p, "127.0.0.1", path)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode
	}
	if got := status("/readyz"); got != http.StatusOK {
		t.Errorf("ready: %d", got)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for status("/readyz") != http.StatusServiceUnavailable {
	}
	if got := status("/healthz"); got != http.StatusOK {
		t.Errorf("healthy while draining: %d", got)
	}
	if err := p.end(syscall.SIGTERM); err == nil {
		t.Error("the second signal ended it as if all was done")
	}
}

// Requests that do not end in time are cut off, and the exit code says so.
func TestDrainTimeout(t *testing.T) {
	p := launch(t, t.TempDir(), "--unsafe-http", "--drain-timeout", "1ms")
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.start.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if goOn, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || goOn.StatusCode != http.StatusContinue {
		t.Fatalf("the trustee did not ask for the body: %v", err)
	}
	if err := p.end(os.Interrupt); err == nil || !strings.Contains(p.log.String(), "still under way after 1ms") {
		t.Errorf("ended with %v\n%s", err, p.log)
	}
}
