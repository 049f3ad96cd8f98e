// SPDX-License-Identifier: Apache-2.0

// Package release decides whether what an attested guest asks for may leave: a pure function of a verified token, the
// owner's policy, and the request.
//
// Around the policy stand two guards that it cannot switch off by its text. A token whose evidence ended in a
// simulated root gets nothing unless the owner set allow_simulated with the policy. And a policy that would also have
// released to init-data of anybody's choice gets nothing unless the owner set unsafe_any_initdata: that init-data is
// bound to a guest does not say who wrote it.
//
// The package trusts the token's content, because its signature was verified, and the policy's, because an
// administrator set it. An undefined answer, one that is not a boolean, and an error are denials.
package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/policy"
)

// query is the rule that is asked for.
const query = "data.policy.allow"

// Code is the stable name of a denial.
type Code string

const (
	CodePolicyDenied        Code = "policy_denied"
	CodeSimulatedNotAllowed Code = "simulated_not_allowed"
	CodeInitDataNotPinned   Code = "init_data_not_pinned"
	CodePolicyError         Code = "policy_error"
)

// Record is a release policy as it is stored: its text, and the unsafe choices that came with it.
type Record struct {
	Text              string `json:"policy"`
	AllowSimulated    bool   `json:"allow_simulated,omitempty"`
	UnsafeAnyInitData bool   `json:"unsafe_any_initdata,omitempty"`
}

// Policy is a compiled release policy. It may be used by many at the same time.
type Policy struct {
	compiled          *policy.Policy
	allowSimulated    bool
	unsafeAnyInitData bool
	// timeless policies do not look at the clock: what they decide about a token and a request, they decide always.
	timeless bool
}

// Compile compiles a policy. Nil now means that policies do not see a clock.
func Compile(ctx context.Context, r Record, now func() time.Time) (*Policy, error) {
	compiled, err := policy.Compile(ctx, r.Text, policy.Options{Queries: []string{query}, Clock: now})
	if err != nil {
		return nil, err
	}
	p := &Policy{compiled: compiled, allowSimulated: r.AllowSimulated, unsafeAnyInitData: r.UnsafeAnyInitData}
	// Without a clock, a policy that calls for one does not compile. Whatever else it may call gives the same answer
	// to the same question.
	_, err = policy.Compile(ctx, r.Text, policy.Options{Queries: []string{query}})
	p.timeless = err == nil
	return p, nil
}

// Digest is the hex SHA-256 of the policy's text.
func (p *Policy) Digest() string { return p.compiled.Digest() }

// Token is a verified token in the form that policies see, made once for all that is asked for with it.
type Token struct {
	claims policy.Document
	// unauthorised are the claims that the same guest would have with init-data that nobody authorised.
	unauthorised policy.Document
	simulated    bool
	allowed      memory
}

// NewToken prepares the claims of a verified token.
func NewToken(t *ear.Token, claims map[string]any) (*Token, error) {
	value, err := ast.InterfaceToValue(claims)
	if err != nil {
		return nil, fmt.Errorf("prepare the token's claims for the release policy: %w", err)
	}
	object, ok := value.(ast.Object)
	if !ok {
		return nil, errors.New("prepare the token's claims for the release policy: it has none")
	}
	actual, err := policy.NewDocument(object)
	if err != nil {
		return nil, fmt.Errorf("prepare the token's claims for the release policy: %w", err)
	}
	unauthorised, err := policy.NewDocument(withOtherInitData(object))
	if err != nil {
		return nil, fmt.Errorf("prepare the token's claims for the release policy: %w", err)
	}
	return &Token{claims: actual, unauthorised: unauthorised, simulated: t.Simulated()}, nil
}

// withOtherInitData replaces what a token says because of its init-data's digest, and nothing else: the digest itself,
// and the rating, by the one that the appraisal gave for a digest that nobody authorised. A token without such a rating
// keeps its own, so that only a policy which looks at the digest itself will tell the two apart. What stays the same
// is shared.
func withOtherInitData(claims ast.Object) ast.Object {
	return with(claims, "submods", func(submods ast.Object) ast.Object {
		others := ast.NewObject()
		submods.Foreach(func(name, submod *ast.Term) {
			if object, ok := submod.Value.(ast.Object); ok {
				submod = ast.NewTerm(submodWithOtherInitData(object))
			}
			others.Insert(name, submod)
		})
		return others
	})
}

func submodWithOtherInitData(submod ast.Object) ast.Object {
	other := with(submod, ear.AnnotatedEvidence, func(evidence ast.Object) ast.Object {
		digest := evidence.Get(initDataName)
		if digest == nil {
			return evidence
		}
		text, ok := digest.Value.(ast.String)
		if !ok {
			return evidence
		}
		return set(evidence, initDataName, ast.StringTerm(appraisal.OtherInitData(string(text))))
	})
	if rating := submod.Get(unauthorisedName); rating != nil {
		if object, ok := rating.Value.(ast.Object); ok {
			object.Foreach(func(name, value *ast.Term) { other = set(other, name, value) })
		}
	}
	return other
}

