// SPDX-License-Identifier: Apache-2.0

// Package transport carries byte streams between the host and a guest. It is the only internal room that two sides
// share, and neither side trusts the other: every frame is checked, every buffer is bounded (see the constants), and
// the first violation ends the session with an error that wraps ErrProtocol.
//
// Over a virtio-serial port, which is one byte stream, a multiplexer gives the host a Dial and the guest a net.Listener
// per port number, like vsock. The guest speaks first (hello) once it listens, so that hello means ready. Where the
// machine has a vsock device, vsock itself is used and nothing is multiplexed. When the host goes away the guest waits
// for the next one: its listeners outlive sessions.
//
// The package gives no confidentiality and no authentication: the host may read and change every byte. What a request
// may do is decided behind it, by the agent policy.
package transport
