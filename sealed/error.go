// SPDX-License-Identifier: Apache-2.0

package sealed

import "fmt"

// Code says why a sealed secret is refused. Codes are stable.
type Code string

// The codes.
const (
	// Malformed: the text does not have the form of a sealed secret.
	Malformed Code = "sealed_malformed"
	// AlgorithmUnsupported: the header names another algorithm than ES256.
	AlgorithmUnsupported Code = "sealed_algorithm_unsupported"
	// KeyNotPinned: nobody said that the key which the header names may sign.
	KeyNotPinned Code = "sealed_key_not_pinned"
	// KeyInvalid: what is there under the key's id is no public key for ES256.
	KeyInvalid Code = "sealed_key_invalid"
	// SignatureInvalid: the pinned key did not sign this.
	SignatureInvalid Code = "sealed_signature_invalid"
	// PayloadMalformed: the payload is signed, and not one.
	PayloadMalformed Code = "sealed_payload_malformed"
	// VersionUnsupported: the payload is of another version than 0.1.0.
	VersionUnsupported Code = "sealed_version_unsupported"
	// ProviderUnsupported: the secret, or the key that encrypts it, is with somebody else than a trustee.
	ProviderUnsupported Code = "sealed_provider_unsupported"
	// EnvelopeInvalid: the envelope does not open under its key.
	EnvelopeInvalid Code = "sealed_envelope_invalid"
)

// Error is the refusal of a sealed secret. It never holds the secret's value.
type Error struct {
	Code Code
	Err  error
}

// Error returns the reason with its code.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Code, e.Err) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// clip keeps foreign text in error messages short.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
