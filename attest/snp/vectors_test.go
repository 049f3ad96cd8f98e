// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// vector reads real evidence. NACRE_VECTORS names the directory that has it.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("NACRE_VECTORS")
	if dir == "" {
		t.Skip("NACRE_VECTORS is not set: the real vectors are not there to test against")
	}
	b, err := os.ReadFile(filepath.Join(dir, "snp", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// at is a clock that stands still.
func at(year int, month time.Month) func() time.Time {
	return func() time.Time { return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC) }
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectorGenoa(t *testing.T) {
	document := vector(t, "genoa-evidence.json")
	e, err := snp.ParseEvidence(document)
	if err != nil {
		t.Fatal(err)
	}

	v := snp.NewVerifier(snp.Config{Now: at(2026, time.November)})
	claims, err := v.Verify(t.Context(), document, attest.Expected{
		ReportData: e.Report.ReportData[:], InitDataDigest: make([]byte, 32),
	})
	if err != nil {
		t.Fatal(err)
	}
	if claims.Simulated || claims.Root != "AMD ARK-Genoa" {
		t.Errorf("the chain ended in %q, simulated %v; wanted AMD's own", claims.Root, claims.Simulated)
	}
	for name, want := range map[string]any{
		"measurement":             hex.EncodeToString(e.Report.Measurement[:]),
		"reported_tcb_bootloader": int64(10),
		"reported_tcb_tee":        int64(0),
		"reported_tcb_snp":        int64(23),
		"reported_tcb_microcode":  int64(25),
		"policy_abi_major":        int64(0),
		"policy_abi_minor":        int64(0),
		"policy_smt_allowed":      true,
		"policy_migrate_ma":       false,
		"policy_debug_allowed":    false,
		"policy_single_socket":    false,
		"platform_smt_enabled":    true,
		"platform_tsme_enabled":   false,
		"init_data":               hex.EncodeToString(make([]byte, 32)),
		"product":                 "Genoa",
	} {
		if got := claims.Values[name]; got != want {
			t.Errorf("claim %s is %v, wanted %v", name, got, want)
		}
	}
}

// TestVectorIdentity puts the signed bytes together from the document and the document from those bytes and the
// certificates: the file is the compact form of itself.
func TestVectorIdentity(t *testing.T) {
	document := vector(t, "genoa-evidence.json")
	e, err := snp.ParseEvidence(document)
	if err != nil {
		t.Fatal(err)
	}
	table, err := snp.MarshalCertTable(e.Certs)
	if err != nil {
		t.Fatal(err)
	}

	report, err := snp.ParseReport(e.Report.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	certs, err := snp.ParseCertTable(table)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(&snp.Evidence{Report: report, Certs: certs})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, document) {
		t.Errorf("document, bytes, document is not the identity:\n%s\n%s", document, again)
	}
}

func TestVectorReports(t *testing.T) {
	for _, name := range []string{"test-report.bin", "test-vlek-report.bin"} {
		b := vector(t, name)
		r, err := snp.ParseReport(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Errorf("%s: bytes, report, bytes is not the identity", name)
		}
	}
}

func TestVectorsMilan(t *testing.T) {
	const (
		vcekData = "ec6c52d7533cc2c4f45be7849cf112ab82b2009fe7bd43e71ed08c14400ad7e2"
		early    = 2025
		late     = 2026 // when the VLEK has run out
	)
	for _, test := range []struct {
		name   string
		report string
		kind   snp.CertType
		cert   string
		year   int
		want   attest.Code
	}{
		{"VCEK", "test-report.bin", snp.CertVCEK, "test-vcek.der", late, ""},
		{"VCEK that AMD did not sign", "test-report.bin", snp.CertVCEK, "test-vcek-invalid-new.der", late,
			attest.CodeRootUntrusted},
		{"VLEK passed off as VCEK", "test-report.bin", snp.CertVCEK, "test-vlek.der", early, attest.CodeCertificateInvalid},
		{"VLEK that has run out", "test-vlek-report.bin", snp.CertVLEK, "test-vlek.der", late,
			attest.CodeCertificateExpired},
		{"VLEK at VMPL 1", "test-vlek-report.bin", snp.CertVLEK, "test-vlek.der", early, attest.CodeVMPLNotZero},
		{"VLEK report without its VLEK", "test-vlek-report.bin", snp.CertVCEK, "test-vcek.der", early,
			attest.CodeCollateralUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			report, err := snp.ParseReport(vector(t, test.report))
			if err != nil {
				t.Fatal(err)
			}
			document, err := json.Marshal(&snp.Evidence{
				Report: report, Certs: []snp.Cert{{Type: test.kind, Data: vector(t, test.cert)}},
			})
			if err != nil {
				t.Fatal(err)
			}
			want := attest.Expected{ReportData: report.ReportData[:]}
			if report.VMPL == 0 {
				want.ReportData = unhex(t, vcekData) // padded by the verifier
			}
			v := snp.NewVerifier(snp.Config{Now: at(test.year, time.November)})
			_, err = v.Verify(t.Context(), document, want)
			if got := attest.CodeOf(err); got != test.want {
				t.Errorf("code %q, wanted %q: %v", got, test.want, err)
			}
		})
	}
}
