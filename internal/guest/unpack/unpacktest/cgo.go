// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package unpacktest

// selfConfines says whether a test's own binary can be the unpacking child. It may hold C code (the race detector's),
// and then Go cannot drop the privileges of all its threads.
const selfConfines = false
