// SPDX-License-Identifier: Apache-2.0

// Package kbs speaks the key broker's protocol: the RCAR handshake (request, challenge, attestation, response;
// version 0.4.0), the encrypted resource envelope, resource URIs, the clients of guests and of administrators.
//
// It holds what both ends must agree on to the byte: message forms, the report data that binds evidence to a nonce
// and a key, the JWE envelope. It trusts nobody: messages are parsed strictly and with size caps on both ends. It
// verifies no evidence and takes no decision; it knows neither platforms nor policies.
package kbs
