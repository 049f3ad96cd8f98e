// SPDX-License-Identifier: Apache-2.0

// Package sealed reads, writes and opens sealed secrets: texts that stand where a secret would, in an environment
// variable or a file, and that only a guest can turn into it. They have the form that Confidential Containers gave them,
//
//	sealed.<header>.<payload>.<signature>
//
// which is a compact JWS (RFC 7515) behind a prefix: three parts in base64url without padding. The header is
// {"alg":"ES256","kid":…}, the signature r‖s (64 bytes) over "<header>.<payload>". The payload names a resource of the
// trustee (vault), or brings the value encrypted under one (envelope).
//
// Whoever hands a sealed secret to a guest can read all of it, and is not trusted: it may be anything. Which keys may have
// signed one is what [Pins] say, by key id, before anything is fetched; the zero Pins open nothing. Of the payload
// nothing is read before its signature is verified. Texts have one encoding only, so that parse and format are inverse.
//
// The package asks nobody for anything: resources come from a [Resources] that the caller gives. Whether a resource is
// released is the trustee's decision, and where a sealed secret may be used the agent policy's: a signature says who
// sealed a value, not for what.
package sealed
