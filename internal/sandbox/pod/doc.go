// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package pod runs an ordinary Kubernetes Pod in a guest, by the requests of the Kata agent protocol that an ordinary pod
// needs and no others.
//
// It translates and asks; it decides nothing. Image content never passes through it: it sends the reference and the guest
// pulls. Whether a request is granted is up to the guest's policy, and what a guest answers is hostile: exit codes and output
// are taken as they come, and every size has a cap.
//
// Secrets beside the pod go into the guest as they stand: into the environment, or as copied files. This package opens no sealed
// one; the guest does.
//
// A manifest says more than this package can do. What it cannot do it refuses by name, so that no field is dropped in silence.
package pod
