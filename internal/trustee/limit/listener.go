// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"net"
	"net/netip"
	"sync"
)

// Listener accepts connections of which each client has at most so many; further ones are closed at once. Proxies of
// the origin carry everybody's requests and are bounded by the listener below only.
type Listener struct {
	net.Listener
	Each    *Shares // of connections
	Origin  Origin
	Refused func() // is told of each connection that was closed
}

// Accept returns the next connection of a client that has not too many.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote := conn.RemoteAddr().String()
		if l.Origin.Proxy(remote) {
			return conn, nil
		}
		client := l.Origin.Client(remote, nil)
		if !l.Each.Take(client, 1) {
			_ = conn.Close() // there is nobody to tell
			l.Refused()
			continue
		}
		return &counted{Conn: conn, client: client, shares: l.Each}, nil
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	client netip.Prefix
	shares *Shares
	once   sync.Once
}

func (c *counted) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.shares.Give(c.client, 1) })
	return err
}
