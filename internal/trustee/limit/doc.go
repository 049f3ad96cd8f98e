// SPDX-License-Identifier: Apache-2.0

// Package limit bounds what one client, and all clients together, can make the trustee do for nothing: refusals that
// cost work (Refusals), and what is held at the same time, bytes, requests or connections (Shares).
//
// A client is a network, not a connection: one IPv4 address, or one IPv6 /64, since who has one address of a /64 has
// all of them (Client). Guests behind one address are one client. Nothing here needs an authenticated name, and
// nothing here says who may have what: a limit only ever makes somebody wait.
//
// It trusts nobody's word for an address. Forwarded headers count only when a proxy wrote them that the configuration
// names (Origin). Its memory is bounded, and filling it takes no debt off anybody.
package limit
