// SPDX-License-Identifier: Apache-2.0

// Package broker is the trustee's front: the key broker protocol over HTTP (spec/trustee.md §1), the administrators'
// interface, the token keys, health and metrics.
//
// It carries requests from room to room and decides nothing itself: verifiers say what evidence is worth, appraisal
// rates it, release decides, plugins answer. What it does see to: a challenge costs it no memory, a nonce is used
// once, the answer leaves after its audit record has reached stable storage, everything foreign is capped, and what
// was wanted and got stays in the owner's log and audit under the request's id.
//
// It trusts nobody who connects. Its handlers say by their type who may call them.
package broker
