// SPDX-License-Identifier: Apache-2.0

// Package appraisal rates verified evidence: a pure function of its claims, a policy, a snapshot of the reference
// values, and the time.
//
// It trusts the claims, because a verifier made them, and the policy, because an administrator set it. It neither
// verifies evidence nor releases anything; simulated evidence is rated like any other and says so.
package appraisal

import (
	"context"
	"crypto/sha512"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/policy"
)

//go:embed default_cpu.rego
var defaultCPU string

// DefaultText returns the policy for a class of evidence that has none of its own; false when there is no default for
// it.
func DefaultText(class attest.Class) (string, bool) {
	if class == attest.ClassCPU {
		return defaultCPU, true
	}
	return "", false
}

// PolicySet is the name in tokens of the set of policies that is used, one policy a class.
const PolicySet = "default"

// PolicyID is the id under which the policy of a class is set: "default_cpu".
func PolicyID(class attest.Class) string { return PolicySet + "_" + string(class) }

// The rules that are asked for. Trust claims are an object, claim name to integer; extensions an array of {name, key,
// value}.
const (
	queryTrustClaims = "data.policy.trust_claims"
	queryExtensions  = "data.policy.extensions"
)

// UnauthorisedInitData is the member of a submodule that says how the same evidence is rated with an init-data digest
// that nobody authorised: an object with "ear.status" and "ear.trustworthiness-vector". Release compares the two.
const UnauthorisedInitData = "nacre.unauthorised-init-data"

// Policy is a compiled appraisal policy. It may be used by many at the same time.
type Policy struct{ compiled *policy.Policy }

// Compile compiles the text of a policy.
func Compile(ctx context.Context, text string) (*Policy, error) {
	p, err := policy.Compile(ctx, text, policy.Options{
		Queries:  []string{queryTrustClaims, queryExtensions},
		Builtins: []policy.Builtin{{Name: "query_reference_value", Fn: queryReferenceValue}},
	})
	if err != nil {
		return nil, err
	}
	return &Policy{p}, nil
}

// Digest is the hex SHA-256 of the policy's text.
func (p *Policy) Digest() string { return p.compiled.Digest() }

// snapshotKey is the key under which an evaluation's context carries its values.
type snapshotKey struct{}

type values struct {
	snapshot *refvalue.Snapshot
	now      time.Time
}

// queryReferenceValue is the function that policies call. Unknown and expired values are null there, in which nothing
// is contained.
func queryReferenceValue(ctx context.Context, id string) (any, bool) {
	v, ok := ctx.Value(snapshotKey{}).(values)
	if !ok {
		return nil, false
	}
	document, found := v.snapshot.Lookup(id, v.now)
	return document, found
}

// Evidence is what is appraised.
type Evidence struct {
	Claims         *attest.Claims
	RuntimeData    map[string]any // what the evidence was bound to
	InitDataClaims map[string]any // the init-data's files; nil when none was sent
}

// annotated is the document that policies see, and that goes into the token: the platform's claims under its name,
// beside them what all platforms have.
func (e Evidence) annotated() map[string]any {
	tee := maps.Clone(e.Claims.Values)
	out := map[string]any{string(e.Claims.TEE): tee}
	for _, name := range []string{"report_data", "init_data"} {
		if v, ok := tee[name]; ok {
			out[name] = v
			delete(tee, name)
		}
	}
	if _, bound := out["report_data"]; bound && e.RuntimeData != nil {
		out[ear.RuntimeDataClaims] = e.RuntimeData
	}
	if _, bound := out["init_data"]; bound && e.InitDataClaims != nil {
		out[ear.InitDataClaims] = e.InitDataClaims
	}
	if e.Claims.Simulated {
		out[ear.SimulatedClaim] = true
	}
	return out
}

// ErrPolicy is wrapped by errors of a policy that gives no usable answer. It is the owner's to mend.
var ErrPolicy = errors.New("the appraisal policy gave no usable answer")

