// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/policy/templates"
)

// Where policies lie in the store, by upstream's names.
const (
	appraisalPolicies store.Namespace = "attestation_service_policy"
	releasePolicies   store.Namespace = "kbs"
	releasePolicyID                   = "resource-policy"
	policySuffix                      = ".rego"
)

// classes are those that a policy can be set for.
var classes = []attest.Class{attest.ClassCPU}

// policies are those in force, compiled once.
type policies struct {
	store    *store.Store
	now      func() time.Time
	setting  sync.Mutex // one change at a time, so that what is in force is what was committed last
	releases atomic.Pointer[releaseInForce]
	// written is the release policy that the writer of the store wrote last, in force or about to be.
	written atomic.Pointer[releaseInForce]
	classes atomic.Pointer[map[attest.Class]*appraisalInForce]
}

type releaseInForce struct {
	*release.Policy
	record release.Record
}

type appraisalInForce struct {
	*appraisal.Policy
	text string
}

func openPolicies(ctx context.Context, s *store.Store, now func() time.Time) (*policies, error) {
	p := &policies{store: s, now: now}
	record := release.Record{Text: templates.DenyAll()}
	switch text, err := s.Get(ctx, releasePolicies, releasePolicyID+policySuffix); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("load the release policy: %w", err)
	default:
		if record, err = release.ParseRecord(text); err != nil {
			return nil, err
		}
	}
	compiled, err := release.Compile(ctx, record, now)
	if err != nil {
		return nil, fmt.Errorf("load the release policy: %w", err)
	}
	p.releases.Store(&releaseInForce{compiled, record})
	p.written.Store(p.releases.Load())
	byClass := map[attest.Class]*appraisalInForce{}
	for _, class := range classes {
		text, _ := appraisal.DefaultText(class)
		switch stored, err := s.Get(ctx, appraisalPolicies, appraisal.PolicyID(class)+policySuffix); {
		case err == nil:
			text = string(stored)
		case !errors.Is(err, store.ErrNotFound):
			return nil, fmt.Errorf("load the appraisal policy %s: %w", appraisal.PolicyID(class), err)
		}
		compiled, err := appraisal.Compile(ctx, text)
		if err != nil {
			return nil, fmt.Errorf("load the appraisal policy %s: %w", appraisal.PolicyID(class), err)
		}
		byClass[class] = &appraisalInForce{compiled, text}
	}
	p.classes.Store(&byClass)
	return p, nil
}

// release returns the release policy in force.
func (p *policies) release() *releaseInForce { return p.releases.Load() }

// appraisal returns the appraisal policy in force for a class of evidence.
func (p *policies) appraisal(class attest.Class) (*appraisalInForce, error) {
	if policy, ok := (*p.classes.Load())[class]; ok {
		return policy, nil
	}
	return nil, fmt.Errorf("there is no appraisal policy for evidence of the class %q", class)
}

// setRelease puts a release policy in force, in one transaction with what also does there.
func (p *policies) setRelease(ctx context.Context, record release.Record,
	also func(*store.Tx, *release.Policy) error) error {
	compiled, err := release.Compile(ctx, record, p.now)
	if err != nil {
		return err
	}
	text, err := record.Marshal()
	if err != nil {
		return err
	}
	p.setting.Lock()
	defer p.setting.Unlock()
	next := &releaseInForce{compiled, record}
	if err := p.store.Update(ctx, func(tx *store.Tx) error {
		p.written.Store(next)
		return errors.Join(tx.Put(releasePolicies, releasePolicyID+policySuffix, text), also(tx, compiled))
	}); err != nil {
		p.written.Store(p.releases.Load())
		return err
	}
	p.releases.Store(next)
	return nil
}

// stillReleases says, in a transaction, whether a release policy is the one that was written last. Transactions run
// one after the other, so none that relies on it comes after one that replaced the policy.
func (p *policies) stillReleases(policy *releaseInForce) bool { return p.written.Load() == policy }

// settle waits until what was written is in force.
func (p *policies) settle() {
	p.setting.Lock()
	defer p.setting.Unlock()
}

// setAppraisal puts a compiled appraisal policy in force, in one transaction with what also does there.
func (p *policies) setAppraisal(ctx context.Context, class attest.Class, compiled *appraisal.Policy, text string,
	also func(*store.Tx) error) error {
	p.setting.Lock()
	defer p.setting.Unlock()
	if err := p.store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(tx.Put(appraisalPolicies, appraisal.PolicyID(class)+policySuffix, []byte(text)), also(tx))
	}); err != nil {
		return err
	}
	next := map[attest.Class]*appraisalInForce{}
	for c, policy := range *p.classes.Load() {
		next[c] = policy
	}
	next[class] = &appraisalInForce{compiled, text}
	p.classes.Store(&next)
	return nil
}
