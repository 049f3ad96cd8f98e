// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package sandbox runs one guest: it boots the measured image in a microVM, binds the init-data into the launch, and hands out
// the guest's agent once that listens.
//
// Where the machine has no TEE, the sandbox also stands in for the secure processor (attest/simtee): it computes the launch
// measurement with the platform's real algorithm over the very bytes that it boots, and signs what the guest asks for with a
// key chain that is marked as simulated. Under QEMU's translator the measured firmware is hashed but not executed.
//
// The sandbox is the host, the adversary of everything that it runs, and so it is trusted with nothing: all that it could
// change is measured or bound, and Tamper exists so that tests and demonstrations can change it. The other way round the guest
// is hostile too: what it prints is capped and cleaned, what it sends passes capped parsers, and what executes it is confined.
//
// The package knows nothing of pods (see sandbox/pod) and nothing of secrets.
package sandbox
