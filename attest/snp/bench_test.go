// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"math/big"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
)

// benchmarked returns evidence under a chain of AMD's key sizes, and how to verify it.
func benchmarked(b *testing.B) (evidence []byte, config snp.Config, want attest.Expected) {
	b.Helper()
	p, err := signer.Open(filepath.Join(b.TempDir(), "platform"))
	if err != nil {
		b.Fatal(err)
	}
	want.ReportData = []byte("forty-eight bytes are a digest of SHA-384 hashes")
	evidence, err = p.Launch(signer.Launch{}).Evidence(want.ReportData)
	if err != nil {
		b.Fatal(err)
	}
	return evidence, snp.Config{Roots: []snp.Root{p.Root()}}, want
}

// BenchmarkVerifyWarm verifies evidence of a chip that the verifier has seen.
func BenchmarkVerifyWarm(b *testing.B) {
	evidence, config, want := benchmarked(b)
	v := snp.NewVerifier(config)
	for b.Loop() {
		if _, err := v.Verify(b.Context(), evidence, want); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyCold verifies evidence of a chip that the verifier has not seen.
func BenchmarkVerifyCold(b *testing.B) {
	evidence, config, want := benchmarked(b)
	for b.Loop() {
		b.StopTimer()
		v := snp.NewVerifier(config)
		b.StartTimer()
		if _, err := v.Verify(b.Context(), evidence, want); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloor is what nobody can do without: one hash and one P-384 verification over bytes that are already there.
func BenchmarkFloor(b *testing.B) {
	key := must(b, chipKey)
	s := newScene(b, must(b, genoaVendor))
	sign(b, s.report, key)
	signed := s.report.Marshal()[:0x2A0]
	number := func(f [72]byte) *big.Int {
		slices.Reverse(f[:])
		return new(big.Int).SetBytes(f[:])
	}
	x, y := number(s.report.R), number(s.report.S)
	for b.Loop() {
		digest := sha512.Sum384(signed)
		if !ecdsa.Verify(&key.PublicKey, digest[:], x, y) {
			b.Fatal("the signature does not verify")
		}
	}
}

// BenchmarkParseEvidence reads the document and puts the signed bytes together.
func BenchmarkParseEvidence(b *testing.B) {
	evidence, _, _ := benchmarked(b)
	for b.Loop() {
		e, err := snp.ParseEvidence(evidence)
		if err != nil {
			b.Fatal(err)
		}
		e.Report.Marshal()
	}
}
