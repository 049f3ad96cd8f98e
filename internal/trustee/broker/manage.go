// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// Lists are answered in one piece, up to these many.
const (
	maxListed  = 10_000
	maxRecords = 1000
)

// changed is the audit record of an administrator's change.
func (b *Broker) changed(ctx context.Context, c *call, who admin.Identity, format string, args ...any) audit.Record {
	what := fmt.Sprintf(format, args...)
	b.log.LogAttrs(ctx, slog.LevelInfo, "an administrator changes something", slog.String("what", what),
		slog.String("key", who.Key))
	return audit.Record{Time: b.now(), RequestID: c.id, Event: audit.EventAdmin, Decision: audit.Changed,
		Detail: what + ", by the key " + who.Key}
}

// administer lets an administrator do something with a plugin.
func (b *Broker) administer(ctx context.Context, c *call, name string, plugin resource.Plugin, path []string,
	query map[string]string) (*reply, error) {
	who, err := b.router.administrator(c, variantAdminPlugin)
	if err != nil {
		return nil, err
	}
	request := resource.Request{Method: c.http.Method, Path: path, Query: query}
	if request.Body, err = c.body(); err != nil {
		return nil, err
	}
	answer, err := plugin.Handle(ctx, request)
	if err != nil {
		return nil, pluginFailure(name, err)
	}
	record := b.changed(ctx, c, who, "%s %s", request.Method, resourceName(name, path))
	record.Resource = resourceName(name, path)
	err = b.commit(ctx, func(tx *store.Tx) error {
		if answer.Change != nil {
			if err := answer.Change(tx); err != nil {
				return err
			}
		}
		return audit.Append(tx, &record)
	})
	if err != nil {
		return nil, pluginFailure(name, err)
	}
	switch request.Method {
	case http.MethodPost, http.MethodPut:
		b.metrics.resourceWrites.Inc()
	case http.MethodDelete:
		b.metrics.resourceDeletes.Inc()
	}
	return &reply{contentType: typeXML, body: answer.Body.Reveal()}, nil
}

// policyBody reads the body of a request that sets a policy, and the policy's text in it.
func policyBody(c *call) (kbs.SetPolicyRequest, string, error) {
	body, err := c.body()
	if err != nil {
		return kbs.SetPolicyRequest{}, "", err
	}
	var request kbs.SetPolicyRequest
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&request); err != nil {
		return request, "", badRequest(variantSerde, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return request, "", badRequest(variantSerde, errors.New("text follows the JSON object"))
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(request.Policy, "="))
	if err != nil {
		return request, "", badRequest(variantSerde, fmt.Errorf("the policy is not URL-safe base64: %w", err))
	}
	return request, string(text), nil
}

func badPolicy(err error) *failure {
	return fail(http.StatusBadRequest, variantPolicyParse, codeBadPolicy, err.Error()).because(err)
}

func (b *Broker) setReleasePolicy(ctx context.Context, c *call, who admin.Identity) (*reply, error) {
	if err := notFromFile(b.fromFiles.Load().Release.Text); err != nil {
		return nil, err
	}
	request, text, err := policyBody(c)
	if err != nil {
		return nil, err
	}
	record := release.Record{Text: text, AllowSimulated: request.AllowSimulated,
		UnsafeAnyInitData: request.UnsafeAnyInitData}
	if err := release.Check(ctx, record); err != nil {
		return nil, badPolicy(err)
	}
	change := b.changed(ctx, c, who, "set the release policy (allow_simulated=%t unsafe_any_initdata=%t)",
		record.AllowSimulated, record.UnsafeAnyInitData)
	err = b.policies.setRelease(ctx, record, func(tx *store.Tx, p *release.Policy) error {
		change.Policy = policyName(releasePolicyID, p.Digest())
		return audit.Append(tx, &change)
	})
	if err != nil {
		return nil, fmt.Errorf("set the release policy: %w", err)
	}
	if record.AllowSimulated || record.UnsafeAnyInitData {
		b.log.WarnContext(ctx, "the release policy in force is for development only",
			"allow_simulated", record.AllowSimulated, "unsafe_any_initdata", record.UnsafeAnyInitData)
	}
	return &reply{contentType: typeXML}, nil
}

func (b *Broker) setAttestationPolicy(ctx context.Context, c *call, who admin.Identity) (*reply, error) {
	if err := notFromFile(b.fromFiles.Load().Appraisal); err != nil {
		return nil, err
	}
	request, text, err := policyBody(c)
	if err != nil {
		return nil, err
	}
	class, err := classOf(request.PolicyID)
	if err != nil {
		return nil, badPolicy(err)
	}
	compiled, err := appraisal.Compile(ctx, text)
	if err != nil {
		return nil, badPolicy(err)
	}
	change := b.changed(ctx, c, who, "set the appraisal policy %s", request.PolicyID)
	change.Policy = policyName(request.PolicyID, compiled.Digest())
	err = b.policies.setAppraisal(ctx, class, compiled, text,
		func(tx *store.Tx) error { return audit.Append(tx, &change) })
	if err != nil {
		return nil, fmt.Errorf("set the appraisal policy: %w", err)
	}
	return &reply{contentType: typeXML}, nil
}

// classOf is the class of evidence that a policy of an id is for. An id that no evidence would select is a slip.
func classOf(id string) (attest.Class, error) {
	var ids []string
	for _, class := range classes {
		if id == appraisal.PolicyID(class) {
			return class, nil
		}
		ids = append(ids, appraisal.PolicyID(class))
	}
	return "", fmt.Errorf("no evidence is appraised by a policy with the id %q; there is %s", clip(id),
		strings.Join(ids, ", "))
}

