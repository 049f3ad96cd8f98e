// SPDX-License-Identifier: Apache-2.0

// Package unpack turns the tar stream of one image layer into a directory tree that overlayfs takes as a lower layer.
//
// A layer is foreign bytes with the power to make files, links and owners, so it is unpacked by a child process that
// has nothing worth taking: [Sandbox] executes the running program again, [Main] confines itself before it reads the
// first byte. The child lives in user, mount, PID, network, IPC and UTS namespaces of its own, its root directory is
// the layer's directory and holds nothing else, it has no environment, no descriptors but the stream and a status
// pipe, and of the capabilities only CHOWN, DAC_OVERRIDE, FOWNER, FSETID and SETFCAP, in its own user namespace. That
// namespace maps every identity to itself, so that owners come out as the layer says, while the kernel refuses device
// nodes and the "trusted." extended attributes whatever the code does.
//
// Two independent walls keep an entry inside: the root directory of the child, and openat2(2) with RESOLVE_IN_ROOT in
// [Extract], which is what the tests attack, outside of any sandbox.
//
// The result speaks overlayfs's language (Linux, Documentation/filesystems/overlayfs.rst): a whiteout is a character
// device 0:0, which needs no privilege to make, and an opaque directory carries user.overlay.opaque. The overlay must
// therefore be mounted with the option "userxattr", and the file system below must know user attributes (tmpfs: since
// Linux 6.6); where it does not, unpacking fails rather than let a deleted file appear again.
//
// What is not reproduced: device nodes (a container gets its devices from its runtime; they are counted and left out,
// as every engine in a user namespace does), extended attributes other than security.capability and user.*, access
// times, and sparse files' holes. A hard link must point to a file of the same layer. Whiteouts hide lower layers
// only: an entry of the same layer under the same name stays, in whichever order the two come.
//
// The result is compared with that of containerd's unpacking; what differs, and why, is the table of
// TestAgainstContainerd.
//
// The package does not decompress, verifies no digest, and fetches nothing.
package unpack
