// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// maxNeighbours caps the neighbours that a host can set altogether: the kernel does not, for permanent ones.
const maxNeighbours = 256

// neighbour is where one address of the network is.
type neighbour struct {
	address  netip.Addr
	device   string
	hardware net.HardwareAddr
	state    int // NUD_*
}

// neighbourKey is what two requests must have in common to be about the same.
type neighbourKey struct {
	address netip.Addr
	device  string
}

// AddARPNeighbors says at which hardware addresses neighbours are, so that nobody need ask. All or none are checked
// before the first is set.
func (a *Agent) AddARPNeighbors(_ context.Context, r *agent.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	asked := r.GetNeighbors().GetARPNeighbors()
	if len(asked) > maxNeighbours {
		return nil, invalid("%d neighbours, at most %d are set", len(asked), maxNeighbours)
	}
	wanted := make([]neighbour, 0, len(asked))
	for _, one := range asked {
		want, err := parseNeighbour(one)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, want)
	}
	a.network.mu.Lock()
	defer a.network.mu.Unlock()
	if err := a.network.enter(wanted); err != nil {
		return nil, err
	}
	for _, want := range wanted {
		if err := want.apply(); err != nil {
			return nil, failed("setting the neighbour "+want.address.String(), err)
		}
	}
	return nothing, nil
}

// enter counts neighbours that are new. The caller holds mu.
func (n *network) enter(wanted []neighbour) error {
	fresh := map[neighbourKey]bool{}
	for _, want := range wanted {
		if key := (neighbourKey{want.address, want.device}); !n.neighbours[key] {
			fresh[key] = true
		}
	}
	if len(n.neighbours)+len(fresh) > maxNeighbours {
		return status.Errorf(codes.ResourceExhausted, "%d neighbours are set, no more than %d are", len(n.neighbours),
			maxNeighbours)
	}
	if n.neighbours == nil {
		n.neighbours = map[neighbourKey]bool{}
	}
	for key := range fresh {
		n.neighbours[key] = true
	}
	return nil
}

func parseNeighbour(n *agent.ARPNeighbor) (neighbour, error) {
	var want neighbour
	address, err := parseAddress(n.GetToIPAddress().GetAddress())
	if err != nil {
		return want, invalid("neighbour: %v", err)
	}
	if address.IsMulticast() || address.IsUnspecified() {
		return want, invalid("neighbour: %v is not the address of one machine", address)
	}
	if !interfaceName(n.Device) {
		return want, invalid("neighbour %v: device %.100q is not allowed", address, n.Device)
	}
	hardware, err := parseHardware(n.Lladdr)
	if err != nil {
		return want, invalid("neighbour %v: %v", address, err)
	}
	switch n.State {
	case 0, unix.NUD_PERMANENT, unix.NUD_REACHABLE, unix.NUD_STALE, unix.NUD_NOARP:
	default:
		return want, invalid("neighbour %v: state %#x cannot be set", address, n.State)
	}
	if n.Flags != 0 {
		return want, invalid("neighbour %v: flags %#x, none can be set", address, n.Flags)
	}
	want = neighbour{address: address, device: n.Device, hardware: hardware, state: int(n.State)}
	if want.state == 0 {
		want.state = unix.NUD_PERMANENT
	}
	return want, nil
}

func (want neighbour) apply() error {
	link, err := netlink.LinkByName(want.device)
	if err != nil {
		return status.Errorf(codes.NotFound, "there is no interface %s", want.device)
	}
	family := netlink.FAMILY_V6
	if want.address.Is4() {
		family = netlink.FAMILY_V4
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family, State: want.state, IP: want.address.AsSlice(),
		HardwareAddr: want.hardware,
	})
}

// hostLinks are the network interfaces but the loopback, which is not the host's.
func hostLinks() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the interfaces: %w", err)
	}
	var out []netlink.Link
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 && len(out) < maxLinks {
			out = append(out, l)
		}
	}
	return out, nil
}

// ListInterfaces says which network interfaces there are, and how they are configured.
func (a *Agent) ListInterfaces(context.Context, *agent.ListInterfacesRequest) (*agent.Interfaces, error) {
	links, err := hostLinks()
	if err != nil {
		return nil, failed("listing the network", err)
	}
	out := &agent.Interfaces{}
	for _, l := range links {
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, failed("listing the network", err)
		}
		entry := &agent.Interface{
			Device: l.Attrs().Name, Name: l.Attrs().Name, Mtu: uint64(l.Attrs().MTU), Type: l.Type(),
			HwAddr: l.Attrs().HardwareAddr.String(), RawFlags: l.Attrs().RawFlags & unix.IFF_NOARP,
		}
		for _, found := range addresses[:min(len(addresses), maxAddresses)] {
			ip, ok := netip.AddrFromSlice(found.IP)
			if !ok {
				continue
			}
			bits, _ := found.Mask.Size()
			entry.IPAddresses = append(entry.IPAddresses, &agent.IPAddress{
				Family: familyOf(ip.Unmap()), Address: ip.Unmap().String(), Mask: strconv.Itoa(bits),
			})
		}
		out.Interfaces = append(out.Interfaces, entry)
	}
	return out, nil
}

// ListRoutes says which routes there are to other machines.
func (a *Agent) ListRoutes(context.Context, *agent.ListRoutesRequest) (*agent.Routes, error) {
	links, err := hostLinks()
	if err != nil {
		return nil, failed("listing the routes", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, failed("listing the routes", err)
	}
	out := &agent.Routes{}
	for _, r := range routes {
		device, known := names[r.LinkIndex]
		if !known || r.Type != unix.RTN_UNICAST || len(out.Routes) >= maxRoutes {
			continue
		}
		entry := &agent.Route{
			Device: device, Scope: uint32(r.Scope), Flags: uint32(r.Flags), Mtu: uint32(r.MTU),
		}
		if r.Family == netlink.FAMILY_V6 {
			entry.Family = agent.IPFamily_v6
		}
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				entry.Dest = r.Dst.String()
			}
		}
		if r.Gw != nil {
			entry.Gateway = r.Gw.String()
		}
		if r.Src != nil {
			entry.Source = r.Src.String()
		}
		out.Routes = append(out.Routes, entry)
	}
	return out, nil
}

func familyOf(ip netip.Addr) agent.IPFamily {
	if ip.Is4() {
		return agent.IPFamily_v4
	}
	return agent.IPFamily_v6
}
