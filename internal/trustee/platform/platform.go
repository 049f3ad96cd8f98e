// SPDX-License-Identifier: Apache-2.0

// Package platform makes the kinds of evidence that a trustee accepts out of the verifiers that there are: it adds
// what audit wants to know of evidence that a verifier refused.
//
// It says nothing about which platforms a trustee accepts; the program puts them into a map by name.
package platform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/internal/trustee/broker"
)

// SNP is AMD SEV-SNP.
func SNP(c snp.Config) broker.Platform {
	v := snp.NewVerifier(c)
	return broker.Platform{Verifier: v, Describe: func(evidence json.RawMessage,
		code attest.Code) (broker.Description, bool) {
		return describeSNP(v, evidence, code)
	}}
}

// authenticSNP are the codes with which the verifier refuses a report whose signature and chain it has found valid.
// They follow from the order of its checks.
var authenticSNP = map[attest.Code]bool{
	attest.CodeChipIDMismatch:     true,
	attest.CodeTCBMismatch:        true,
	attest.CodeVMPLNotZero:        true,
	attest.CodeDebugEnabled:       true,
	attest.CodeReportDataMismatch: true,
	attest.CodeInitDataMismatch:   true,
}

// signedSNP is how much of a report is signed, in bytes ("SEV Secure Nested Paging Firmware ABI Specification",
// 56860, table 23).
const signedSNP = 0x2A0

func describeSNP(v *snp.Verifier, evidence json.RawMessage, code attest.Code) (broker.Description, bool) {
	if !authenticSNP[code] {
		return broker.Description{}, false
	}
	e, err := snp.ParseEvidence(evidence)
	if err != nil {
		return broker.Description{}, false
	}
	digest := sha256.Sum256(e.Report.Marshal()[:signedSNP])
	return broker.Description{
		Identity:    hex.EncodeToString(digest[:]),
		Measurement: hex.EncodeToString(e.Report.Measurement[:]),
		InitData:    hex.EncodeToString(e.Report.HostData[:]),
		Origin: func(ctx context.Context) (string, bool) {
			// A report that was refused for what it is bound to verifies when it is asked for just that.
			claims, err := v.VerifyReport(ctx, e, attest.Expected{ReportData: e.Report.ReportData[:]})
			if err != nil {
				return "", false
			}
			return claims.Root, claims.Simulated
		},
	}, true
}
