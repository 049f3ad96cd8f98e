// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/internal/guest/agent"
	"github.com/nacre-project/nacre/internal/guest/cdh"
	"github.com/nacre-project/nacre/internal/guest/rest"
	"github.com/nacre-project/nacre/internal/guest/socket"
	"github.com/nacre-project/nacre/test/brokertest"
	"github.com/nacre-project/nacre/test/conformance/golden"
	"github.com/nacre-project/nacre/test/conformance/suite"
)

var update = flag.Bool("update", false, "write the golden files")

// agentPolicy allows what the suite asks of the agent, and denies one method.
const agentPolicy = `package agent_policy

default GuestDetailsRequest := true
default StartContainerRequest := true
default RemoveContainerRequest := true
default SignalProcessRequest := true
default WaitProcessRequest := true
default WriteStreamRequest := true
default ReadStreamRequest := true
default CloseStdinRequest := true
default TtyWinResizeRequest := true
default StatsContainerRequest := true
default UpdateContainerRequest := true
default PauseContainerRequest := true
default ResumeContainerRequest := false
`

// guestServices starts the services of a guest, as its first process does, on sockets of the test, and returns the
// suite's arguments for them.
func guestServices(t *testing.T) []string {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	broker := brokertest.New(t)
	value := "a secret with \x00 in it"
	broker.Resources["default/db/password"] = value
	tokens, err := aa.New(aa.Options{Config: aa.Config{Broker: broker.Client()}, Attester: brokertest.Guest(t, nil), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := cdh.New(cdh.Config{Broker: broker.Client()}, tokens, log)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(run func(context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		t.Cleanup(func() {
			cancel()
			<-done
		})
	}
	at := func(name string, register func(*ttrpc.Server)) string {
		path := filepath.Join(dir, name)
		l, err := socket.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		serve(func(ctx context.Context) error { return socket.Serve(ctx, l, register) })
		return path
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(func(ctx context.Context) error {
		return rest.Serve(ctx, l, rest.Handler(hub, rest.Info{Version: "test", TEE: tokens.TEE()}, log), log)
	})
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(func(ctx context.Context) error {
		return rest.Serve(ctx, abroad{outside}, rest.Handler(hub, rest.Info{Version: "test"}, log), log)
	})
	gate, err := agent.NewGate(t.Context(), agentPolicy, log)
	if err != nil {
		t.Fatal(err)
	}
	kata := filepath.Join(dir, "agent.sock")
	agentListener, err := net.Listen("unix", kata)
	if err != nil {
		t.Fatal(err)
	}
	serve(func(ctx context.Context) error {
		return agent.New(agent.Config{Gate: gate, Log: log, Version: "test", Dir: dir}).Serve(ctx, agentListener)
	})
	file := filepath.Join(dir, "value")
	if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--aa", at("aa.sock", tokens.Register), "--cdh", at("cdh.sock", hub.Register), "--agent", kata,
		"--rest", "http://" + l.Addr().String(), "--resource", "kbs:///default/db/password", "--resource-file", file,
		"--rest-outside", "http://" + outside.Addr().String(), "--missing", "kbs:///default/db/none", "--extend"}
}

// abroad makes peers come from another machine, as far as a server can tell.
type abroad struct{ net.Listener }

func (l abroad) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return foreign{conn}, err
}

type foreign struct{ net.Conn }

func (foreign) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711} }

// TestGuest asks our own guest's services. Where they differ from the stock ones is written down in testdata; what is
// not written there is a slip.
func TestGuest(t *testing.T) {
	var out, errs strings.Builder
	status := run(t.Context(), append(guestServices(t), "--json"), &out, &errs)
	var report struct{ Results []suite.Result }
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatalf("status %d: %v\n%s", status, err, errs.String())
	}
	if n := len(report.Results); n < 70 {
		t.Errorf("%d cases", n)
	}
	golden.Compare(t, filepath.Join("testdata", "nacre-guest.txt"), report.Results, *update)
}

func TestUsage(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--help"}, suite.ExitConforms},
		{[]string{"--list"}, suite.ExitConforms},
		{[]string{"--no-such-flag"}, suite.ExitUsage},
		{nil, suite.ExitUsage},
		{[]string{"--aa", none}, suite.ExitUsage},
		{[]string{"--cdh", os.Args[0]}, suite.ExitUsage},
		{[]string{"--rest", "http://127.0.0.1:1", "--resource-file", none}, suite.ExitUsage},
		{[]string{"--rest", "http://127.0.0.1:1"}, suite.ExitFails},
	} {
		var out, errs strings.Builder
		if got := run(t.Context(), tt.args, &out, &errs); got != tt.want {
			t.Errorf("%q: status %d, want %d\n%s", tt.args, got, tt.want, errs.String())
		}
	}
}

// Every case has a name of its own and says where it is written and what it demands.
func TestCases(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range (&guest{}).cases() {
		if seen[c.Name] || c.Ref == "" || c.Want == "" || c.Run == nil || c.Level != suite.Must && c.Level != suite.Should {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
}
