// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
)

// Upstream's check of the chip id never runs, its certificates have no dates, and of init-data 32 bytes count
// (spec/trustee.md §8.2, S5). Revocation lists are not looked at here either: THREATS.md says so.
func TestS5ChipsAndCertificates(t *testing.T) {
	repel(t, attest.CodeChipIDMismatch,
		attack{"S5 chip id of another chip", func(_ *testing.T, s *scene) { s.report.ChipID[0] ^= 1 }})
	repel(t, attest.CodeCertificateExpired,
		attack{"S5 certificate that has run out", func(_ *testing.T, s *scene) {
			s.vek.NotAfter = s.config.Now().Add(-time.Second)
		}})
	repel(t, attest.CodeInitDataMismatch,
		attack{"S5 init-data of another launch", func(_ *testing.T, s *scene) { s.report.HostData[31] ^= 1 }})
}
