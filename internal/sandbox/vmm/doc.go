// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package vmm runs a described machine as a QEMU process and ends it for certain.
//
// The process gets the descriptors that the description names and nothing else of ours: an empty environment, no capability to
// open what the caller opened, and, when the caller is root, a user of its own. It dies with its parent, however that ends.
//
// QEMU executes a hostile guest, so what comes out of it is hostile too: every line of its control channel is capped, and its
// complaints are kept only in part.
package vmm
