// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

func goodNeighbour(change func(*agent.ARPNeighbor)) *agent.ARPNeighbor {
	n := &agent.ARPNeighbor{
		ToIPAddress: &agent.IPAddress{Address: "10.0.2.2"}, Device: "eth0", Lladdr: "02:00:00:00:00:02",
		State: unix.NUD_PERMANENT,
	}
	if change != nil {
		change(n)
	}
	return n
}

// TestAttackNeighbour sends neighbours that no honest host sets.
func TestAttackNeighbour(t *testing.T) {
	if _, err := parseNeighbour(goodNeighbour(nil)); err != nil {
		t.Fatal(err)
	}
	address := func(text string) func(*agent.ARPNeighbor) {
		return func(n *agent.ARPNeighbor) { n.ToIPAddress.Address = text }
	}
	for name, change := range map[string]func(*agent.ARPNeighbor){
		"no address":         func(n *agent.ARPNeighbor) { n.ToIPAddress = nil },
		"loopback":           address("127.0.0.1"),
		"loopback v6":        address("::1"),
		"mapped":             address("::ffff:10.0.2.2"),
		"multicast":          address("224.0.0.1"),
		"all":                address("0.0.0.0"),
		"loopback's device":  func(n *agent.ARPNeighbor) { n.Device = "lo" },
		"device's path":      func(n *agent.ARPNeighbor) { n.Device = "../eth0" },
		"broadcast hardware": func(n *agent.ARPNeighbor) { n.Lladdr = "ff:ff:ff:ff:ff:ff" },
		"no hardware":        func(n *agent.ARPNeighbor) { n.Lladdr = "" },
		"unknown state":      func(n *agent.ARPNeighbor) { n.State = 1 << 20 },
		"negative state":     func(n *agent.ARPNeighbor) { n.State = -1 },
		"proxy":              func(n *agent.ARPNeighbor) { n.Flags = 8 },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseNeighbour(goodNeighbour(change)); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestAttackManyNeighbours fills the kernel's table, in one request and in several.
func TestAttackManyNeighbours(t *testing.T) {
	a := testAgent(t)
	batch := func(first, count int) []neighbour {
		var out []neighbour
		for i := range count {
			n, err := parseNeighbour(goodNeighbour(func(n *agent.ARPNeighbor) {
				n.ToIPAddress.Address = fmt.Sprintf("10.0.%d.%d", (first+i)/256, (first+i)%256)
				n.Device = "absent0"
			}))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n)
		}
		return out
	}
	if err := a.network.enter(batch(1, maxNeighbours)); err != nil {
		t.Fatal(err)
	}
	if err := a.network.enter(batch(1, maxNeighbours)); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := a.network.enter(batch(1, maxNeighbours+1)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	many := make([]*agent.ARPNeighbor, maxNeighbours+1)
	wantCode(t, "many", codes.InvalidArgument)(a.AddARPNeighbors(t.Context(),
		&agent.AddARPNeighborsRequest{Neighbors: &agent.ARPNeighbors{ARPNeighbors: many}}))
	wantCode(t, "empty ones", codes.InvalidArgument)(a.AddARPNeighbors(t.Context(),
		&agent.AddARPNeighborsRequest{Neighbors: &agent.ARPNeighbors{ARPNeighbors: many[:1]}}))
}

// TestAttackListsLoopback looks for the loopback in what the host is told.
func TestAttackListsLoopback(t *testing.T) {
	a := testAgent(t)
	interfaces, err := a.ListInterfaces(t.Context(), &agent.ListInterfacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces.Interfaces {
		if i.Name == "lo" {
			t.Errorf("interface %v", i)
		}
	}
	routes, err := a.ListRoutes(t.Context(), &agent.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes.Routes {
		if r.Device == "lo" || r.Device == "" {
			t.Errorf("route %v", r)
		}
	}
}
