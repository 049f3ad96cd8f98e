// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o644) }

const testMAC = "52:54:00:12:34:56"

func goodInterface(change func(*agent.Interface)) *agent.Interface {
	i := &agent.Interface{
		Device: "eth0", Name: "eth0", HwAddr: testMAC, Mtu: 1400,
		IPAddresses: []*agent.IPAddress{
			{Address: "10.0.2.15", Mask: "24"}, {Family: agent.IPFamily_v6, Address: "fd00::5", Mask: "64"},
		},
	}
	if change != nil {
		change(i)
	}
	return i
}

func TestAttackInterface(t *testing.T) {
	if _, err := parseInterface(goodInterface(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := parseInterface(nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("none: %v", err)
	}
	address := func(text, mask string, family agent.IPFamily) func(*agent.Interface) {
		return func(i *agent.Interface) {
			i.IPAddresses = []*agent.IPAddress{{Address: text, Mask: mask, Family: family}}
		}
	}
	const v4, v6 = agent.IPFamily_v4, agent.IPFamily_v6
	for name, change := range map[string]func(*agent.Interface){
		"loopback's name":     func(i *agent.Interface) { i.Name = "lo" },
		"empty name":          func(i *agent.Interface) { i.Name = "" },
		"long name":           func(i *agent.Interface) { i.Name = "abcdefghijklmnop" },
		"slash":               func(i *agent.Interface) { i.Name = "a/b" },
		"zero hardware":       func(i *agent.Interface) { i.HwAddr = "00:00:00:00:00:00" },
		"broadcast hardware":  func(i *agent.Interface) { i.HwAddr = "ff:ff:ff:ff:ff:ff" },
		"no hardware":         func(i *agent.Interface) { i.HwAddr = "" },
		"long hardware":       func(i *agent.Interface) { i.HwAddr = "02:00:5e:10:00:00:00:01" },
		"tiny MTU":            func(i *agent.Interface) { i.Mtu = 1 },
		"huge MTU":            func(i *agent.Interface) { i.Mtu = 1 << 40 },
		"flags":               func(i *agent.Interface) { i.RawFlags = unix.IFF_PROMISC },
		"flags beside":        func(i *agent.Interface) { i.RawFlags = unix.IFF_NOARP | unix.IFF_UP },
		"no address":          func(i *agent.Interface) { i.IPAddresses = nil },
		"nil address":         func(i *agent.Interface) { i.IPAddresses = []*agent.IPAddress{nil} },
		"many addresses":      func(i *agent.Interface) { i.IPAddresses = make([]*agent.IPAddress, maxAddresses+1) },
		"loopback":            address("127.0.0.1", "8", v4),
		"loopback network":    address("127.8.8.8", "32", v4),
		"loopback v6":         address("::1", "128", v6),
		"mapped loopback":     address("::ffff:127.0.0.1", "128", v6),
		"mapped":              address("::ffff:10.0.0.1", "128", v6),
		"unspecified":         address("0.0.0.0", "0", v4),
		"multicast":           address("224.0.0.1", "4", v4),
		"zone":                address("fe80::1%eth0", "64", v6),
		"wrong family":        address("10.0.0.1", "24", v6),
		"mask too long":       address("10.0.0.1", "33", v4),
		"mask as address":     address("10.0.0.1", "255.0.0.0", v4),
		"mask empty":          address("10.0.0.1", "", v4),
		"mask zero":           address("10.0.0.1", "0", v4),
		"address is a name":   address("localhost", "8", v4),
		"octal":               address("0177.0.0.1", "8", v4),
		"short form":          address("127.1", "8", v4),
		"address with prefix": address("10.0.0.1/24", "24", v4),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseInterface(goodInterface(change)); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestAttackRoute(t *testing.T) {
	good := []*agent.Route{
		{Gateway: "10.0.2.2", Device: "eth0"},
		{Dest: "0.0.0.0/0", Gateway: "10.0.2.2", Device: "eth0"},
		{Dest: "192.168.0.0/16", Device: "eth0", Source: "10.0.2.15", Scope: 253},
		{Dest: "fd00::/8", Gateway: "fd00::1", Device: "eth0", Family: agent.IPFamily_v6},
	}
	for _, r := range good {
		if _, err := parseRoute(r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for name, r := range map[string]*agent.Route{
		"nil":                nil,
		"loopback device":    {Gateway: "10.0.2.2", Device: "lo"},
		"no device":          {Gateway: "10.0.2.2"},
		"no gateway":         {Device: "eth0"},
		"loopback":           {Dest: "127.0.0.0/8", Gateway: "10.0.2.2", Device: "eth0"},
		"part of loopback":   {Dest: "127.0.0.1/32", Gateway: "10.0.2.2", Device: "eth0"},
		"around loopback":    {Dest: "126.0.0.0/7", Gateway: "10.0.2.2", Device: "eth0"},
		"loopback v6":        {Dest: "::1/128", Device: "eth0", Family: agent.IPFamily_v6},
		"mapped loopback":    {Dest: "::ffff:127.0.0.0/104", Device: "eth0", Family: agent.IPFamily_v6},
		"loopback gateway":   {Gateway: "127.0.0.1", Device: "eth0"},
		"loopback source":    {Dest: "10.0.0.0/8", Source: "127.0.0.1", Device: "eth0"},
		"loopback source v6": {Dest: "fd00::/8", Source: "::1", Device: "eth0", Family: agent.IPFamily_v6},
		"other family":       {Dest: "fd00::/8", Device: "eth0"},
		"host bits":          {Dest: "10.1.2.3/8", Device: "eth0"},
		"scope":              {Gateway: "10.0.2.2", Device: "eth0", Scope: 256},
		"flags":              {Gateway: "10.0.2.2", Device: "eth0", Flags: 1 << 20},
		"multicast gateway":  {Gateway: "224.0.0.1", Device: "eth0"},
		"MTU":                {Gateway: "10.0.2.2", Device: "eth0", Mtu: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseRoute(r); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestNetwork configures a real interface in a network namespace of its own.
func TestNetwork(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and its namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs the right to make a network namespace: %v", err)
	}
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "before"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Skipf("needs dummy interfaces: %v", err)
	}
	made, err := netlink.LinkByName("before")
	if err != nil {
		t.Fatal(err)
	}
	hardware := made.Attrs().HardwareAddr.String()
	a := testAgent(t)
	update := func(hardware string) error {
		want := goodInterface(func(i *agent.Interface) {
			i.HwAddr = hardware
			i.IPAddresses = i.IPAddresses[:1]
		})
		_, err := a.UpdateInterface(t.Context(), &agent.UpdateInterfaceRequest{Interface: want})
		return err
	}
	want := &agent.Routes{Routes: []*agent.Route{
		{Gateway: "10.0.2.2", Device: "eth0"}, {Dest: "192.168.7.0/24", Device: "eth0"},
	}}
	for range 2 { // the second time changes nothing
		if err := update(hardware); err != nil {
			t.Fatal(err)
		}
		if _, err := a.UpdateRoutes(t.Context(), &agent.UpdateRoutesRequest{Routes: want}); err != nil {
			t.Fatal(err)
		}
	}
	link2, err := netlink.LinkByName("eth0")
	if err != nil || link2.Attrs().MTU != 1400 {
		t.Fatalf("%+v, %v", link2, err)
	}
	addresses, _ := netlink.AddrList(link2, netlink.FAMILY_V4)
	if len(addresses) != 1 || addresses[0].IPNet.String() != "10.0.2.15/24" {
		t.Errorf("addresses %v", addresses)
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
	var got []string
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_STATIC {
			got = append(got, r.Dst.String()+" "+r.Gw.String())
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"0.0.0.0/0 10.0.2.2", "192.168.7.0/24 <nil>"}) {
		t.Errorf("routes %v", got)
	}
	if own := a.network.addresses(); len(own) != 1 || own[0].String() != "10.0.2.15" {
		t.Errorf("own addresses %v", own)
	}
	listed, err := a.ListInterfaces(t.Context(), &agent.ListInterfacesRequest{})
	if err != nil || len(listed.Interfaces) != 1 || listed.Interfaces[0].HwAddr != hardware ||
		listed.Interfaces[0].Mtu != 1400 {
		t.Errorf("interfaces %v, %v", listed, err)
	}
	known, err := a.ListRoutes(t.Context(), &agent.ListRoutesRequest{})
	if err != nil || !slices.ContainsFunc(known.Routes, func(r *agent.Route) bool {
		return r.Dest == "" && r.Gateway == "10.0.2.2" && r.Device == "eth0"
	}) {
		t.Errorf("routes %v, %v", known, err)
	}
	if _, err := a.AddARPNeighbors(t.Context(), &agent.AddARPNeighborsRequest{
		Neighbors: &agent.ARPNeighbors{ARPNeighbors: []*agent.ARPNeighbor{goodNeighbour(nil)}},
	}); err != nil {
		t.Error(err)
	}
	neighbours, _ := netlink.NeighList(link2.Attrs().Index, netlink.FAMILY_V4)
	if len(neighbours) != 1 || neighbours[0].HardwareAddr.String() != "02:00:00:00:00:02" {
		t.Errorf("neighbours %v", neighbours)
	}
	if err := update("02:00:00:00:00:99"); status.Code(err) != codes.NotFound {
		t.Errorf("an interface that is not there: %v", err)
	}
}