// Appraise rates evidence.
func (p *Policy) Appraise(ctx context.Context, e Evidence, refs *refvalue.Snapshot, now time.Time) (ear.Submod, error) {
	ctx = context.WithValue(ctx, snapshotKey{}, values{refs, now})
	annotated := e.annotated()
	input, err := policy.NewDocument(annotated)
	if err != nil {
		return ear.Submod{}, fmt.Errorf("prepare the claims for the appraisal policy: %w", err)
	}
	s := ear.Submod{PolicyID: PolicySet, PolicyDigest: p.Digest(), Evidence: annotated}
	if s.Vector, err = p.vector(ctx, input); err != nil {
		return ear.Submod{}, err
	}
	s.Status = s.Vector.Status()
	if s.Extensions, err = p.extensions(ctx, input); err != nil {
		return ear.Submod{}, err
	}
	unauthorised, err := p.unauthorised(ctx, annotated)
	if err != nil {
		return ear.Submod{}, err
	}
	if unauthorised != nil {
		s.Extensions[UnauthorisedInitData] = map[string]any{
			"ear.status": unauthorised.Status(), "ear.trustworthiness-vector": unauthorised,
		}
	}
	return s, nil
}

// vector asks for the trust claims. A policy without any claims nothing.
func (p *Policy) vector(ctx context.Context, input policy.Document) (ear.Vector, error) {
	value, err := p.compiled.Eval(ctx, queryTrustClaims, policy.Input{Input: input})
	if err != nil {
		return ear.Vector{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if !value.Defined() {
		return ear.Vector{}, nil
	}
	answer, err := value.JSON()
	if err != nil {
		return ear.Vector{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	object, ok := answer.(map[string]any)
	if !ok {
		return ear.Vector{}, fmt.Errorf("%w: trust_claims is a %T, want an object", ErrPolicy, answer)
	}
	v, err := ear.ParseVector(object)
	if err != nil {
		return ear.Vector{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return v, nil
}

// maxExtensions caps what a policy adds to a token.
const maxExtensions = 16

func (p *Policy) extensions(ctx context.Context, input policy.Document) (map[string]any, error) {
	extensions := map[string]any{}
	value, err := p.compiled.Eval(ctx, queryExtensions, policy.Input{Input: input})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if !value.Defined() {
		return extensions, nil
	}
	answer, err := value.JSON()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	list, ok := answer.([]any)
	if !ok || len(list) > maxExtensions {
		return nil, fmt.Errorf("%w: extensions is not an array of at most %d elements", ErrPolicy, maxExtensions)
	}
	for _, item := range list {
		extension, _ := item.(map[string]any)
		name, ok := extension["name"].(string)
		if !ok || name == "" || name == UnauthorisedInitData {
			return nil, fmt.Errorf("%w: an extension without a name of its own", ErrPolicy)
		}
		extensions[name] = extension["value"]
	}
	return extensions, nil
}

// unauthorised rates the same evidence with an init-data digest that nobody authorised. Nil when the platform has no
// init-data.
func (p *Policy) unauthorised(ctx context.Context, annotated map[string]any) (*ear.Vector, error) {
	digest, ok := annotated["init_data"].(string)
	if !ok {
		return nil, nil
	}
	other := maps.Clone(annotated)
	other["init_data"] = OtherInitData(digest)
	input, err := policy.NewDocument(other)
	if err != nil {
		return nil, fmt.Errorf("prepare the claims for the appraisal policy: %w", err)
	}
	v, err := p.vector(ctx, input)
	return &v, err
}

// OtherInitData returns an init-data digest of the same length that nobody registered or named in a policy, since it
// is the digest of no init-data.
func OtherInitData(digest string) string {
	other := sha512.Sum512([]byte("nacre: init-data that nobody authorised, other than " + digest))
	text := hex.EncodeToString(other[:])
	return text[:min(len(text), max(len(digest), 32))]
}
