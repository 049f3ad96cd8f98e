// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/nacre-project/nacre/strictjson"
)

// Prefix is what every sealed secret begins with, and nothing else should.
const Prefix = "sealed."

// Caps, in bytes. Kubernetes keeps a Secret object below 1 MiB.
const (
	MaxText   = 1 << 20
	maxHeader = 4 << 10
	maxKeyID  = 2 << 10
)

// algES256 is ECDSA on P-256 with SHA-256 (RFC 7518 §3.4), the only algorithm of sealed secrets.
const algES256 = "ES256"

// signatureSize is r‖s of P-256, each 32 bytes, big endian.
const signatureSize = 64

// Secret is a sealed secret as it was read. Nothing of it is verified.
type Secret struct {
	// KeyID is the header's kid: the key that is said to have signed.
	KeyID string

	header, payload string // as they stand in the text
	signature       []byte
}

// Is says whether a text claims to be a sealed secret, so that it must be opened or refused and never be used as it is.
func Is(text string) bool { return strings.HasPrefix(text, Prefix) }

// Parse reads a sealed secret: exactly one, and nothing around it. Every error is an *[Error].
func Parse(text string) (*Secret, error) {
	parts, err := split(text)
	if err != nil {
		return nil, err
	}
	s := &Secret{header: parts[0], payload: parts[1]}
	header, err := decode("header", s.header)
	if err != nil {
		return nil, err
	}
	if s.KeyID, err = parseHeader(header); err != nil {
		return nil, err
	}
	if _, err := decode("payload", s.payload); err != nil {
		return nil, err
	}
	if s.signature, err = decode("signature", parts[2]); err != nil {
		return nil, err
	}
	if len(s.signature) != signatureSize {
		return nil, refuse(Malformed, "a signature of %d bytes, want %d", len(s.signature), signatureSize)
	}
	return s, nil
}

// Format writes the secret as it was read.
func (s *Secret) Format() string {
	return Prefix + s.header + "." + s.payload + "." + encode(s.signature)
}

// Verify returns the payload if key signed it.
func (s *Secret) Verify(key VerifyingKey) (*Payload, error) {
	if key.public == nil {
		return nil, refuse(KeyInvalid, "there is no key")
	}
	digest := sha256.Sum256([]byte(s.header + "." + s.payload))
	r, sig := new(big.Int).SetBytes(s.signature[:signatureSize/2]), new(big.Int).SetBytes(s.signature[signatureSize/2:])
	if !ecdsa.Verify(key.public, digest[:], r, sig) {
		return nil, refuse(SignatureInvalid, "the key %q did not sign this sealed secret", clip(s.KeyID))
	}
	return s.read()
}

func (s *Secret) read() (*Payload, error) {
	text, err := decode("payload", s.payload)
	if err != nil {
		return nil, err
	}
	return ParsePayload(text)
}

// UnsafePayload returns the payload of a sealed secret whose header and signature may be anything, as in the unsigned ones
// that some tools make. Nothing says who made it.
func UnsafePayload(text string) (*Payload, error) {
	parts, err := split(text)
	if err != nil {
		return nil, err
	}
	return (&Secret{payload: parts[1]}).read()
}

// split returns header, payload and signature.
func split(text string) ([]string, error) {
	if len(text) > MaxText {
		return nil, refuse(Malformed, "%d bytes, at most %d are read", len(text), MaxText)
	}
	rest, ok := strings.CutPrefix(text, Prefix)
	if !ok {
		return nil, refuse(Malformed, "it does not begin with %q", Prefix)
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return nil, refuse(Malformed, "%d parts behind %q, want header, payload and signature", len(parts), Prefix)
	}
	return parts, nil
}

// parseHeader returns the key id. A header has the two members that the format knows and no others: one that brings a key
// of its own (jwk, jku, x5c), or says that the signature covers something else (crit, b64), is no sealed secret's.
func parseHeader(text []byte) (string, error) {
	members, err := strictjson.ParseObject(text, maxHeader)
	if err != nil {
		return "", refuse(Malformed, "header: %w", err)
	}
	algorithm, err := members.Text("alg")
	if err != nil {
		return "", refuse(Malformed, "header: %w", err)
	}
	if algorithm != algES256 {
		return "", refuse(AlgorithmUnsupported, "the header says alg %q; sealed secrets are signed with %s", clip(algorithm), algES256)
	}
	kid, err := members.Text("kid")
	if err != nil {
		return "", refuse(Malformed, "header: %w", err)
	}
	if err := only(members, "alg", "kid"); err != nil {
		return "", refuse(Malformed, "header: %w", err)
	}
	if kid == "" || len(kid) > maxKeyID {
		return "", refuse(Malformed, "header: a kid of %d bytes, want 1 to %d", len(kid), maxKeyID)
	}
	return kid, nil
}

func formatHeader(kid string) (string, error) {
	text, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}{algES256, kid})
	if err != nil {
		return "", fmt.Errorf("writing the header: %w", err)
	}
	if _, err := parseHeader(text); err != nil { // what is not Unicode changes when it is written as JSON
		return "", err
	}
	return encode(text), nil
}

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// decode reads base64url in its one form: no padding, no line breaks, no stray bits in the last character.
func decode(part, text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // encoding/base64 passes over them
		return nil, refuse(Malformed, "%s: %w", part, errLineBreak)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, refuse(Malformed, "%s: not base64url without padding: %w", part, err)
	}
	return raw, nil
}

var errLineBreak = errors.New("there is a line break in it: write the text without one, also at the end of a file")
