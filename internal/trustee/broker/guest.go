// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// guest is an attested guest, as a verified token describes it.
type guest struct {
	claims  *release.Token
	key     kbs.JWK // what it is sent is sealed to
	expires time.Time
	// record holds what audit keeps of the guest, in each record of a request of its.
	record audit.Record
}

// plugin answers everything below the protocol's prefix that has no route of its own: the first segment names a plugin.
func (b *Broker) plugin(ctx context.Context, c *call) (_ *reply, err error) {
	segments := strings.Split(c.rest, "/")
	name, path := segments[0], segments[1:]
	plugin, ok := b.plugins[name]
	if !ok {
		return nil, fail(http.StatusNotFound, variantNoPlugin, codePluginUnknown,
			fmt.Sprintf("Plugin %s not found", clip(name)))
	}
	defer b.metrics.plugin(name, time.Now(), &err)
	query, err := c.query()
	if err != nil {
		return nil, err
	}
	switch plugin.Access(c.http.Method, path) {
	case resource.Admin:
		return b.administer(ctx, c, name, plugin, path, query)
	case resource.Release:
		return b.release(ctx, c, name, plugin, path, query)
	}
	return nil, methodNotAllowed(c.http.Method, slices.DeleteFunc(slices.Clone(pluginMethods), func(method string) bool {
		return plugin.Access(method, path) == resource.Nobody
	}))
}

// release lets a guest have what it asks for, if it may.
func (b *Broker) release(ctx context.Context, c *call, name string, plugin resource.Plugin, path []string,
	query map[string]string) (*reply, error) {
	g, err := b.guest(ctx, c)
	if err != nil {
		return nil, err
	}
	// All is read before anything is decided: who sends slowly must not keep a decision while the policy changes.
	request := resource.Request{Method: c.http.Method, Path: path, Query: query}
	if request.Body, err = c.body(); err != nil {
		return nil, err
	}
	for range policyChanges {
		answer, err := b.decide(ctx, c, g, name, plugin, request)
		if !errors.Is(err, errPolicyChanged) {
			return answer, err
		}
		b.policies.settle()
	}
	f := fail(http.StatusServiceUnavailable, variantPolicyEngine, codeBusy,
		"the owner is changing the release policy; ask again").because(errPolicyChanged)
	f.retryAfter = time.Second
	return nil, f
}

// policyChanges is how often the policy may change while one request is decided.
const policyChanges = 4

// errPolicyChanged says that the policy that let a guest have something was replaced before that was recorded.
var errPolicyChanged = errors.New("the release policy changed while it was asked")

// decide answers a request by the policy in force, or with errPolicyChanged if it no longer was in the end.
func (b *Broker) decide(ctx context.Context, c *call, g *guest, name string, plugin resource.Plugin,
	request resource.Request) (*reply, error) {
	path, query := request.Path, request.Query
	policy := b.policies.release()
	record := g.record
	record.Time, record.RequestID, record.Event = b.now(), c.id, audit.EventRelease
	record.Resource, record.Policy = resourceName(name, path), policyName(releasePolicyID, policy.Digest())
	b.metrics.evaluations.Inc()
	if err := policy.Decide(ctx, g.claims, release.Request{Plugin: name, Path: path, Query: query}); err != nil {
		b.metrics.violations.Inc()
		denial, ok := errors.AsType[*release.Denial](err)
		if !ok || denial.Code == release.CodePolicyError {
			b.metrics.policyErrors.Inc()
		}
		if !ok {
			return nil, err
		}
		f := fail(http.StatusForbidden, variantPolicyDeny, string(denial.Code), "Access denied by policy").because(err)
		return nil, b.refuseRelease(ctx, record, f, denial.Detail)
	}
	b.metrics.approvals.Inc()
	answer, err := plugin.Handle(ctx, request)
	if err != nil {
		f := pluginFailure(name, err)
		return nil, b.refuseRelease(ctx, record, f, err.Error())
	}
	envelope, err := kbs.Seal(g.key, answer.Body.Reveal())
	if err != nil {
		return nil, fmt.Errorf("seal the resource to the guest's key: %w", err)
	}
	out, err := jsonReply(envelope)
	if err != nil {
		return nil, err
	}
	record.Decision = audit.Released
	err = b.commit(ctx, func(tx *store.Tx) error {
		if !b.policies.stillReleases(policy) {
			return errPolicyChanged
		}
		if answer.Change != nil {
			if err := answer.Change(tx); err != nil {
				return err
			}
		}
		return audit.Append(tx, &record)
	})
	if err != nil {
		return nil, fmt.Errorf("record the release: %w", err)
	}
	b.metrics.resourceReads.Inc()
	b.log.LogAttrs(ctx, slog.LevelDebug, "released", slog.String("resource", record.Resource),
		slog.String("token_id", record.TokenID),
		slog.Int64("audit_id", record.ID))
	return out, nil
}

// refuseRelease records a refusal, unless the token was refused too often, and returns it.
func (b *Broker) refuseRelease(ctx context.Context, record audit.Record, f *failure, detail string) error {
	if !b.denied.Spend(record.TokenID, b.now()) {
		b.metrics.unrecordedDenials.Inc()
		return f
	}
	record.Decision, record.Code, record.Detail = audit.Refused, f.code, detail
	if err := b.commit(ctx, func(tx *store.Tx) error { return audit.Append(tx, &record) }); err != nil {
		return fmt.Errorf("record the refusal %q: %w", f.code, err)
	}
	return f
}

