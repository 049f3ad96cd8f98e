// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"fmt"
	"testing"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// Whoever has one genuine report sends it with certificates that nobody needs, other ones each time, so that the
// chains of others are forgotten.
func TestAttackForgettingChains(t *testing.T) {
	s := newScene(t, must(t, genoaVendor))
	sign(t, s.report, s.signer)
	vek := s.issueVEK(t)
	v := snp.NewVerifier(s.config)
	for i := range 8 {
		e := &snp.Evidence{Report: s.report, Certs: []snp.Cert{
			{Type: snp.CertVCEK, Data: vek}, {Type: snp.CertASK, Data: fmt.Append(nil, "junk ", i)},
		}}
		if _, err := v.VerifyReport(t.Context(), e, s.want); err != nil {
			t.Fatal(err)
		}
	}
	if got := v.Remembered(); got != 1 {
		t.Errorf("%d chains are remembered of one certificate", got)
	}
}

// Each intermediate that is tried costs an RSA verification.
func TestAttackManyIntermediates(t *testing.T) {
	stranger := must(t, func() (*vendor, error) { return newVendor(snp.Genoa) })
	for _, test := range []struct {
		strangers int
		want      attest.Code
	}{{0, ""}, {1, ""}, {2, attest.CodeRootUntrusted}} {
		t.Run(fmt.Sprint(test.strangers, " before the right one"), func(t *testing.T) {
			s := newScene(t, must(t, genoaVendor))
			s.config.Roots[0].ASK = nil
			s.certs = func(vek []byte) []snp.Cert {
				certs := []snp.Cert{{Type: snp.CertVCEK, Data: vek}}
				for range test.strangers {
					certs = append(certs, snp.Cert{Type: snp.CertASK, Data: stranger.ask.Raw})
				}
				return append(certs, snp.Cert{Type: snp.CertASK, Data: s.vendor.ask.Raw})
			}
			v := snp.NewVerifier(s.config)
			evidence := s.evidence(t)
			for range 2 { // the second time from what is remembered
				_, err := v.Verify(t.Context(), evidence, s.want)
				if got := attest.CodeOf(err); got != test.want || got == "" && err != nil {
					t.Errorf("code %q, wanted %q: %v", got, test.want, err)
				}
			}
		})
	}
}
