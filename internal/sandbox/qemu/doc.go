// SPDX-License-Identifier: Apache-2.0

// Package qemu describes a virtual machine as data and turns the description into QEMU's argument list.
//
// The list is a pure function of the description: the same Machine gives the same arguments, byte for byte, so that what is
// started can be compared with what was measured, and golden files show every platform's line. Nothing is opened here, nothing
// is started, no path is looked up.
//
// A Machine names no file. Firmware, kernel, initrd and drives, as well as the host ends of console, ports and control
// channel, are file descriptors that the starter passes on: what was opened once (and hashed) is what QEMU reads, and there is
// no name in a file system that somebody could exchange in between.
//
// The package trusts its caller for the numbers of the descriptors and nobody for strings: what ends up inside one of QEMU's
// comma-separated options is checked against the alphabet that it needs.
package qemu
