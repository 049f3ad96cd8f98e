// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// sessions is the namespace of used sessions: session id to token. A row says that the session's nonce was used.
const sessions store.Namespace = "session"

// What tokens say of who made them.
const (
	tokenIssuer    = "nacre-trustee"
	tokenDeveloper = "https://github.com/nacre-project/nacre"
	tokenBuild     = "nacre-trustee"
)

// RootOfTrust is the member of a submodule that names what the evidence's chain of signatures ended in.
const RootOfTrust = "nacre.root-of-trust"

// maxEvidence caps the primary evidence, in bytes; a platform's event log can be large.
const maxEvidence = 1 << 20

// maxToken caps a token, in bytes. Guests send it as a header, and what is between them and the trustee caps those.
const maxToken = 256 << 10

// auth answers with a challenge. All that it knows afterwards is in the client's cookie.
func (b *Broker) auth(ctx context.Context, c *call) (*reply, error) {
	b.metrics.auths.Inc()
	if err := b.admit(c); err != nil {
		return nil, err
	}
	c.limit = min(c.limit, kbs.MaxRequestSize)
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	request, err := kbs.ParseRequest(body)
	if errors.Is(err, kbs.ErrVersion) {
		return nil, fail(http.StatusUnauthorized, variantAttestation, codeVersion,
			"Attestation error: RCAR handshake Auth failed: "+err.Error()).because(err)
	} else if err != nil {
		return nil, badRequest(variantSerde, err)
	}
	if _, ok := b.platforms[request.TEE]; !ok {
		return nil, fail(http.StatusUnauthorized, variantAttestation, string(attest.CodeEvidenceUnsupported),
			"Attestation error: RCAR handshake Auth failed: no verifier for this platform is configured").
			because(fmt.Errorf("no verifier for %q is configured", clip(string(request.TEE))))
	}
	s := newSession(request.TEE, b.now().Add(b.tunable.Load().SessionLifetime))
	cookie, err := b.cookie(s)
	if err != nil {
		return nil, err
	}
	answer, err := jsonReply(kbs.Challenge{Nonce: s.challenge()})
	if err != nil {
		return nil, err
	}
	answer.cookie = cookie
	return answer, nil
}

func (b *Broker) cookie(s session) (*http.Cookie, error) {
	value, err := b.cookies.seal(s)
	if err != nil {
		return nil, fmt.Errorf("seal the session: %w", err)
	}
	return &http.Cookie{Name: kbs.SessionCookie, Value: value, Path: "/kbs", Expires: s.expires,
		HttpOnly: true, Secure: b.secureCookie, SameSite: http.SameSiteStrictMode}, nil
}

// session opens the session of a request's cookie.
func (b *Broker) session(c *call) (session, error) {
	cookie, err := c.http.Cookie(kbs.SessionCookie)
	if err != nil {
		return session{}, fail(http.StatusUnauthorized, variantAttestation, codeSessionMissing,
			attestDetail+"there is no session cookie")
	}
	s, err := b.cookies.open(cookie.Value)
	switch {
	case errors.Is(err, errExpired):
		return session{}, fail(http.StatusUnauthorized, variantAttestation, codeSessionExpired,
			attestDetail+"the session has expired").because(err)
	case err != nil:
		return session{}, fail(http.StatusUnauthorized, variantAttestation, codeSessionInvalid,
			attestDetail+"the session is unknown").because(err)
	}
	return s, nil
}

// attest turns evidence into a token.
func (b *Broker) attest(ctx context.Context, c *call) (*reply, error) {
	b.metrics.attests.Inc()
	if err := b.admit(c); err != nil {
		return nil, err
	}
	s, err := b.session(c)
	if err != nil {
		return nil, err
	}
	if !b.attempts.Spend(s.key(), b.now()) {
		return nil, fail(http.StatusUnauthorized, variantAttestation, codeAttempts,
			attestDetail+"the session was tried too often; ask for a new one")
	}
	platform, ok := b.platforms[s.tee]
	if !ok { // configured when the challenge was made, before a restart
		return nil, unsupported("evidence of this kind is not accepted here")
	}
	// All is read before a slot is taken: who sends slowly must not keep one from those who have sent.
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	free, err := b.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	a, err := kbs.ParseAttestation(body)
	if err != nil {
		return nil, badRequest(variantSerde, err)
	}
	if len(a.TEEEvidence.Primary) > maxEvidence {
		return nil, fail(http.StatusRequestEntityTooLarge, variantAttestation, codeTooLarge,
			attestDetail+"the evidence is too large")
	}
	want, err := b.expect(s, a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	verified, err := platform.Verifier.Verify(ctx, a.TEEEvidence.Primary, want)
	if err != nil {
		return nil, b.refuseEvidence(ctx, c, s, platform, a, err)
	}
	return b.accept(ctx, c, s, a, verified, want.InitDataDigest)
}

func unsupported(reason string) *failure {
	return fail(http.StatusUnauthorized, variantAttestation, string(attest.CodeEvidenceUnsupported),
		attestDetail+reason)
}

// slot waits until fewer than the most attestations are verified at the same time.
func (b *Broker) slot(ctx context.Context) (free func(), err error) {
	timer := time.NewTimer(slotTimeout)
	defer timer.Stop()
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, busy("too many attestations at the same time; try again")
	}
}

