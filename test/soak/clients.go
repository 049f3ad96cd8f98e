// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/bench/load"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
	"github.com/nacre-project/nacre/test/soak/model"
)

// The paths that are asked for; few, so that many operations meet at each.
var resources = []string{"soak/a/1", "soak/a/2", "soak/b/1", "soak/b/2"}

// measurementName is the reference value that owners change to and fro.
const measurementName = "snp_launch_measurement"

// digestLength is how many digits of a policy's digest audit writes.
const digestLength = 12

// history is what was done, in no order.
type history struct {
	start time.Time
	mu    sync.Mutex
	ops   []model.Op
}

func (h *history) clock() model.Time { return time.Since(h.start) }

func (h *history) add(op model.Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

// take returns the operations so far and begins anew.
func (h *history) take() []model.Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := h.ops
	h.ops = nil
	return ops
}

// world is what all clients share.
type world struct {
	history
	admin    kbs.AdminKey
	platform *signer.Platform
	launch   signer.Launch
	initData []byte
	values   atomic.Int64 // makes each value another
}

func (w *world) value() string { return fmt.Sprintf("v%d", w.values.Add(1)) }

// owner is an administrator.
type owner struct {
	*world
	wire *wire
}

// send sends an administrator's request.
func (o *owner) send(ctx context.Context, method, path string, body []byte) (answer, error) {
	token, err := o.admin.Token(time.Now(), time.Minute, "nacre-trustee", "admin")
	if err != nil {
		return answer{}, err
	}
	return o.wire.send(ctx, request{method: method, path: path, bearer: token, body: body})
}

// act does one of the things that owners do.
func (o *owner) act(ctx context.Context, random *rand.Rand) error {
	switch n := random.IntN(20); {
	case n < 10:
		return o.put(ctx, resources[random.IntN(len(resources))], max(0, random.IntN(2*longest)-longest))
	case n < 11:
		return o.remove(ctx, resources[random.IntN(len(resources))])
	case n < 12:
		return o.setPolicy(ctx, nil)
	case n < 16:
		return o.setPolicy(ctx, resources[:1+random.IntN(len(resources))])
	case n < 18:
		return o.setReference(ctx, random.IntN(4) > 0)
	case n < 19:
		return o.look(ctx, o.readPolicy)
	default:
		return o.look(ctx, o.readReference)
	}
}

// longest is how long a resource is at most, in bytes: long ones take several pages of the store, and so of the disk.
const longest = 32 << 10

// padding follows the value in a long resource.
const padding = "."

func (o *owner) put(ctx context.Context, path string, more int) error {
	value := o.value()
	a, err := o.send(ctx, http.MethodPost, "/kbs/v0/resource/"+path, []byte(value+strings.Repeat(padding, more)))
	a.op.Kind, a.op.Register, a.op.Value = model.Write, path, value
	o.add(a.op)
	return err
}

func (o *owner) remove(ctx context.Context, path string) error {
	a, err := o.send(ctx, http.MethodDelete, "/kbs/v0/resource/"+path, nil)
	a.op.Kind, a.op.Register = model.Write, path
	if a.op.Outcome == model.Refused {
		a.op.Kind = model.Read // it was not there
	}
	o.add(a.op)
	return err
}

// setPolicy sets a policy that lets affirming guests have some resources; nil for none.
func (o *owner) setPolicy(ctx context.Context, grants []string) error {
	text := templates.DenyAll()
	if grants != nil {
		var err error
		text, err = templates.Affirming{Resources: grants, InitData: []string{hex.EncodeToString(o.launch.HostData[:])}}.Rego()
		if err != nil {
			return err
		}
	}
	text += "\n# " + o.value() + "\n"
	body, err := json.Marshal(kbs.SetPolicyRequest{Policy: base64.RawURLEncoding.EncodeToString([]byte(text)), AllowSimulated: true})
	if err != nil {
		return err
	}
	a, err := o.send(ctx, http.MethodPost, "/kbs/v0/resource-policy", body)
	a.op.Kind, a.op.Register, a.op.Value, a.op.Grants = model.Write, model.Policy, policyValue(text), grants
	o.add(a.op)
	return err
}

// policyValue is how audit names a policy's text.
func policyValue(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])[:digestLength]
}

