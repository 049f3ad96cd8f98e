// SPDX-License-Identifier: Apache-2.0

// Package snp reads and verifies the evidence of AMD SEV-SNP guests: attestation reports of versions 2 to 5, the
// certificate tables that hosts hand out, the evidence document of the RCAR protocol, and the chains of certificates
// that lead from a report's signing key to AMD.
//
// It trusts AMD's root keys, which are part of the package, and those that a Config names. It trusts nothing in the
// evidence: certificates that come along are used only where a trusted root signed them.
//
// It does not judge. Measurements, firmware levels and guest policies become claims, for a policy to compare with
// reference values. Four facts are refused here, because no claim of such a guest is worth anything: a report asked
// for by less than the most privileged level, memory open to the host's debugger, a binding to another session, and a
// binding to other init-data. Revocation lists are not read; AMD revokes by raising the least TCB, which is for policy.
//
// It does not fetch. An EndorsementSource does, where one is configured (package collateral).
package snp
