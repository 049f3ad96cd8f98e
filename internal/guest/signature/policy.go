// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"go.podman.io/image/v5/docker/reference"
)

// maxPolicy is the size in bytes of a policy.
const maxPolicy = 1 << 20

// Keys returns the resource of the trustee that a kbs:/// URI names. It is asked at every use, so that a key that was changed
// or withdrawn is noticed as soon as whatever stands behind it notices.
type Keys = func(ctx context.Context, uri string) ([]byte, error)

// Policy says what must be true of an image before it runs. It is made by [Parse], and may be used by many goroutines at once. The
// zero value refuses everything.
type Policy struct {
	scopes   map[string][]requirement
	fallback []requirement // nil: no default
	keys     Keys
	places   *lookaside
}

// Parse reads a policy.json: {"default": [REQUIREMENT…], "transports": {"docker": {SCOPE: [REQUIREMENT…]}}}, either of the two may be
// missing. The parts for other transports are left aside, for images come from registries. A policy without a default refuses what none
// of its scopes names. keys may be nil when all keys are inline.
func Parse(policyJSON []byte, keys Keys) (*Policy, error) {
	members, err := object(policyJSON)
	if err != nil {
		return nil, failed(CodePolicyMalformed, err, "the policy")
	}
	p := &Policy{scopes: map[string][]requirement{}, keys: keys}
	for name, raw := range members {
		switch name {
		case "default":
			p.fallback, err = parseRequirements("default", raw)
		case "transports":
			err = p.parseTransports(raw)
		default:
			err = refuse(CodePolicyMalformed, "the member %q is not known: a policy has \"default\" and \"transports\"", name)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Policy) parseTransports(raw []byte) error {
	transports, err := object(raw)
	if err != nil {
		return failed(CodePolicyMalformed, err, "transports")
	}
	docker, ok := transports["docker"]
	if !ok {
		return nil
	}
	list, err := object(docker)
	if err != nil {
		return failed(CodePolicyMalformed, err, "transports.docker")
	}
	for scope, raw := range list {
		if err := checkScope(scope); err != nil {
			return failed(CodePolicyMalformed, err, "the scope %q", scope)
		}
		if p.scopes[scope], err = parseRequirements(scopeName(scope), raw); err != nil {
			return err
		}
	}
	return nil
}

// scopeName is how errors name a scope of the docker transport.
func scopeName(scope string) string {
	if scope == "" {
		return `""`
	}
	return scope
}

func parseRequirements(scope string, raw []byte) ([]requirement, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, &Error{Code: CodePolicyMalformed, Scope: scope, Detail: "not a list of requirements", Err: err}
	}
	if len(list) == 0 {
		return nil, &Error{Code: CodePolicyMalformed, Scope: scope,
			Detail: "an empty list of requirements, which would accept or refuse everything depending on the reader: write [{\"type\":\"reject\"}] or [{\"type\":\"insecureAcceptAnything\"}]"}
	}
	requirements := make([]requirement, len(list))
	for i, raw := range list {
		r, err := parseRequirement(raw)
		if err != nil {
			return nil, located(err, CodePolicyMalformed, scope, position(i, len(list), r.kind))
		}
		requirements[i] = r
	}
	return requirements, nil
}

func position(i, n int, kind string) string {
	s := fmt.Sprintf("requirement %d of %d", i+1, n)
	if kind != "" {
		s += ", " + kind
	}
	return s
}

// choose returns the requirements for a name, and how the scope is called that has them.
func (p *Policy) choose(name reference.Canonical) (string, []requirement) {
	for _, scope := range append(scopes(name), "") {
		if list, ok := p.scopes[scope]; ok {
			return scopeName(scope), list
		}
	}
	return "default", p.fallback
}

// Verify returns nil when the policy accepts the image under the name that the user wrote, which must have a digest and may have a tag.
// All requirements of the most specific scope must be met. Verify is to be called on every use of an image, before anything of it is
// used. The error is an [*Error], or that of ctx.
func (p *Policy) Verify(ctx context.Context, name reference.Named, image Image) error {
	canonical, err := written(name)
	if err != nil {
		return err
	}
	subjects, err := image.subjects(canonical)
	if err != nil {
		return err
	}
	scope, requirements := p.choose(canonical)
	if len(requirements) == 0 {
		return &Error{Code: CodeRejected, Scope: scope, Detail: fmt.Sprintf("the policy has no scope for %s and no default: add one of them", canonical.Name())}
	}
	e := evaluation{policy: p, name: canonical, subjects: subjects, source: image.Source}
	for i, r := range requirements {
		err := e.meet(ctx, r)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("verifying the signatures of %s: %w", canonical, ctx.Err())
		}
		return located(err, CodeInvalid, scope, position(i, len(requirements), r.kind))
	}
	return nil
}

// located returns err with the place in the policy that it is about, and with a code if it has none.
func located(err error, code Code, scope, requirement string) *Error {
	e := Error{Code: code, Err: err}
	if refusal, ok := errors.AsType[*Error](err); ok {
		e = *refusal
	}
	e.Scope, e.Requirement = scope, requirement
	return &e
}
