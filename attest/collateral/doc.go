// SPDX-License-Identifier: Apache-2.0

// Package collateral finds the certificates and status lists that verifiers need and evidence does not bring: it
// fetches, remembers, and keeps within what vendors' services bear.
//
// It trusts no source. What it returns is verified by whoever asked, under roots that this package does not know. Of
// its own accord it only checks that an answer is an answer to the question, so that a broken file or a confused
// service is passed over and not remembered.
//
// It reaches out only to services that its configuration names; the zero configuration reaches out to none.
package collateral