// expect says what the evidence must be bound to: this session's nonce, the guest's key, and the init-data that came
// along. Of that no more is computed than its digest, since anybody can send some.
func (b *Broker) expect(s session, a *kbs.Attestation) (attest.Expected, error) {
	if subtle.ConstantTimeCompare([]byte(a.RuntimeData.Nonce), []byte(s.challenge())) != 1 {
		return attest.Expected{}, fail(http.StatusUnauthorized, variantAttestation, codeNonceMismatch,
			attestDetail+"the nonce is not this session's")
	}
	if more := a.TEEEvidence.Additional; more != "" && more != "{}" {
		return attest.Expected{}, unsupported("additional evidence of devices is not accepted yet; send " +
			"primary evidence only")
	}
	digest, err := kbs.ReportData(a.RuntimeData.Nonce, a.RuntimeData.TEEPubKey, a.TEEEvidence.Additional)
	if err != nil {
		return attest.Expected{}, badRequest(variantSerde, err)
	}
	want := attest.Expected{ReportData: digest}
	if a.InitData == nil {
		return want, nil
	}
	if known, ok := b.initDatas.Get(a.InitData.Body); ok {
		want.InitDataDigest = known.Digest
		return want, nil
	}
	raw := []byte(a.InitData.Body)
	if want.InitDataDigest, err = initdata.Digest(raw); err != nil {
		return attest.Expected{}, badRequest(variantAttestation, err)
	}
	return want, nil
}

// initData reads the init-data of accepted evidence, which has its digest; nil when none came. Texts are remembered.
func (b *Broker) initData(sent *kbs.InitData, digest []byte) (*appraisal.InitData, error) {
	if sent == nil {
		return nil, nil
	}
	if known, ok := b.initDatas.Get(sent.Body); ok {
		return known, nil
	}
	d, err := appraisal.ReadInitData([]byte(sent.Body), digest)
	if err != nil {
		return nil, badRequest(variantAttestation, err)
	}
	if len(sent.Body) <= rememberedInitDataMax {
		b.initDatas.Add(sent.Body, d)
	}
	return d, nil
}

// refuseEvidence records refused evidence, as far as it was authentic and not seen too often, and says what the
// client is told.
func (b *Broker) refuseEvidence(ctx context.Context, c *call, s session, p Platform, a *kbs.Attestation,
	cause error) error {
	f := attestFailure(cause)
	b.metrics.refused.WithLabelValues(string(s.tee), refusedCode(f.code)).Inc()
	recorded := false
	if p.Describe != nil {
		description, authentic := p.Describe(a.TEEEvidence.Primary, attest.Code(f.code))
		if authentic && b.refused.Spend(description.Identity, b.now()) {
			recorded = true
			r := &audit.Record{Time: b.now(), RequestID: c.id, Event: audit.EventAttest, Decision: audit.Refused,
				Code: f.code, TEE: string(s.tee),
				Measurement: description.Measurement, InitData: description.InitData, Detail: cause.Error()}
			if description.Origin != nil {
				r.Root, r.Simulated = description.Origin(ctx)
			}
			if err := b.commit(ctx, func(tx *store.Tx) error { return audit.Append(tx, r) }); err != nil {
				return fmt.Errorf("record refused evidence: %w", err)
			}
		}
	}
	if !recorded {
		b.metrics.unrecorded.Inc()
	}
	return f
}

