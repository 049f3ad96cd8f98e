// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// Limits of the network configuration.
const (
	maxAddresses = 16
	maxRoutes    = 64
	minMTU       = 68 // RFC 791
	maxMTU       = 65535
)

// network is the pod's network, which is the guest's. The host configures it, and carries every packet anyway; what it
// must not get is the loopback interface, where the guest's services for its containers listen.
type network struct {
	mu  sync.Mutex
	own []netip.Addr // addresses that the host has set

	neighbours map[neighbourKey]bool // that it has set
}

// addresses returns what the host has set, in its order.
func (n *network) addresses() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]netip.Addr(nil), n.own...)
}

// UpdateInterface names a network interface, found by its hardware address, sets its addresses and brings it up.
func (a *Agent) UpdateInterface(_ context.Context, r *agent.UpdateInterfaceRequest) (*agent.Interface, error) {
	want, err := parseInterface(r.Interface)
	if err != nil {
		return nil, err
	}
	a.network.mu.Lock()
	defer a.network.mu.Unlock()
	if err := want.apply(); err != nil {
		return nil, failed("configuring the network interface "+want.name, err)
	}
	a.network.own = a.network.own[:0]
	for _, p := range want.addresses {
		a.network.own = append(a.network.own, p.Addr())
	}
	return r.Interface, nil
}

type networkInterface struct {
	name      string
	hardware  net.HardwareAddr
	addresses []netip.Prefix // with the host part
	mtu       int            // 0 leaves it
	noARP     bool
}

// interfaceName says whether a request may give an interface this name; the loopback interface's it may not.
func interfaceName(name string) bool {
	return len(name) < unix.IFNAMSIZ && name != "lo" && checkIdentifier("interface", name) == nil
}

func parseInterface(i *agent.Interface) (networkInterface, error) {
	var want networkInterface
	if i == nil {
		return want, invalid("no interface to configure")
	}
	if !interfaceName(i.Name) {
		return want, invalid("interface name %.100q is not allowed", i.Name)
	}
	want.name = i.Name
	hardware, err := parseHardware(i.HwAddr)
	if err != nil {
		return want, invalid("interface %s: %v", i.Name, err)
	}
	want.hardware = hardware
	if i.Mtu != 0 && (i.Mtu < minMTU || i.Mtu > maxMTU) {
		return want, invalid("interface %s: MTU %d, want %d to %d", i.Name, i.Mtu, minMTU, maxMTU)
	}
	want.mtu = int(i.Mtu)
	switch i.RawFlags {
	case 0:
	case unix.IFF_NOARP:
		want.noARP = true
	default:
		return want, invalid("interface %s: flags %#x, only %#x (no ARP) can be set", i.Name, i.RawFlags,
			unix.IFF_NOARP)
	}
	if len(i.IPAddresses) == 0 || len(i.IPAddresses) > maxAddresses {
		return want, invalid("interface %s: %d addresses, want 1 to %d", i.Name, len(i.IPAddresses), maxAddresses)
	}
	for _, ip := range i.IPAddresses {
		prefix, err := parsePrefix(ip)
		if err != nil {
			return want, invalid("interface %s: %v", i.Name, err)
		}
		want.addresses = append(want.addresses, prefix)
	}
	return want, nil
}

func parseHardware(text string) (net.HardwareAddr, error) {
	hardware, err := net.ParseMAC(text)
	if err != nil || len(hardware) != 6 || hardware[0]&1 != 0 || hardware.String() == "00:00:00:00:00:00" {
		return nil, fmt.Errorf("%.100q is not the hardware address of one Ethernet interface", text)
	}
	return hardware, nil
}

func parsePrefix(ip *agent.IPAddress) (netip.Prefix, error) {
	address, err := parseAddress(ip.GetAddress())
	if err != nil {
		return netip.Prefix{}, err
	}
	if address.IsMulticast() || address.IsUnspecified() {
		return netip.Prefix{}, fmt.Errorf("%v is not the address of an interface", address)
	}
	bits, err := strconv.ParseUint(ip.GetMask(), 10, 8)
	if err != nil || bits == 0 || int(bits) > address.BitLen() {
		return netip.Prefix{}, fmt.Errorf("mask %.100q of %v: want a prefix length", ip.GetMask(), address)
	}
	if (ip.Family == agent.IPFamily_v4) != address.Is4() {
		return netip.Prefix{}, fmt.Errorf("address %v is not of the family %v", address, ip.Family)
	}
	return netip.PrefixFrom(address, int(bits)), nil
}

// parseAddress refuses everything that leads to the loopback interface, in whatever notation.
func parseAddress(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.100q is not an address", text)
	}
	if address.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%v is an IPv4 address in IPv6 notation", address)
	}
	if address.IsLoopback() || address.Is4() && address.As4()[0] == 127 {
		return netip.Addr{}, fmt.Errorf("%v is a loopback address", address)
	}
	return address, nil
}

