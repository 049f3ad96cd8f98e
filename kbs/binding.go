// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
)

// HashAlgorithm names the digest of the report data, as a challenge selects it.
type HashAlgorithm string

// The algorithms. SHA-384 is the default; servers select SHA-512 for IBM Secure Execution, and Intel's service
// SHA-256 or SHA-512.
const (
	SHA256 HashAlgorithm = "sha256"
	SHA384 HashAlgorithm = "sha384"
	SHA512 HashAlgorithm = "sha512"
)

func (h HashAlgorithm) known() bool { return h == SHA256 || h == SHA384 || h == SHA512 }

func (h HashAlgorithm) sum(data []byte) ([]byte, error) {
	switch h {
	case SHA256:
		sum := sha256.Sum256(data)
		return sum[:], nil
	case SHA384:
		sum := sha512.Sum384(data)
		return sum[:], nil
	case SHA512:
		sum := sha512.Sum512(data)
		return sum[:], nil
	}
	return nil, fmt.Errorf("hash algorithm %q is not supported", clip(string(h)))
}

// ReportData is what primary evidence is bound to: SHA-384 (48 bytes) over the canonical JSON of the nonce, the TEE
// public key and the additional evidence, which is "" where there are no devices. Only the key's known members count.
func ReportData(nonce string, key JWK, additionalEvidence string) ([]byte, error) {
	return SHA384.ReportData(nonce, key, additionalEvidence)
}

// ReportData is [ReportData] under another algorithm.
func (h HashAlgorithm) ReportData(nonce string, key JWK, additionalEvidence string) ([]byte, error) {
	return h.bind(map[string]any{
		"nonce": nonce, "tee-pubkey": key.members(), "additional-evidence": additionalEvidence,
	})
}

// DeviceReportData is what each piece of additional evidence is bound to: SHA-384 (48 bytes) over the canonical JSON
// of the nonce and the TEE public key.
func DeviceReportData(nonce string, key JWK) ([]byte, error) {
	return SHA384.DeviceReportData(nonce, key)
}

// DeviceReportData is [DeviceReportData] under another algorithm.
func (h HashAlgorithm) DeviceReportData(nonce string, key JWK) ([]byte, error) {
	return h.bind(map[string]any{"nonce": nonce, "tee-pubkey": key.members()})
}

func (h HashAlgorithm) bind(runtimeData map[string]any) ([]byte, error) {
	canonical, err := appendCanonical(nil, runtimeData)
	if err != nil {
		return nil, fmt.Errorf("computing the report data: %w", err)
	}
	sum, err := h.sum(canonical)
	if err != nil {
		return nil, fmt.Errorf("computing the report data: %w", err)
	}
	return sum, nil
}