// accept appraises verified evidence, and uses up the nonce, keeps the token and records it in one transaction.
func (b *Broker) accept(ctx context.Context, c *call, s session, a *kbs.Attestation, verified *attest.Claims,
	initDataDigest []byte) (*reply, error) {
	policy, err := b.policies.appraisal(verified.Class)
	if err != nil {
		return nil, err
	}
	initData, err := b.initData(a.InitData, initDataDigest)
	if err != nil {
		return nil, err
	}
	now := b.now()
	submod, err := policy.Appraise(ctx, appraisal.Evidence{
		Claims: verified,
		RuntimeData: map[string]any{
			"nonce": a.RuntimeData.Nonce, ear.TEEPublicKeyClaim: members(a.RuntimeData.TEEPubKey),
			"additional-evidence": a.TEEEvidence.Additional,
		},
		InitData: initData,
	}, b.values.Snapshot(), now)
	if errors.Is(err, appraisal.ErrPolicy) {
		return nil, fail(http.StatusInternalServerError, variantPolicyEngine, codePolicyError,
			"the owner's appraisal policy gave no usable answer; the trustee's log says why").because(err)
	} else if err != nil {
		return nil, err
	}
	if verified.Root != "" {
		submod.Extensions[RootOfTrust] = verified.Root
	}
	id := newTokenID()
	claims := &ear.Token{
		Profile: ear.Profile, IssuedAt: now, Expiry: now.Add(b.tunable.Load().TokenLifetime).Truncate(time.Second),
		Issuer: tokenIssuer, ID: id, Verifier: ear.VerifierID{Developer: tokenDeveloper, Build: tokenBuild},
		Submods: map[string]ear.Submod{string(verified.Class) + "0": submod},
	}
	token, err := b.ring.Load().signer.Sign(*claims)
	if err == nil && len(token) > maxToken {
		err = fmt.Errorf("the token has %d bytes, at most %d", len(token), maxToken)
	}
	if err != nil { // the one way in which signing fails is that the claims, the init-data's among them, are too many
		return nil, fail(http.StatusRequestEntityTooLarge, variantAttestation, codeTooLarge, fmt.Sprintf("%s"+
			"its claims do not fit into a token of %d KiB; shrink the init-data", attestDetail, maxToken>>10)).because(err)
	}
	record := audit.Record{Time: now, RequestID: c.id, Event: audit.EventAttest, TEE: string(s.tee),
		Simulated: verified.Simulated, Root: verified.Root, Measurement: text(verified.Values, "measurement"),
		InitData: text(verified.Values, "init_data"),
		Policy:   policyName(appraisal.PolicyID(verified.Class), submod.PolicyDigest)}
	used := false
	err = b.commit(ctx, func(tx *store.Tx) error {
		r := record
		err := tx.InsertExpiring(sessions, s.key(), []byte(token), s.expires)
		if used = errors.Is(err, store.ErrExists); used {
			if !b.refused.Spend("nonce "+s.key(), now) {
				return nil
			}
			r.Decision, r.Code, r.Detail = audit.Refused, codeNonceUsed,
				"the session's nonce was used by evidence that was accepted before"
			return audit.Append(tx, &r)
		} else if err != nil {
			return err
		}
		r.Decision, r.TokenID, r.Detail = audit.Accepted, id, describe(submod)
		return audit.Append(tx, &r)
	})
	if err != nil {
		return nil, fmt.Errorf("record the attestation: %w", err)
	}
	if used {
		b.metrics.refused.WithLabelValues(string(s.tee), codeNonceUsed).Inc()
		return nil, fail(http.StatusUnauthorized, variantAttestation, codeNonceUsed,
			attestDetail+"the session was used already; ask for a new one")
	}
	if len(token) <= rememberedTokenMax {
		b.issued.Add(token, claims)
	}
	b.metrics.accepted.WithLabelValues(string(s.tee)).Inc()
	b.log.LogAttrs(ctx, slog.LevelDebug, "attested", slog.String("tee", string(s.tee)),
		slog.String("status", submod.Status.String()),
		slog.Bool("simulated", verified.Simulated), slog.String("token_id", id))
	// A token is base64url and dots, which JSON has no escapes for.
	answer := &reply{contentType: typeJSON, body: []byte(`{"token":"` + token + `"}`)}
	answer.cookie, err = b.cookie(s)
	return answer, err
}

func newTokenID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// members is a key as an object of its known members.
func members(key kbs.JWK) map[string]any {
	all := map[string]string{
		"kty": key.KTY, "alg": key.ALG, "crv": key.CRV, "x": key.X, "y": key.Y, "n": key.N, "e": key.E,
	}
	out := map[string]any{}
	for name, value := range all {
		if value != "" {
			out[name] = value
		}
	}
	return out
}

func text(values map[string]any, name string) string {
	s, _ := values[name].(string)
	return s
}

// policyName is how audit names a policy: its id and the first digits of its text's digest.
func policyName(id, digest string) string { return id + "@sha256:" + digest[:min(12, len(digest))] }

// describe says in one line how evidence was rated.
func describe(s ear.Submod) string {
	return fmt.Sprintf("appraised as %s: executables %d, hardware %d, configuration %d", s.Status,
		s.Vector.Executables, s.Vector.Hardware, s.Vector.Configuration)
}
