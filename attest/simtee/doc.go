// SPDX-License-Identifier: Apache-2.0

// Package simtee is what the three sides of a simulated platform have in common: the file that carries a simulated
// root to whoever is to trust it, and the protocol by which a guest asks the simulated secure processor for a report.
//
// A simulated platform lets people develop without the hardware on the code path of the hardware: reports have the
// real format and are signed by a chain of real certificates. Only its root differs, which nobody trusts who was not
// told to. The signer is a package of its own that neither guests nor trustees link.
//
// The package trusts nothing: both directions of the protocol are foreign input to their reader, and every length in
// it has a bound.
package simtee