// pluginFailure tells why a plugin did not answer.
func pluginFailure(name string, err error) *failure {
	switch {
	case errors.Is(err, resource.ErrNotFound):
		return fail(http.StatusNotFound, variantPlugin, codeResourceNotFound,
			"Plugin internal error: there is no such resource").because(err)
	case errors.Is(err, resource.ErrPath):
		return badRequest(variantPlugin, err)
	case errors.Is(err, resource.ErrTooLarge):
		return fail(http.StatusRequestEntityTooLarge, variantPlugin, codeTooLarge, err.Error()).because(err)
	}
	return fail(http.StatusInternalServerError, variantPlugin, codeInternal,
		"Plugin internal error").because(fmt.Errorf("plugin %s: %w", name, err))
}

// resourceName is how audit names what was asked for: as a resource URI, where its characters allow.
func resourceName(plugin string, path []string) string {
	uri := kbs.ResourceURI{Plugin: plugin, Path: path}
	if err := uri.Validate(); err != nil {
		return fmt.Sprintf("%s: %q", plugin, clip(strings.Join(path, "/")))
	}
	return uri.String()
}

// guest says who asks: by the session that the cookie names, or else by the bearer token.
func (b *Broker) guest(ctx context.Context, c *call) (*guest, error) {
	bearer := c.bearer()
	token, err := b.sessionToken(ctx, c)
	if err != nil && bearer == "" {
		return nil, err
	}
	if err == nil {
		g, err := b.verifyToken(c, token)
		if err == nil || bearer == "" {
			return g, err
		}
	}
	return b.verifyToken(c, bearer)
}

// sessionToken returns the token of the session that a request's cookie names.
func (b *Broker) sessionToken(ctx context.Context, c *call) (string, error) {
	missing := func(code string, cause error) error {
		return fail(http.StatusUnauthorized, variantNoToken, code,
			"Attestation Token not found: attest first").because(cause)
	}
	s, err := b.session(c)
	if f, ok := errors.AsType[*failure](err); ok {
		if f.code == codeSessionMissing {
			return "", missing(codeTokenMissing, errors.New("neither a session cookie nor a bearer token"))
		}
		return "", missing(f.code, err)
	}
	token, err := b.store.GetExpiring(ctx, sessions, s.key())
	if errors.Is(err, store.ErrNotFound) {
		return "", missing(codeTokenMissing, errors.New("the session has not attested"))
	}
	return string(token), err
}

// verifyToken verifies a token. Tokens seen before are remembered, and so are those that were signed here and not used
// yet; only the clock can have changed since.
func (b *Broker) verifyToken(c *call, compact string) (*guest, error) {
	now := b.now()
	keys := b.trusted(now) // first: it forgets tokens of keys whose time is over
	if g, ok := b.tokens.Get(compact); ok {
		if !now.Before(g.expires) {
			return nil, tokenFailure(ear.ErrExpired)
		}
		c.known = true
		return g, nil
	}
	if token, ok := b.issued.Get(compact); ok && now.Before(token.Expiry) {
		b.issued.Remove(compact)
		return b.remember(c, compact, token, token.Claims())
	}
	if err := b.admit(c); err != nil {
		return nil, err
	}
	token, claims, err := ear.Verify(compact, keys, now, ear.Options{})
	if err != nil {
		return nil, tokenFailure(err)
	}
	if token.Issuer != tokenIssuer {
		return nil, tokenFailure(fmt.Errorf("the token's issuer is %q, not %q", clip(token.Issuer), tokenIssuer))
	}
	if lives := token.Expiry.Sub(token.IssuedAt); lives > MaxTokenLifetime {
		return nil, tokenFailure(fmt.Errorf("the token lives for %s, at most %s are given", lives, MaxTokenLifetime))
	}
	return b.remember(c, compact, token, claims)
}

// remember returns the guest that a verified token describes, and keeps it for the token's next use.
func (b *Broker) remember(c *call, compact string, token *ear.Token, claims map[string]any) (*guest, error) {
	g, err := newGuest(token, claims)
	if err != nil {
		return nil, tokenFailure(err)
	}
	if len(compact) <= rememberedTokenMax {
		b.tokens.Add(compact, g)
	}
	c.known = true
	return g, nil
}

func tokenFailure(err error) *failure {
	if errors.Is(err, ear.ErrExpired) {
		return fail(http.StatusUnauthorized, variantToken, codeTokenExpired,
			"the attestation token has expired: attest again").because(err)
	}
	return fail(http.StatusUnauthorized, variantToken, codeTokenInvalid,
		"the attestation token is not valid here: attest again").because(err)
}

func newGuest(token *ear.Token, claims map[string]any) (*guest, error) {
	text, err := token.TEEPublicKey()
	if err != nil {
		return nil, err
	}
	key, err := kbs.ParseJWK(text)
	if err != nil {
		return nil, fmt.Errorf("the token's TEE public key: %w", err)
	}
	prepared, err := release.NewToken(token, claims)
	if err != nil {
		return nil, err
	}
	g := &guest{claims: prepared, key: key, expires: token.Expiry}
	g.record.TokenID, g.record.Simulated = token.ID, token.Simulated()
	primary := token.Submods[ear.PrimarySubmod]
	g.record.Root, _ = primary.Extensions[RootOfTrust].(string)
	g.record.InitData, _ = primary.Evidence["init_data"].(string)
	for name, value := range primary.Evidence {
		if tee, ok := value.(map[string]any); ok && name != ear.RuntimeDataClaims && name != ear.InitDataClaims {
			g.record.TEE = name
			g.record.Measurement, _ = tee["measurement"].(string)
		}
	}
	return g, nil
}