var (
	initDataName     = ast.StringTerm("init_data")
	unauthorisedName = ast.StringTerm(appraisal.UnauthorisedInitData)
)

// with returns an object in which the member of a name, if it is an object, was changed.
func with(o ast.Object, name string, change func(ast.Object) ast.Object) ast.Object {
	key := ast.StringTerm(name)
	member := o.Get(key)
	if member == nil {
		return o
	}
	object, ok := member.Value.(ast.Object)
	if !ok {
		return o
	}
	return set(o, key, ast.NewTerm(change(object)))
}

// set returns an object with another value for a key; the one that it is given does not change.
func set(o ast.Object, key, value *ast.Term) ast.Object {
	out := ast.NewObject(ast.Item(key, value))
	o.Foreach(func(k, v *ast.Term) {
		if !k.Equal(key) {
			out.Insert(k, v)
		}
	})
	return out
}

// Request is what is asked for.
type Request struct {
	Plugin string
	Path   []string // segments after the plugin's name
	Query  map[string]string
}

// data is the document that policies see below data.
func (r Request) data() map[string]any {
	path := make([]any, len(r.Path))
	for i, segment := range r.Path {
		path[i] = segment
	}
	q := make(map[string]any, len(r.Query))
	for name, value := range r.Query {
		q[name] = value
	}
	return map[string]any{"plugin": r.Plugin, "resource-path": path, "query": q}
}

// Denial is why a release is refused. Detail is for the owner only.
type Denial struct {
	Code   Code
	Detail string
}

func (d *Denial) Error() string { return string(d.Code) + ": " + d.Detail }

// Decide returns nil when what is asked for may leave, and otherwise a *Denial. What a timeless policy has allowed
// once, it allows again without being asked.
func (p *Policy) Decide(ctx context.Context, t *Token, r Request) error {
	if t.allowed.has(p, r) {
		return nil
	}
	if err := p.decide(ctx, t, r); err != nil {
		return err
	}
	if p.timeless {
		t.allowed.add(p, r)
	}
	return nil
}

func (p *Policy) decide(ctx context.Context, t *Token, r Request) error {
	data := r.data()
	allowed, err := p.allows(ctx, t.claims, data)
	if err != nil {
		return err
	}
	if !allowed {
		return &Denial{CodePolicyDenied, "the release policy does not allow it"}
	}
	if t.simulated && !p.allowSimulated {
		return &Denial{CodeSimulatedNotAllowed, "the release policy allows it, but the evidence ended in a " +
			"simulated root, and the policy was " +
			"set without allow_simulated"}
	}
	if p.unsafeAnyInitData {
		return nil
	}
	allowed, err = p.allows(ctx, t.unauthorised, data)
	if err != nil {
		return err
	}
	if allowed {
		return &Denial{CodeInitDataNotPinned, "the release policy allows it, and would allow it with any other " +
			"init-data too: compare " +
			"init_data with the digests you want, or set the policy with unsafe_any_initdata"}
	}
	return nil
}

func (p *Policy) allows(ctx context.Context, claims policy.Document, data map[string]any) (bool, error) {
	value, err := p.compiled.Eval(ctx, query, policy.Input{Input: claims, Data: data})
	if err != nil {
		return false, &Denial{CodePolicyError, err.Error()}
	}
	return value.True(), nil
}

// Check refuses, with an error that says what to do, a policy that cannot be compiled or that does not look at the
// init-data.
func Check(ctx context.Context, r Record) error {
	if _, err := Compile(ctx, r, time.Now); err != nil {
		return err
	}
	m, err := parse(r.Text)
	if err != nil {
		return err
	}
	if !m.defines("policy", "allow") {
		return errors.New("the policy has no rule `allow` in `package policy`; without it nothing is ever released. " +
			"To release nothing, say so: `package policy` and `default allow := false`")
	}
	if r.UnsafeAnyInitData || m.neverTrue("allow") || m.mentions("init_data") {
		return nil
	}
	return errors.New("the policy does not look at init_data, so that a host could start the same guest with " +
		"init-data of its own; " +
		"compare input.submods.cpu0[\"" + ear.AnnotatedEvidence +
		"\"].init_data with the digests you want (the shipped templates do), " +
		"or accept any with unsafe_any_initdata")
}

// Marshal and ParseRecord are the stored form of a policy.
func (r Record) Marshal() ([]byte, error) { return json.Marshal(r) }

// ParseRecord reads what Marshal wrote.
func ParseRecord(text []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("parse the stored release policy: %w", err)
	}
	return r, nil
}