// setReference registers all reference values; the launch measurement is the guests' or it is not. A second value
// tells this registration from others.
func (o *owner) setReference(ctx context.Context, affirms bool) error {
	values := load.ReferenceValues(o.platform, o.launch)
	mark := o.value()
	measurements := []string{mark}
	if affirms {
		measurements = append(measurements, hex.EncodeToString(o.launch.Measurement[:]))
	}
	values[measurementName] = measurements
	payload, err := json.Marshal(values)
	if err != nil {
		return err
	}
	body, err := json.Marshal(kbs.ReferenceValueMessage{Version: kbs.ReferenceValueVersion, Type: kbs.ReferenceValueType,
		Payload: base64.StdEncoding.EncodeToString(payload)})
	if err != nil {
		return err
	}
	a, err := o.send(ctx, http.MethodPost, "/kbs/v0/reference-value", body)
	a.op.Kind, a.op.Register, a.op.Value, a.op.Affirms = model.Write, model.Reference, mark, affirms
	o.add(a.op)
	return err
}

// look adds what an owner reads to the history.
func (o *owner) look(ctx context.Context, read func(context.Context) (model.Op, error)) error {
	op, err := read(ctx)
	o.add(op)
	return err
}

func (o *owner) readPolicy(ctx context.Context) (model.Op, error) {
	a, err := o.send(ctx, http.MethodGet, "/nacre/v1/resource-policy", nil)
	a.op.Kind, a.op.Register = model.Read, model.Policy
	if err == nil && a.op.Outcome == model.Done {
		var policy kbs.ResourcePolicy
		if err = json.Unmarshal(a.body, &policy); err == nil {
			a.op.Value = policyValue(policy.Policy)
		}
	}
	return a.op, err
}

func (o *owner) readReference(ctx context.Context) (model.Op, error) {
	a, err := o.send(ctx, http.MethodGet, "/kbs/v0/reference-value/"+measurementName, nil)
	a.op.Kind, a.op.Register = model.Read, model.Reference
	switch {
	case a.op.Outcome == model.Refused && a.op.Code == "not_found":
		a.op.Code = model.CodeAbsent
	case err == nil && a.op.Outcome == model.Done:
		var measurements []string
		if err = json.Unmarshal(a.body, &measurements); err == nil && len(measurements) > 0 {
			a.op.Value = measurements[0]
		}
	}
	return a.op, err
}

// trail reads the audit trail after a record.
func (o *owner) trail(ctx context.Context, after int64) ([]kbs.AuditRecord, error) {
	const page = 1000
	var all []kbs.AuditRecord
	for {
		a, err := o.send(ctx, http.MethodGet, fmt.Sprintf("/nacre/v1/audit?after=%d&limit=%d", after, page), nil)
		if err == nil && a.op.Outcome != model.Done {
			err = fmt.Errorf("reading the audit trail: %d %s", a.status, a.body)
		}
		if err != nil {
			return nil, err
		}
		var p kbs.AuditPage
		if err := json.Unmarshal(a.body, &p); err != nil {
			return nil, fmt.Errorf("reading the audit trail: %w", err)
		}
		all = append(all, p.Records...)
		if len(p.Records) < page {
			return all, nil
		}
		after = p.Records[len(p.Records)-1].ID
	}
}

// verifyTrail lets the trustee verify its whole trail, and the log's end that it sealed.
func (o *owner) verifyTrail(ctx context.Context) error {
	a, err := o.send(ctx, http.MethodGet, "/nacre/v1/audit/verify", nil)
	if err != nil {
		return err
	}
	var answer struct {
		OK bool `json:"ok"`
	}
	if a.op.Outcome != model.Done || json.Unmarshal(a.body, &answer) != nil || !answer.OK {
		return fmt.Errorf("the trustee does not verify its audit trail: %d %s", a.status, a.body)
	}
	return nil
}

// asksPerToken is how often a guest asks with one token: below the number of refusals that one token gets records for.
const asksPerToken = 40

// guest is a guest of the simulated platform.
type guest struct {
	*world
	wire      *wire
	processor *signer.Processor

	key       *kbs.TEEKey
	token, id string
	affirming bool
	asks      int
	// presented is the attestation that was accepted last.
	presented request
}

// act does one of the things that guests do.
func (g *guest) act(ctx context.Context, random *rand.Rand) error {
	if g.token == "" || g.asks >= asksPerToken || random.IntN(10) == 0 {
		return g.attest(ctx)
	}
	_, err := g.ask(ctx, resources[random.IntN(len(resources))])
	return err
}

