// SPDX-License-Identifier: Apache-2.0

// Package ear makes and verifies EAT Attestation Results: the signed token in which a verifier says what it found in
// evidence, and how far it trusts it (draft-ietf-rats-ear, AR4SI trustworthiness vectors, as Trustee writes them).
//
// A token is trusted for its signature by a key that the caller names, and for nothing it says about itself: the
// algorithm is fixed to ES256, and keys, key addresses and certificates in its header are not looked at. The package
// judges no evidence; what goes into a token is the appraisal's business, what follows from one the policies'.
package ear

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nacre-project/nacre/strictjson"
)

// Profile is the eat_profile of tokens.
const Profile = "tag:github.com,2024:confidential-containers/Trustee"

// Names of members in a submodule and in its annotated evidence.
const (
	AnnotatedEvidence = "ear.veraison.annotated-evidence"
	RuntimeDataClaims = "runtime_data_claims" // in annotated evidence: what the evidence was bound to
	InitDataClaims    = "init_data_claims"    // in annotated evidence: the init-data's files
	TEEPublicKeyClaim = "tee-pubkey"          // in runtime data claims: the JWK that resources are encrypted to
	SimulatedClaim    = "simulated"           // in annotated evidence: true when its chain ended in a simulated root
)

// PrimarySubmod is the submodule of a guest's CPU.
const PrimarySubmod = "cpu0"

// VerifierID says who made a token.
type VerifierID struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

// Submod is the result for one piece of evidence.
type Submod struct {
	Status       Tier   // the vector's, always
	Vector       Vector // all eight claims are written
	PolicyID     string // the appraisal policy's id, without the class: default
	PolicyDigest string // hex SHA-256 of that policy's text
	Evidence     map[string]any
	// Encoded are members of Evidence as JSON, for those that were encoded before because many tokens have them. They
	// are trusted to say the same.
	Encoded    map[string]json.RawMessage
	Extensions map[string]any // further members, by name, such as ear.trustee.identifiers
}

// The members of a submodule that always have the same names; all others are extensions.
const (
	memberStatus       = "ear.status"
	memberVector       = "ear.trustworthiness-vector"
	memberPolicyID     = "ear.appraisal-policy-id"
	memberPolicyDigest = "nacre.appraisal-policy-digest"
)

var submodMembers = []string{memberStatus, memberVector, memberPolicyID, AnnotatedEvidence, memberPolicyDigest}

// ReservedMember says whether a member of submodules has that name always, so that no extension can.
func ReservedMember(name string) bool { return slices.Contains(submodMembers, name) }

// MarshalJSON writes the members in their order, then the extensions sorted. The status is computed, not believed.
func (s Submod) MarshalJSON() ([]byte, error) {
	var w writer
	s.write(&w)
	return w.text, w.err
}

func (s *Submod) write(w *writer) {
	w.open()
	w.member(memberStatus, s.Vector.Status().String())
	w.name(memberVector)
	s.Vector.write(w)
	w.member(memberPolicyID, s.PolicyID)
	w.name(AnnotatedEvidence)
	w.members(s.Evidence, s.Encoded)
	if s.PolicyDigest != "" {
		w.member(memberPolicyDigest, s.PolicyDigest)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Extensions)) {
		if ReservedMember(name) && w.err == nil {
			w.err = fmt.Errorf("extension %q has the name of a member that every submodule has", name)
		}
		w.member(name, s.Extensions[name])
	}
	w.close()
}

// Token is the content of a token. Times have whole seconds.
type Token struct {
	Profile  string
	IssuedAt time.Time
	Verifier VerifierID
	Submods  map[string]Submod // by class and number: cpu0, gpu0, gpu1…
	Expiry   time.Time
	Issuer   string
	ID       string // unique, for the audit trail
}

// Claims are the claims as [Verify] returns those of the signed token, but that numbers need not be json.Number, nor what
// the token holds that is no text, number, list or map a map.
func (t *Token) Claims() map[string]any {
	submods := make(map[string]any, len(t.Submods))
	for name, s := range t.Submods {
		submod := maps.Clone(s.Extensions)
		if submod == nil {
			submod = map[string]any{}
		}
		submod[memberStatus], submod[memberVector] = s.Vector.Status(), s.Vector
		submod[memberPolicyID], submod[AnnotatedEvidence] = s.PolicyID, s.Evidence
		if s.PolicyDigest != "" {
			submod[memberPolicyDigest] = s.PolicyDigest
		}
		submods[name] = submod
	}
	return map[string]any{
		"eat_profile": t.Profile, "iat": t.IssuedAt.Unix(), "ear.verifier-id": t.Verifier, "submods": submods,
		"exp": t.Expiry.Unix(), "iss": t.Issuer, "jti": t.ID,
	}
}

// usualSize is enough for the claims of most tokens, in bytes.
const usualSize = 12 << 10

