// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	sevtest "github.com/google/go-sev-guest/testing"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// go-sev-guest is an independent implementation of the same formats. Here it is the oracle: what both understand, both
// must understand alike, and neither may verify what the other's signer did not sign.

// oracleTime is within the validity of the oracle's certificates.
var oracleTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// oracle is the other implementation's signer.
var oracle = sync.OnceValues(func() (*sevtest.AmdSigner, error) {
	return sevtest.DefaultTestOnlyCertChain("Genoa-B1", oracleTime.AddDate(-1, 0, 0))
})

// oracleReport returns a report of the other implementation, signed by its signer after a change.
func oracleReport(t testing.TB, reportData [64]byte, change func([]byte)) []byte {
	t.Helper()
	signer := must(t, oracle)
	fms := abi.FmsToCpuid1Eax(0x19, 0x11, 0x01)
	report := sevtest.TestRawReportV3(reportData, fms)
	b := report[:snp.ReportSize]
	if change != nil {
		change(b)
	}
	r, s, err := signer.Sign(abi.SignedComponent(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := abi.SetSignature(r, s, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// verdicts asks both implementations about a report with the oracle's certificates.
func verdicts(t testing.TB, report []byte, reportData []byte) (ours, theirs error) {
	t.Helper()
	signer := must(t, oracle)
	v := snp.NewVerifier(snp.Config{
		Roots: []snp.Root{{Product: snp.Genoa, ARK: signer.Ark, ASK: signer.Ask, ASVK: signer.Asvk}},
		Now:   func() time.Time { return oracleTime },
		// The oracle leaves the guest's policy to another function.
		UnsafeAllowDebug: true,
	})
	r, ours := snp.ParseReport(report)
	if ours == nil {
		var document []byte
		document, ours = json.Marshal(&snp.Evidence{Report: r, Certs: []snp.Cert{
			{Type: snp.CertASK, Data: signer.Ask.Raw}, {Type: snp.CertVCEK, Data: signer.Vcek.Raw},
		}})
		if ours == nil {
			_, ours = v.Verify(t.Context(), document, attest.Expected{ReportData: reportData})
		}
	}

	parsed, theirs := abi.ReportToProto(report)
	if theirs == nil {
		theirs = verify.SnpAttestation(&spb.Attestation{
			Report: parsed,
			CertificateChain: &spb.CertificateChain{
				VcekCert: signer.Vcek.Raw, AskCert: signer.Ask.Raw, ArkCert: signer.Ark.Raw,
			},
		}, &verify.Options{
			DisableCertFetching: true, Now: oracleTime,
			TrustedRoots: map[string][]*trust.AMDRootCerts{"Genoa": {{
				ProductLine:  "Genoa",
				ProductCerts: &trust.ProductCerts{Ark: signer.Ark, Ask: signer.Ask, Asvk: signer.Asvk},
			}}},
		})
	}
	return ours, theirs
}

func TestOracleSignerVerifies(t *testing.T) {
	reportData := [64]byte{1, 2, 3}
	ours, theirs := verdicts(t, oracleReport(t, reportData, nil), reportData[:])
	if ours != nil || theirs != nil {
		t.Errorf("a report of the oracle's signer: we say %v, the oracle says %v", ours, theirs)
	}
}

// steppingAt is the one byte of which the oracle loses a part: it keeps four bits of the CPU's stepping.
const steppingAt = 0x18A

// TestOracleMutated changes each byte of a signed report in turn.
func TestOracleMutated(t *testing.T) {
	reportData := [64]byte{1, 2, 3}
	report := oracleReport(t, reportData, nil)
	step := 1
	if testing.Short() {
		step = 7
	}
	for at := 0; at < len(report); at += step {
		if at == steppingAt {
			continue
		}
		mutated := bytes.Clone(report)
		mutated[at] ^= 0x10
		ours, theirs := verdicts(t, mutated, reportData[:])
		if ours == nil || theirs == nil {
			t.Errorf("byte %#x changed: we say %v, the oracle says %v", at, ours, theirs)
		}
	}
}

// TestOracleParses compares what both make of random reports, field by field.
func TestOracleParses(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	both := 0
	for range 20_000 {
		version := 2 + random.Uint32N(4)
		b := numbered(version)
		for range 1 + random.IntN(4) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		b[steppingAt] &= 0x0F
		// What the oracle demands of fields that we leave to policies.
		copy(b[0x08:], []byte{1, 2, 0x03, 0, 0, 0, 0, 0})
		copy(b[0x48:], []byte{0, 0, 0, 0})
		copy(b[0x34:], []byte{1, 0, 0, 0})
		copy(b[0x4A0-368:], make([]byte, 368))

		ours, ourErr := snp.ParseReport(b)
		theirs, theirErr := abi.ReportToProto(b)
		if ourErr != nil || theirErr != nil {
			// The oracle knows mitigation vectors in all versions, and leaves the version to another function.
			if theirErr != nil && ourErr == nil {
				t.Fatalf("the oracle refuses %x: %v", b, theirErr)
			}
			continue
		}
		both++
		again, err := abi.ReportToAbiBytes(theirs)
		if err != nil || !bytes.Equal(again, ours.Marshal()) {
			t.Fatalf("%x: the oracle makes %x of it, we make %x, %v", b, again, ours.Marshal(), err)
		}
		for name, same := range map[string]bool{
			"policy":          theirs.GetPolicy() == uint64(ours.Policy),
			"vmpl":            theirs.GetVmpl() == ours.VMPL,
			"measurement":     bytes.Equal(theirs.GetMeasurement(), ours.Measurement[:]),
			"host data":       bytes.Equal(theirs.GetHostData(), ours.HostData[:]),
			"report data":     bytes.Equal(theirs.GetReportData(), ours.ReportData[:]),
			"chip id":         bytes.Equal(theirs.GetChipId(), ours.ChipID[:]),
			"reported TCB":    theirs.GetReportedTcb() == uint64(ours.ReportedTCB),
			"launch TCB":      theirs.GetLaunchTcb() == uint64(ours.LaunchTCB),
			"current build":   theirs.GetCurrentBuild() == uint32(ours.Current.Build),
			"committed major": theirs.GetCommittedMajor() == uint32(ours.Committed.Major),
			"mitigations":     theirs.GetCurrentMitVector() == ours.CurrentMitVector,
		} {
			if !same {
				t.Fatalf("%x: the %s is read differently", b, name)
			}
		}
	}
	if both < 1000 {
		t.Errorf("only %d random reports were understood by both: this test compares nothing", both)
	}
}

// TestOracleCertTable reads each other's certificate tables.
func TestOracleCertTable(t *testing.T) {
	theirTable, err := must(t, oracle).CertTableBytes()
	if err != nil {
		t.Fatal(err)
	}
	certs, err := snp.ParseCertTable(theirTable)
	if err != nil {
		t.Fatal(err)
	}
	ourTable, err := snp.MarshalCertTable(certs)
	if err != nil {
		t.Fatal(err)
	}
	var theirs, ours abi.CertTable
	if err := theirs.Unmarshal(theirTable); err != nil {
		t.Fatal(err)
	}
	if err := ours.Unmarshal(ourTable); err != nil {
		t.Fatal(err)
	}
	if len(certs) == 0 || len(theirs.Entries) != len(ours.Entries) {
		t.Fatalf("%d entries of theirs, %d of ours", len(theirs.Entries), len(ours.Entries))
	}
	for i := range theirs.Entries {
		a, b := theirs.Entries[i], ours.Entries[i]
		if a.GUID != b.GUID || !bytes.Equal(a.RawCert, b.RawCert) {
			t.Errorf("entry %d differs", i)
		}
	}
}

// TestOracleVectors has the oracle confirm what the vectors' tests say.
func TestOracleVectors(t *testing.T) {
	e, err := snp.ParseEvidence(vector(t, "genoa-evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := trust.ParseCert(e.Certs[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.SnpReportSignature(e.Report.Marshal(), cert); err != nil {
		t.Errorf("the oracle refuses the report that we put together: %v", err)
	}
}
