// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"fmt"
	"net/http"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// PolicyTexts are policies that the owner keeps in files. One whose text is empty is administrators' to set.
type PolicyTexts struct {
	Release   release.Record
	Appraisal string // of evidence of CPUs
}

// Check refuses what an administrator could not set either.
func (p PolicyTexts) Check(ctx context.Context) error {
	if p.Release.Text != "" {
		if err := release.Check(ctx, p.Release); err != nil {
			return fmt.Errorf("the release policy's file: %w", err)
		}
	}
	if p.Appraisal != "" {
		if _, err := appraisal.Compile(ctx, p.Appraisal); err != nil {
			return fmt.Errorf("the appraisal policy's file: %w", err)
		}
	}
	return nil
}

// SetPolicies puts the policies of files in force, where others are, and keeps administrators from setting them.
func (b *Broker) SetPolicies(ctx context.Context, p PolicyTexts) error {
	if err := p.Check(ctx); err != nil {
		return err
	}
	b.fromFiles.Store(&p)
	record := func(what, policy string) *audit.Record {
		return &audit.Record{Time: b.now(), Event: audit.EventAdmin, Decision: audit.Changed,
			Detail: "set " + what + ", by its file", Policy: policy}
	}
	if p.Release.Text != "" && b.policies.release().record != p.Release {
		err := b.policies.setRelease(ctx, p.Release, func(tx *store.Tx, compiled *release.Policy) error {
			return audit.Append(tx, record(fmt.Sprintf("the release policy (allow_simulated=%t unsafe_any_initdata=%t)",
				p.Release.AllowSimulated, p.Release.UnsafeAnyInitData), policyName(releasePolicyID, compiled.Digest())))
		})
		if err != nil {
			return fmt.Errorf("set the release policy: %w", err)
		}
	}
	if inForce, err := b.policies.appraisal(attest.ClassCPU); p.Appraisal == "" || err == nil && inForce.text == p.Appraisal {
		return nil
	}
	compiled, err := appraisal.Compile(ctx, p.Appraisal)
	if err != nil {
		return err
	}
	id := appraisal.PolicyID(attest.ClassCPU)
	err = b.policies.setAppraisal(ctx, attest.ClassCPU, compiled, p.Appraisal, func(tx *store.Tx) error {
		return audit.Append(tx, record("the appraisal policy "+id, policyName(id, compiled.Digest())))
	})
	if err != nil {
		return fmt.Errorf("set the appraisal policy: %w", err)
	}
	return nil
}

// notFromFile refuses to set a policy that a file holds: at the next look at the file it would be undone.
func notFromFile(text string) error {
	if text == "" {
		return nil
	}
	return fail(http.StatusConflict, variantPolicyEngine, codePolicyFromFile,
		"this policy is kept in a file at the trustee; change the file")
}