// MarshalJSON writes the claims in the order that Trustee writes them: the same bytes for the same token.
func (t Token) MarshalJSON() ([]byte, error) {
	w := writer{text: make([]byte, 0, usualSize)}
	w.open()
	w.member("eat_profile", t.Profile)
	w.member("iat", t.IssuedAt.Unix()) // Unix seconds, as exp
	w.member("ear.verifier-id", t.Verifier)
	w.name("submods")
	w.open()
	for _, name := range slices.Sorted(maps.Keys(t.Submods)) {
		w.name(name)
		submod := t.Submods[name]
		failed := w.err != nil
		if submod.write(&w); w.err != nil && !failed {
			w.err = fmt.Errorf("submodule %q: %w", name, w.err)
		}
	}
	w.close()
	w.member("exp", t.Expiry.Unix())
	w.member("iss", t.Issuer)
	w.member("jti", t.ID)
	w.close()
	return w.text, w.err
}

// parseToken reads the claims of a verified token.
func parseToken(payload []byte) (*Token, map[string]any, error) {
	value, err := strictjson.Parse(payload, MaxSize)
	if err != nil {
		return nil, nil, fmt.Errorf("the claims: %w", err)
	}
	decoded, err := value.Decoded()
	if err != nil {
		return nil, nil, fmt.Errorf("the claims: %w", err)
	}
	claims, ok := decoded.(map[string]any)
	if !ok {
		return nil, nil, errors.New("the claims: not a JSON object")
	}
	r := reader{}
	t := &Token{
		Profile:  r.text(claims, "eat_profile"),
		IssuedAt: r.time(claims, "iat"),
		Verifier: VerifierID{Developer: r.text(r.object(claims, "ear.verifier-id"), "developer"),
			Build: r.text(r.object(claims, "ear.verifier-id"), "build")},
		Submods: map[string]Submod{},
		Expiry:  r.time(claims, "exp"),
		Issuer:  r.optional(claims, "iss"),
		ID:      r.optional(claims, "jti"),
	}
	submods := r.object(claims, "submods")
	for name := range submods {
		t.Submods[name] = r.submod(r.object(submods, name))
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	return t, claims, nil
}

// reader takes typed members out of claims, and keeps the first error.
type reader struct{ err error }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) object(claims map[string]any, name string) map[string]any {
	value, ok := claims[name].(map[string]any)
	if !ok {
		r.fail("claim %q is missing or not an object", clip(name))
	}
	return value
}

func (r *reader) text(claims map[string]any, name string) string {
	value, ok := claims[name].(string)
	if !ok {
		r.fail("claim %q is missing or not a string", name)
	}
	return value
}

func (r *reader) optional(claims map[string]any, name string) string {
	if _, present := claims[name]; !present {
		return ""
	}
	return r.text(claims, name)
}

func (r *reader) time(claims map[string]any, name string) time.Time {
	number, _ := claims[name].(json.Number)
	seconds, err := number.Int64()
	if err != nil || seconds < 0 || seconds > maxTime {
		r.fail("claim %q is missing or not a time in Unix seconds", name)
	}
	return time.Unix(seconds, 0)
}

// maxTime is the last second of the year 9999, which keeps times far from where arithmetic with them would wrap.
const maxTime = 253402300799

func (r *reader) submod(claims map[string]any) Submod {
	s := Submod{
		PolicyID:     r.text(claims, memberPolicyID),
		PolicyDigest: r.optional(claims, memberPolicyDigest),
		Evidence:     r.object(claims, AnnotatedEvidence),
	}
	if err := s.Status.UnmarshalText([]byte(r.text(claims, memberStatus))); err != nil {
		r.fail("claim %q: %w", memberStatus, err)
	}
	var err error
	if s.Vector, err = ParseVector(r.object(claims, memberVector)); err != nil {
		r.fail("claim %q: %w", memberVector, err)
	}
	for name, value := range claims {
		if !slices.Contains(submodMembers, name) {
			if s.Extensions == nil {
				s.Extensions = map[string]any{}
			}
			s.Extensions[name] = value
		}
	}
	return s
}

// TEEPublicKey is the JWK, as JSON, of the key that the evidence in the primary submodule was bound to.
func (t *Token) TEEPublicKey() (json.RawMessage, error) {
	runtimeData, _ := t.Submods[PrimarySubmod].Evidence[RuntimeDataClaims].(map[string]any)
	key, ok := runtimeData[TEEPublicKeyClaim].(map[string]any)
	if !ok {
		return nil, errors.New("the token has no TEE public key: its evidence was bound to none")
	}
	return json.Marshal(key)
}

// Simulated says whether any of the evidence ended in a simulated root.
func (t *Token) Simulated() bool {
	for _, submod := range t.Submods {
		if claim, present := submod.Evidence[SimulatedClaim]; present && claim != false {
			return true
		}
	}
	return false
}