func (want networkInterface) apply() error {
	link, err := linkByHardware(want.hardware)
	if err != nil {
		return err
	}
	if link.Attrs().Name != want.name {
		if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, want.name)); err != nil {
			return fmt.Errorf("naming it: %w", err)
		}
	}
	if want.mtu > 0 {
		if err := netlink.LinkSetMTU(link, want.mtu); err != nil {
			return fmt.Errorf("setting its MTU: %w", err)
		}
	}
	if want.noARP {
		if err := netlink.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("turning ARP off: %w", err)
		}
	}
	had, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing its addresses: %w", err)
	}
	for _, old := range had {
		if ip, ok := netip.AddrFromSlice(old.IP); ok && ip.Unmap().IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &old); err != nil {
			return fmt.Errorf("removing the address %v: %w", old.IPNet, err)
		}
	}
	for _, p := range want.addresses {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
			return fmt.Errorf("adding the address %v: %w", p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing it up: %w", err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func linkByHardware(hardware net.HardwareAddr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 && l.Attrs().HardwareAddr.String() == hardware.String() {
			return l, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "there is no interface with the hardware address %v", hardware)
}

// UpdateRoutes replaces the routes that an earlier request has set, and answers with those that hold now.
func (a *Agent) UpdateRoutes(_ context.Context, r *agent.UpdateRoutesRequest) (*agent.Routes, error) {
	asked := r.GetRoutes().GetRoutes()
	if len(asked) > maxRoutes {
		return nil, invalid("%d routes, at most %d are set", len(asked), maxRoutes)
	}
	var direct, through []route
	for _, one := range asked {
		want, err := parseRoute(one)
		if err != nil {
			return nil, err
		}
		if want.gateway.IsValid() {
			through = append(through, want)
		} else {
			direct = append(direct, want) // first: a gateway must be reachable when its route is set
		}
	}
	a.network.mu.Lock()
	defer a.network.mu.Unlock()
	if err := replaceRoutes(append(direct, through...)); err != nil {
		return nil, failed("setting the routes", err)
	}
	return r.Routes, nil
}

type route struct {
	device          string
	dest            netip.Prefix // not valid: the default route
	gateway, source netip.Addr
	scope           netlink.Scope
	flags, mtu      int
	family          int
}

func parseRoute(r *agent.Route) (route, error) {
	var want route
	if r == nil {
		return want, invalid("an empty route")
	}
	if !interfaceName(r.Device) {
		return want, invalid("route to %.100q: device %.100q is not allowed", r.Dest, r.Device)
	}
	want = route{device: r.Device, family: netlink.FAMILY_V4}
	if r.Family == agent.IPFamily_v6 {
		want.family = netlink.FAMILY_V6
	}
	v4 := want.family == netlink.FAMILY_V4
	if r.Dest != "" {
		dest, err := netip.ParsePrefix(r.Dest)
		if err != nil || dest.Addr().Is4() != v4 || dest.Addr().Is4In6() || dest != dest.Masked() {
			return want, invalid("route: %.100q is not a network of the family %v", r.Dest, r.Family)
		}
		if dest.Bits() > 0 && (dest.Overlaps(loopback4) || dest.Overlaps(loopback6)) {
			return want, invalid("route to %v: that is the loopback network", dest)
		}
		want.dest = dest
	}
	for _, field := range []struct {
		text string
		to   *netip.Addr
	}{{r.Gateway, &want.gateway}, {r.Source, &want.source}} {
		if field.text == "" {
			continue
		}
		address, err := parseAddress(field.text)
		if err != nil || address.Is4() != v4 || address.IsMulticast() || address.IsUnspecified() {
			return want, invalid("route to %.100q: %.100q is not a usable address of the family %v", r.Dest, field.text,
				r.Family)
		}
		*field.to = address
	}
	if !want.dest.IsValid() && !want.gateway.IsValid() {
		return want, invalid("the default route has no gateway")
	}
	if r.Scope > 255 || r.Mtu > maxMTU {
		return want, invalid("route to %.100q: scope %d or MTU %d is out of range", r.Dest, r.Scope, r.Mtu)
	}
	const onLink = unix.RTNH_F_ONLINK
	if r.Flags&^onLink != 0 {
		return want, invalid("route to %.100q: flags %#x, only %#x (on-link) can be set", r.Dest, r.Flags, onLink)
	}
	want.scope, want.flags, want.mtu = netlink.Scope(r.Scope), int(r.Flags), int(r.Mtu)
	return want, nil
}

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

func replaceRoutes(wanted []route) error {
	old, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing the routes: %w", err)
	}
	for _, r := range old {
		// What the kernel made of the interfaces' addresses stays.
		if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Type != unix.RTN_UNICAST {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return fmt.Errorf("removing the route to %v: %w", r.Dst, err)
		}
	}
	for _, want := range wanted {
		link, err := netlink.LinkByName(want.device)
		if err != nil {
			return status.Errorf(codes.NotFound, "there is no interface %s", want.device)
		}
		r := &netlink.Route{
			LinkIndex: link.Attrs().Index, Scope: want.scope, Flags: want.flags, MTU: want.mtu, Family: want.family,
			Protocol: unix.RTPROT_STATIC,
		}
		if want.dest.IsValid() {
			r.Dst = ipNet(want.dest)
		}
		if want.gateway.IsValid() {
			r.Gw = want.gateway.AsSlice()
		}
		if want.source.IsValid() {
			r.Src = want.source.AsSlice()
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("adding the route to %v: %w", want.dest, err)
		}
	}
	return nil
}
