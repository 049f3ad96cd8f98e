// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Bits of an address that tell clients apart.
const (
	bitsV4 = 32
	bitsV6 = 64
)

// Client returns the network that an address counts as. The zero prefix stands for an address that is none.
func Client(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := bitsV6
	if addr.Is4() {
		bits = bitsV4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Origin says where requests come from. The zero value believes no header.
type Origin struct{ proxies []netip.Prefix }

// maxProxies caps how many proxies a request is followed back through.
const maxProxies = 16

// NewOrigin returns an origin that believes the header X-Forwarded-For of proxies in the given networks: addresses, or
// prefixes such as 10.0.0.0/8.
func NewOrigin(proxies []string) (Origin, error) {
	var o Origin
	for _, text := range proxies {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, failed := netip.ParseAddr(text)
			if failed != nil || addr.Zone() != "" {
				return Origin{}, fmt.Errorf("%q is neither an address nor a prefix such as 10.0.0.0/8", text)
			}
			addr = addr.Unmap()
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Bits() == 0 {
			return Origin{}, fmt.Errorf("%q is everybody: then anybody could give himself any address", text)
		}
		o.proxies = append(o.proxies, prefix.Masked())
	}
	return o, nil
}

// Proxy says whether a connection's far end ("address:port") is one of the proxies.
func (o Origin) Proxy(remote string) bool {
	addr, ok := parseHost(remote)
	return ok && o.listed(addr)
}

func (o Origin) listed(addr netip.Addr) bool {
	return slices.ContainsFunc(o.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Client returns who sent a request: the connection's far end ("address:port"), or, when that is a proxy of the
// configuration, the nearest address before it in the values of X-Forwarded-For that is not one. What is further away
// was written by strangers. A header that cannot be read leaves the nearest proxy as the client.
func (o Origin) Client(remote string, forwarded []string) netip.Prefix {
	addr, ok := parseHost(remote)
	if !ok {
		return netip.Prefix{}
	}
	if len(o.proxies) == 0 || len(forwarded) == 0 || !o.listed(addr) {
		return Client(addr)
	}
	rest := strings.Join(forwarded, ",")
	for range maxProxies {
		i := strings.LastIndexByte(rest, ',')
		before, ok := parseHost(strings.TrimSpace(rest[i+1:]))
		if !ok {
			break
		}
		addr = before
		if !o.listed(addr) || i < 0 {
			break
		}
		rest = rest[:i]
	}
	return Client(addr)
}

// parseHost reads "address", "address:port" or "[address]:port".
func parseHost(text string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap(), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return addr.Unmap(), err == nil
}