// attest walks through one handshake.
func (g *guest) attest(ctx context.Context) error {
	body, err := json.Marshal(kbs.Request{Version: kbs.ProtocolVersion, TEE: attest.SNP, ExtraParams: json.RawMessage("{}")})
	if err != nil {
		return err
	}
	opened, err := g.wire.send(ctx, request{method: http.MethodPost, path: "/kbs/v0/auth", body: body})
	if err != nil || opened.op.Outcome != model.Done {
		return err // nothing is written for a challenge
	}
	challenge, err := kbs.ParseChallenge(opened.body)
	if err != nil {
		return err
	}
	key, err := kbs.GenerateTEEKey(kbs.ECDHP256)
	if err != nil {
		return err
	}
	reportData, err := kbs.ReportData(challenge.Nonce, key.Public(), "")
	if err != nil {
		return err
	}
	evidence, err := g.processor.Evidence(reportData)
	if err != nil {
		return err
	}
	body, err = json.Marshal(kbs.Attestation{
		InitData:    &kbs.InitData{Format: kbs.InitDataFormat, Body: string(g.initData)},
		RuntimeData: kbs.RuntimeData{Nonce: challenge.Nonce, TEEPubKey: key.Public()},
		TEEEvidence: kbs.TEEEvidence{Primary: evidence},
	})
	if err != nil {
		return err
	}
	r := request{method: http.MethodPost, path: "/kbs/v0/attest", cookies: opened.cookies, body: body}
	a, err := g.wire.send(ctx, r)
	a.op.Kind, a.op.Session = model.Attest, challenge.Nonce
	if err == nil && a.op.Outcome == model.Done {
		g.key, g.asks, g.presented = key, 0, r
		if g.token, g.id, g.affirming, err = readToken(a.body); err == nil {
			a.op.Token, a.op.Affirming = g.id, g.affirming
		}
	}
	g.add(a.op)
	return err
}

// presentAgain sends the attestation again that was accepted last, which must be refused.
func (g *guest) presentAgain(ctx context.Context) error {
	if g.presented.path == "" {
		return nil
	}
	a, err := g.wire.send(ctx, g.presented)
	a.op.Kind = model.Attest
	if err == nil {
		var sent *kbs.Attestation
		if sent, err = kbs.ParseAttestation(g.presented.body); err == nil {
			a.op.Session = sent.RuntimeData.Nonce
		}
	}
	if err == nil && a.op.Outcome == model.Done {
		_, a.op.Token, a.op.Affirming, err = readToken(a.body)
	}
	g.add(a.op)
	return err
}

// ask asks for a resource and opens the answer.
func (g *guest) ask(ctx context.Context, path string) (model.Op, error) {
	g.asks++
	a, err := g.wire.send(ctx, request{method: http.MethodGet, path: "/kbs/v0/resource/" + path, bearer: g.token})
	a.op.Kind, a.op.Register, a.op.Token, a.op.Affirming = model.Ask, path, g.id, g.affirming
	if err == nil && a.op.Outcome == model.Done {
		var envelope *kbs.Envelope
		if envelope, err = kbs.ParseEnvelope(a.body); err == nil {
			value, openErr := g.key.Open(envelope)
			a.op.Value, err = strings.TrimRight(string(value.Reveal()), padding), openErr
		}
	}
	if a.op.Code == model.CodeExpired {
		g.token = ""
	}
	g.add(a.op)
	return a.op, err
}

// readToken reads what a token says of itself; it came from the trustee directly.
func readToken(body []byte) (token, id string, affirming bool, err error) {
	response, err := kbs.ParseTokenResponse(body)
	if err != nil {
		return "", "", false, err
	}
	parts := strings.Split(response.Token, ".")
	if len(parts) != 3 {
		return "", "", false, fmt.Errorf("a token of %d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", "", false, fmt.Errorf("reading a token: %w", err)
	}
	var claims struct {
		ID      string `json:"jti"`
		Submods map[string]struct {
			Status string `json:"ear.status"`
		} `json:"submods"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return "", "", false, fmt.Errorf("reading a token: %w", err)
	}
	return response.Token, claims.ID, claims.Submods["cpu0"].Status == "affirming", nil
}
