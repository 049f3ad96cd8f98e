// SPDX-License-Identifier: Apache-2.0

// Package secret holds bytes that must not be printed: keys, passwords, the plaintext of released resources.
//
// It protects against accidents, not against attackers in the same process: a [Bytes] that lands in a log line, an
// error text, a JSON document or a debugger's dump shows itself as "[redacted]", at any depth and under any fmt
// verb. It does not lock memory, and it does not encrypt.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what every printer shows in place of the bytes.
const Redacted = "[redacted]"

// Bytes is a secret. The zero value is the empty secret.
type Bytes struct {
	// The bytes live behind a function because reflection cannot look into one. fmt does not call the methods of
	// a value in an unexported field of another struct and would print a slice there, or one behind a pointer.
	reveal func() []byte
}

// New makes b a secret. It takes b over: the caller must not use it afterwards.
func New(b []byte) Bytes {
	if len(b) == 0 {
		return Bytes{}
	}
	return Bytes{reveal: func() []byte { return b }}
}

// Reveal returns the secret's own bytes, not a copy. Callers must not change them, and must not let them outlive
// what they are needed for.
func (s Bytes) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Len is the number of bytes. That much of a secret is not secret here.
func (s Bytes) Len() int { return len(s.Reveal()) }

// Equal compares two secrets in time that depends on their lengths only.
func (s Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1
}

// Wipe overwrites the bytes with zeros, for every copy of this Bytes.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// String implements fmt.Stringer.
func (s Bytes) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (s Bytes) GoString() string { return Redacted }

// Format implements fmt.Formatter, and so covers the verbs that neither String nor GoString sees, such as %x and %d.
func (s Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// MarshalText implements encoding.TextMarshaler.
func (s Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements json.Marshaler.
func (s Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalBinary implements encoding.BinaryMarshaler, which gob and others prefer to the fields.
func (s Bytes) MarshalBinary() ([]byte, error) { return []byte(Redacted), nil }

// LogValue implements slog.LogValuer.
func (s Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }
