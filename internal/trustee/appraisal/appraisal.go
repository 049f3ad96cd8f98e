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
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

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

// initDataClaim is the claim that has the digest of a guest's init-data, as the platform bound it.
const initDataClaim = "init_data"

// UnauthorisedInitData is the member of a submodule that says how the same evidence is rated with an init-data digest
// that nobody authorised: an object with "ear.status" and "ear.trustworthiness-vector". Release compares the two.
const UnauthorisedInitData = "nacre.unauthorised-init-data"

// Policy is a compiled appraisal policy. It may be used by many at the same time.
type Policy struct {
	compiled *policy.Policy
	memory   *memory // nil: nothing can be remembered
}

// Compile compiles the text of a policy.
func Compile(ctx context.Context, text string) (*Policy, error) {
	p, err := policy.Compile(ctx, text, policy.Options{
		Queries:  []string{queryTrustClaims, queryExtensions},
		Builtins: []policy.Builtin{{Name: "query_reference_value", Fn: queryReferenceValue}},
	})
	if err != nil {
		return nil, err
	}
	m, err := newMemory(p.Reads())
	return &Policy{p, m}, err
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
	Claims      *attest.Claims
	RuntimeData map[string]any // what the evidence was bound to
	InitData    *InitData      // nil when none was sent
}

// annotated is the document that policies see, and that goes into the token: the platform's claims under its name,
// beside them what all platforms have.
func (e Evidence) annotated() map[string]any {
	tee := maps.Clone(e.Claims.Values)
	out := map[string]any{string(e.Claims.TEE): tee}
	for _, name := range []string{"report_data", initDataClaim} {
		if v, ok := tee[name]; ok {
			out[name] = v
			delete(tee, name)
		}
	}
	if _, bound := out["report_data"]; bound && e.RuntimeData != nil {
		out[ear.RuntimeDataClaims] = e.RuntimeData
	}
	if _, bound := out[initDataClaim]; bound && e.InitData != nil {
		out[ear.InitDataClaims] = e.InitData.Claims
	}
	if e.Claims.Simulated {
		out[ear.SimulatedClaim] = true
	}
	return out
}

// inputs are the annotated evidence as policies see it, and the same with an init-data digest that nobody authorised;
// ok is false when the platform has no init-data. They share all but that digest.
func (e Evidence) inputs(annotated map[string]any) (actual, unauthorised policy.Document, ok bool, err error) {
	var members, others [][2]*ast.Term
	for name, member := range annotated {
		if name == ear.InitDataClaims {
			member = e.InitData.value
		}
		value, err := ast.InterfaceToValue(member)
		if err != nil {
			return actual, unauthorised, false, fmt.Errorf("prepare the claims for the appraisal policy: %w", err)
		}
		term := ast.Item(ast.StringTerm(name), ast.NewTerm(value))
		members = append(members, term)
		if digest, is := member.(string); is && name == initDataClaim {
			ok = true
			term = ast.Item(term[0], ast.StringTerm(OtherInitData(digest)))
		}
		others = append(others, term)
	}
	if actual, err = policy.NewDocument(ast.NewObject(members...)); err != nil {
		return actual, unauthorised, false, fmt.Errorf("prepare the claims for the appraisal policy: %w", err)
	}
	if ok {
		unauthorised, err = policy.NewDocument(ast.NewObject(others...))
	}
	return actual, unauthorised, ok, err
}

// ErrPolicy is wrapped by errors of a policy that gives no usable answer. It is the owner's to mend.
var ErrPolicy = errors.New("the appraisal policy gave no usable answer")

// Appraise rates evidence.
func (p *Policy) Appraise(ctx context.Context, e Evidence, refs *refvalue.Snapshot, now time.Time) (ear.Submod, error) {
	annotated := e.annotated()
	r, err := p.memory.recall(e, annotated, refs, now, func() (*rating, error) {
		return p.rate(context.WithValue(ctx, snapshotKey{}, values{refs, now}), e, annotated)
	})
	if err != nil {
		return ear.Submod{}, err
	}
	s := ear.Submod{PolicyID: PolicySet, PolicyDigest: p.Digest(), Evidence: annotated, Vector: r.vector,
		Status: r.vector.Status(), Extensions: maps.Clone(r.extensions)}
	if e.InitData != nil {
		s.Encoded = map[string]json.RawMessage{ear.InitDataClaims: e.InitData.encoded}
	}
	if r.unauthorised != nil {
		s.Extensions[UnauthorisedInitData] = map[string]any{
			"ear.status": r.unauthorised.Status(), "ear.trustworthiness-vector": *r.unauthorised,
		}
	}
	return s, nil
}

// rating is what a policy makes of evidence. It does not change.
type rating struct {
	vector       ear.Vector
	extensions   map[string]any
	unauthorised *ear.Vector // with init-data that nobody authorised; nil when the platform has none
}

// rate asks the policy.
func (p *Policy) rate(ctx context.Context, e Evidence, annotated map[string]any) (*rating, error) {
	actual, unauthorised, hasInitData, err := e.inputs(annotated)
	if err != nil {
		return nil, err
	}
	r := &rating{}
	if r.vector, err = p.vector(ctx, actual); err != nil {
		return nil, err
	}
	if r.extensions, err = p.extensions(ctx, actual); err != nil {
		return nil, err
	}
	if hasInitData {
		other, err := p.vector(ctx, unauthorised)
		if err != nil {
			return nil, err
		}
		r.unauthorised = &other
	}
	return r, nil
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

// ownMembers begins the names of the members that the trustee itself adds to a submodule.
const ownMembers = "nacre."

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
		if !ok || name == "" {
			return nil, fmt.Errorf("%w: an extension without a name", ErrPolicy)
		}
		if ear.ReservedMember(name) || strings.HasPrefix(name, ownMembers) {
			return nil, fmt.Errorf("%w: an extension has the name %.100q, which is the token's own", ErrPolicy, name)
		}
		extensions[name] = extension["value"]
	}
	return extensions, nil
}

// OtherInitData returns an init-data digest of the same length that nobody registered or named in a policy, since it
// is the digest of no init-data.
func OtherInitData(digest string) string {
	other := sha512.Sum512([]byte("nacre: init-data that nobody authorised, other than " + digest))
	text := hex.EncodeToString(other[:])
	return text[:min(len(text), max(len(digest), 32))]
}