func (b *Broker) releasePolicyIDs(context.Context, *call, admin.Identity) (*reply, error) {
	return jsonReply([]string{releasePolicyID})
}

func (b *Broker) releasePolicy(context.Context, *call, admin.Identity) (*reply, error) {
	p := b.policies.release()
	return jsonReply(kbs.ResourcePolicy{ID: releasePolicyID, Policy: p.record.Text, Digest: p.Digest(),
		AllowSimulated:    p.record.AllowSimulated,
		UnsafeAnyInitData: p.record.UnsafeAnyInitData})
}

func (b *Broker) attestationPolicy(_ context.Context, c *call, _ admin.Identity) (*reply, error) {
	class, err := classOf(c.rest)
	if err != nil {
		return nil, fail(http.StatusNotFound, variantPath, codeNotFound, err.Error())
	}
	p, err := b.policies.appraisal(class)
	if err != nil {
		return nil, err
	}
	return jsonReply(map[string]string{"id": c.rest, "policy": p.text, "digest": p.Digest()})
}

func (b *Broker) registerReferenceValue(ctx context.Context, c *call, who admin.Identity) (*reply, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	message, err := refvalue.ParseMessage(body)
	if err != nil {
		return nil, badRequest(variantRVPS, err)
	}
	what := "register the reference values " + strings.Join(message.Names(), " ")
	var replaced []string
	for _, name := range message.Names() {
		if _, err := b.values.Get(name); err == nil {
			replaced = append(replaced, name)
		}
	}
	if len(replaced) > 0 {
		what += ", replacing " + strings.Join(replaced, " ")
	}
	change := b.changed(ctx, c, who, "%s", what)
	if err := b.values.Register(ctx, message, func(tx *store.Tx) error {
		return audit.Append(tx, &change)
	}); err != nil {
		return nil, fmt.Errorf("register reference values: %w", err)
	}
	return &reply{contentType: typeJSON}, nil
}

func noReferenceValue(err error) error {
	if errors.Is(err, refvalue.ErrNotFound) {
		return fail(http.StatusNotFound, variantRVPS, codeNotFound, err.Error()).because(err)
	}
	return err
}

func (b *Broker) referenceValue(_ context.Context, c *call, _ admin.Identity) (*reply, error) {
	value, err := b.values.Get(c.rest)
	if err != nil {
		return nil, noReferenceValue(err)
	}
	return &reply{contentType: typeJSON, body: value.Value}, nil
}

func (b *Broker) listReferenceValues(_ context.Context, c *call, _ admin.Identity) (*reply, error) {
	query, err := c.query()
	if err != nil {
		return nil, err
	}
	list := kbs.ReferenceValueList{Values: []kbs.ReferenceValue{}}
	for _, v := range b.values.List(query["after"], maxListed) {
		list.Values = append(list.Values, kbs.ReferenceValue{Name: v.Name, Value: v.Value, Expiration: v.Expires})
	}
	return jsonReply(list)
}

func (b *Broker) referenceValueHistory(ctx context.Context, c *call, _ admin.Identity) (*reply, error) {
	past, err := b.values.History(ctx, c.rest, maxRecords)
	if errors.Is(err, refvalue.ErrMessage) {
		return nil, badRequest(variantRVPS, err)
	} else if err != nil {
		return nil, err
	}
	return jsonReply(map[string]any{"name": c.rest, "history": past})
}

func (b *Broker) deleteReferenceValue(ctx context.Context, c *call, who admin.Identity) (*reply, error) {
	change := b.changed(ctx, c, who, "delete the reference value %s", clip(c.rest))
	if err := b.values.Delete(ctx, c.rest, func(tx *store.Tx) error { return audit.Append(tx, &change) }); err != nil {
		return nil, noReferenceValue(err)
	}
	return &reply{contentType: typeJSON}, nil
}

func (b *Broker) listResources(ctx context.Context, c *call, _ admin.Identity) (*reply, error) {
	query, err := c.query()
	if err != nil {
		return nil, err
	}
	list, err := b.resources.List(ctx, query["prefix"], query["after"], maxListed)
	if err != nil {
		return nil, err
	}
	return jsonReply(kbs.ResourceList{Resources: list})
}

// number reads a number of a query; an absent one is the default.
func number(query map[string]string, name string, fallback int64) (int64, error) {
	text, ok := query[name]
	if !ok {
		return fallback, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest(variantPath, fmt.Errorf("%s is not a number", name))
	}
	return n, nil
}

func (b *Broker) audit(ctx context.Context, c *call, _ admin.Identity) (*reply, error) {
	query, err := c.query()
	if err != nil {
		return nil, err
	}
	after, err := number(query, "after", 0)
	if err != nil {
		return nil, err
	}
	limit, err := number(query, "limit", maxRecords)
	if err != nil {
		return nil, err
	}
	records, err := audit.List(ctx, b.store, after, int(min(limit, maxRecords)))
	if err != nil {
		return nil, err
	}
	return jsonReply(kbs.AuditPage{Records: records})
}

func (b *Broker) verifyAudit(ctx context.Context, _ *call, _ admin.Identity) (*reply, error) {
	records, head, err := audit.Verify(ctx, b.store)
	switch {
	case errors.Is(err, audit.ErrBroken):
		b.log.ErrorContext(ctx, "the audit chain is broken", "cause", err)
		return jsonReply(map[string]any{"ok": false, "problem": err.Error()})
	case err != nil:
		return nil, err
	}
	return jsonReply(map[string]any{"ok": true, "records": records, "head": head})
}
