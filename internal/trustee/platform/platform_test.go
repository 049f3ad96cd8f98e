// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/test/machine"
)

// Audit is about reports, not about the envelopes they come in, and only about reports whose signature was found valid.
func TestDescriptionOfRefusedReports(t *testing.T) {
	platform, err := machine.Lazy("ours")()
	if err != nil {
		t.Fatal(err)
	}
	launch := signer.Launch{Measurement: [48]byte{1, 2}, HostData: [32]byte{3}}
	processor := platform.Launch(launch)
	one, err := processor.Evidence([]byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := processor.Evidence([]byte("other"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]any
	if err := json.Unmarshal(one, &parsed); err != nil {
		t.Fatal(err)
	}
	parsed["cert_chain"] = nil
	bare, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	p := SNP(snp.Config{Roots: []snp.Root{platform.Root()}})
	describe := func(evidence json.RawMessage) string {
		d, ok := p.Describe(evidence, attest.CodeReportDataMismatch)
		if !ok || !strings.HasPrefix(d.Measurement, "0102") || !strings.HasPrefix(d.InitData, "03") ||
			d.Identity == "" {
			t.Errorf("%+v, %v", d, ok)
		}
		return d.Identity
	}
	if describe(one) != describe(bare) {
		t.Error("the same report in another envelope counts as another")
	}
	if describe(one) == describe(other) {
		t.Error("two reports count as one")
	}
	d, _ := p.Describe(one, attest.CodeReportDataMismatch)
	if root, simulated := d.Origin(t.Context()); !strings.HasPrefix(root, "simulated sha256:") || !simulated {
		t.Errorf("origin %q, simulated %t", root, simulated)
	}
	if _, ok := p.Describe(json.RawMessage("{}"), attest.CodeReportDataMismatch); ok {
		t.Error("what is no report was described")
	}
	for _, code := range []attest.Code{attest.CodeEvidenceMalformed, attest.CodeEvidenceUnsupported,
		attest.CodeRootUntrusted,
		attest.CodeCertificateInvalid, attest.CodeCertificateExpired, attest.CodeSignatureInvalid,
		attest.CodeCollateralUnavailable, "", "new"} {
		if _, ok := p.Describe(one, code); ok {
			t.Errorf("%s does not say that the signature is valid", code)
		}
	}
}
