// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/bench/floor"
	"github.com/nacre-project/nacre/kbs"
)

// newTokenPrefix is where the floor answers requests that bring a token which the trustee sees for the first time.
const newTokenPrefix = "/new-token"

// What no broker can leave out, by name and count. Chains of certificates, tokens, and what a policy without a clock
// allowed once can be remembered: a chain counts for no request; a token's verification and the evaluation of the
// release policy count for the first request that brings the token.
var (
	attestWork        = []floor.Primitive{floor.VerifyP384, floor.SignP256}
	resourceWork      = []floor.Primitive{floor.AgreeP256, floor.SealGCM}
	resourceFirstWork = []floor.Primitive{floor.VerifyP256, floor.AgreeP256, floor.SealGCM}
)

// Sizes of what is hashed, in bytes: the signed part of an SEV-SNP report (ABI specification, table 23), and nonce
// and key as canonical JSON.
const (
	signedReport = 0x2A0
	boundJSON    = 300
)

// stage is a trustee whose guests can get their secret, and its floor.
type stage struct {
	installation installation
	fleet        *fleet
	settings     floor.Settings

	server, floorServer *server
	trustee, floor      *crowd
}

// newStage installs a trustee under a name, starts it, does what its owner does, and starts a floor for it.
func (b *bench) newStage(ctx context.Context, name string, padded bool, env ...string) (st *stage, err error) {
	st = &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	if st.installation, err = newInstallation(b.Trustee, filepath.Join(b.Dir, name), b.cert, b.Platform); err != nil {
		return st, err
	}
	if st.server, err = st.installation.start(ctx, "", env...); err != nil {
		return st, err
	}
	st.trustee = newCrowd(st.server, b.cert.pool, clients)
	initData, err := b.InitData(trusteeURL, b.cert.pem, podOf(sampleImage))
	if err != nil {
		return st, err
	}
	if st.fleet, err = newFleet(b.Platform, initData); err != nil {
		return st, err
	}
	a, err := st.installation.administrator(st.server)
	if err != nil {
		return st, err
	}
	defer a.close()
	if err := st.fleet.provision(ctx, a, padded); err != nil {
		return st, err
	}
	if err := st.observe(ctx, a); err != nil {
		return st, err
	}
	st.floorServer, err = b.startFloor(ctx, st, "")
	if err != nil {
		return st, err
	}
	st.floor = newCrowd(st.floorServer, b.cert.pool, clients)
	return st, errors.Join(st.trustee.connect(ctx), st.floor.connect(ctx))
}

// close stops what runs.
func (st *stage) close() error {
	var errs []error
	for _, c := range []*crowd{st.trustee, st.floor} {
		if c != nil {
			c.close()
		}
	}
	for _, s := range []*server{st.server, st.floorServer} {
		if s != nil {
			errs = append(errs, s.stop())
		}
	}
	return errors.Join(errs...)
}

// startFloor starts the floor of a stage; a profile path makes it profile itself.
func (b *bench) startFloor(ctx context.Context, st *stage, profile string) (*server, error) {
	s := st.settings
	s.Cert, s.Key = b.cert.certPath, b.cert.keyPath
	s.Journal, s.CPUProfile = st.installation.path("journal"), profile
	path := st.installation.path("floor.json")
	if err := s.Write(path); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.Floor, "-settings", path)
	cmd.Stderr = os.Stderr
	return startServer(ctx, cmd)
}

// observe walks one guest through the protocol, and makes of what was sent, appraised, recorded and answered the
// floor's settings.
func (st *stage) observe(ctx context.Context, a *administrator) error {
	client := st.trustee.clients[0]
	guest, err := st.fleet.attestation(ctx, client, st.trustee.url)
	if err != nil {
		return err
	}
	attested, attestHeader, err := send(ctx, client, st.trustee.url, guest.request)
	if err != nil {
		return err
	}
	asks, err := bearers([][]byte{attested}, 1)
	if err != nil {
		return err
	}
	released, releaseHeader, err := send(ctx, client, st.trustee.url, asks[0])
	if err != nil {
		return err
	}
	if err := guest.check(released); err != nil {
		return err
	}
	claims, err := tokenClaims(asks[0].bearer)
	if err != nil {
		return err
	}
	evidence, err := annotatedEvidence(claims)
	if err != nil {
		return err
	}
	appraisal, err := a.attestationPolicy(ctx)
	if err != nil {
		return err
	}
	release, err := a.ResourcePolicy(ctx)
	if err != nil {
		return err
	}
	references, err := a.referenceValues(ctx)
	if err != nil {
		return err
	}
	records, err := a.Audit(ctx, 0, 1000)
	if err != nil {
		return err
	}
	attestRoute := floor.Route{
		Method: http.MethodPost, Path: attestPath, Work: attestWork,
		SHA384: []int{signedReport, boundJSON}, SHA256: []int{len(st.fleet.initData), len(asks[0].bearer)},
		Policy: appraisal, Query: "data.policy.trust_claims", Input: evidence, References: references,
		Record: recordSize(records, "attest"), Answer: string(attested), Header: attestHeader,
	}
	firstRoute := floor.Route{
		Method: http.MethodGet, Path: newTokenPrefix + resourcePath, Work: resourceFirstWork, SHA256: []int{len(asks[0].bearer)},
		Policy: release.Policy, Query: "data.policy.allow", Input: claims,
		Data: map[string]any{
			"plugin": "resource", "resource-path": strings.Split(secretPath, "/"), "query": map[string]any{},
		},
		Record: recordSize(records, "release"), Answer: string(released), Header: releaseHeader,
	}
	againRoute := firstRoute
	againRoute.Path, againRoute.Work, againRoute.SHA256, againRoute.Policy = resourcePath, resourceWork, nil, ""
	st.settings.Routes = []floor.Route{attestRoute, firstRoute, againRoute}
	for i := range st.settings.Routes {
		st.settings.Routes[i].Header = withoutOwn(st.settings.Routes[i].Header)
	}
	return nil
}

// withoutOwn is a header without what a server sets itself.
func withoutOwn(h http.Header) http.Header {
	h = maps.Clone(h)
	h.Del("Date")
	h.Del("Content-Length")
	return h
}

// recordSize is the size of the newest audit record of an event, in bytes.
func recordSize(records []kbs.AuditRecord, event string) (size int) {
	for _, r := range records {
		if text, err := json.Marshal(r); err == nil && r.Event == event {
			size = len(text)
		}
	}
	return size
}

// tokenClaims reads a token's claims; the trustee that made it was asked directly.
func tokenClaims(token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("reading a token: it is not a compact JWS")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("reading a token: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil {
		return nil, fmt.Errorf("reading a token: %w", err)
	}
	return claims, nil
}

// annotatedEvidence is what the appraisal policy saw as its input, which a token repeats.
func annotatedEvidence(claims map[string]any) (any, error) {
	submods, _ := claims["submods"].(map[string]any)
	cpu, _ := submods[ear.PrimarySubmod].(map[string]any)
	evidence, ok := cpu[ear.AnnotatedEvidence]
	if !ok {
		return nil, errors.New("reading a token: it holds no appraised evidence")
	}
	if status, _ := cpu["ear.status"].(string); status != "affirming" {
		return nil, fmt.Errorf("the guests are appraised as %q, want affirming: does the appraisal policy "+
			"ask for reference values that the benchmark does not register?", status)
	}
	return evidence, nil
}

// first turns requests into those of the floor for tokens that were not seen before.
func first(list []request) []request {
	out := make([]request, len(list))
	for i, r := range list {
		r.path = newTokenPrefix + r.path
		out[i] = r
	}
	return out
}
