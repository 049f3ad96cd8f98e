// SPDX-License-Identifier: Apache-2.0

package snp

// Remembered is how many verified chains v keeps.
func (v *Verifier) Remembered() int { return v.chains.verified.Len() }
