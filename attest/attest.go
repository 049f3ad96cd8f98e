// SPDX-License-Identifier: Apache-2.0

// Package attest holds the vocabulary of remote attestation that every room shares: the names of platforms, what an
// appraiser expects of evidence, what verified evidence claims, and the stable codes of a refusal.
//
// Terms are those of RFC 9334. A Verifier turns Evidence into Claims by checking signatures and bindings under roots
// of trust that it was given. It says what is true of a guest, not whether that is good enough: appraisal against
// reference values and policy happens elsewhere.
//
// The package trusts nothing and does no input or output. Formats live in the rooms below it, one per platform.
package attest

import (
	"context"
	"encoding/json"
)

// TEE is the wire name of a platform in the RCAR protocol ("tee" of the Request message).
type TEE string

// The platforms that the protocol names. That a name is listed here says nothing about whether a verifier for it is
// configured.
const (
	SNP          TEE = "snp"          // AMD SEV-SNP
	TDX          TEE = "tdx"          // Intel TDX
	SGX          TEE = "sgx"          // Intel SGX enclaves
	AzSNPvTPM    TEE = "az-snp-vtpm"  // Azure confidential VM on SEV-SNP, behind a paravisor's vTPM
	AzTDXvTPM    TEE = "az-tdx-vtpm"  // Azure confidential VM on TDX, behind a paravisor's vTPM
	TPM          TEE = "tpm"          // a TPM 2.0
	CCA          TEE = "cca"          // Arm CCA
	CSV          TEE = "csv"          // Hygon CSV
	SE           TEE = "se"           // IBM Secure Execution
	NVIDIA       TEE = "nvidia"       // NVIDIA GPUs and switches
	HygonDCU     TEE = "hygondcu"     // Hygon accelerators
	Sample       TEE = "sample"       // no platform at all: unsigned test evidence
	SampleDevice TEE = "sampledevice" // the same for devices
)

// Known reports whether t is a name that the protocol defines.
func (t TEE) Known() bool {
	switch t {
	case SNP, TDX, SGX, AzSNPvTPM, AzTDXvTPM, TPM, CCA, CSV, SE, NVIDIA, HygonDCU, Sample, SampleDevice:
		return true
	}
	return false
}

// Class groups platforms in result tokens: submodules are named by class and a count, "cpu0", "gpu1".
type Class string

// ClassCPU is the class of everything that protects a whole guest.
const ClassCPU Class = "cpu"

// Expected is what evidence must be bound to.
type Expected struct {
	// ReportData is the digest that the evidence must carry. It is required. A platform's field that is longer than
	// the digest must be padded with zero bytes on the right, and is compared whole, padding included.
	ReportData []byte

	// InitDataDigest is the digest of the init-data that the attester sent, by the algorithm that the init-data names.
	// Nil means that the attester sent none; the platform's field is then only reported as a claim.
	InitDataDigest []byte
}

// Claims is what verified evidence says.
type Claims struct {
	TEE   TEE
	Class Class

	// Values holds the claims under the names that policies know. A value is a string, bool, int64, float64, []any or
	// map[string]any. "report_data" and "init_data" (lower-case hex of the platform's whole fields) are always there.
	Values map[string]any

	// Simulated says that the chain ended in a simulated root, which somebody put into the configuration by name.
	Simulated bool

	// Root names what the chain of signatures ended in, for people: "AMD ARK-Genoa", "simulated sha256:ab12…".
	Root string
}

// Verifier verifies the evidence of one platform. Implementations are safe for concurrent use.
//
// A refusal is an *Error with a stable Code. Evidence is foreign input: whatever it holds, Verify returns.
type Verifier interface {
	Verify(ctx context.Context, evidence json.RawMessage, want Expected) (*Claims, error)
}
