// SPDX-License-Identifier: Apache-2.0

// Package aa is the guest's attestation agent: it gets the broker's tokens for the guest, and keeps them.
//
// Nothing is attested before somebody asks for a token. Then the guest makes a key pair, shows evidence that is bound
// to it and to the broker's nonce together with the init-data that it was launched with, and keeps the token and the
// key until the token is about to expire, or the broker does not take it any more. The private half lives in this
// process, is replaced with each attestation, and leaves by no interface.
//
// It trusts the attester's evidence to be of this guest, and the broker whom the measured configuration names; it
// believes nothing of the clock, so a token's life is counted from the moment before it was asked for.
//
// Whoever can make a workload ask for secrets can make the guest ask for tokens. How often it does is bounded, for
// platforms and brokers alike; in between, callers get the last failure.
//
// [Server] speaks the stock agent's ttrpc protocol to programs of the measured image. It tells what platform this is.
// It signs nothing for callers and hands no keys out: evidence for report data that somebody else chose would let him
// pose as this guest. There is no sample platform to fall back to.
package aa
