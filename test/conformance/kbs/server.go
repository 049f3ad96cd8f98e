// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// The protocol's fixed names (trustee §1.1, §1.7, §1.9).
const (
	prefix     = "/kbs/v0/"
	cookieName = "kbs-session-id"
	errorType  = "https://github.com/confidential-containers/kbs/errors/"
)

// maxAnswer caps what is read of an answer, in bytes.
const maxAnswer = 8 << 20

// server is the server under test.
type server struct {
	options  options
	base     string // without a slash at the end
	http     *http.Client
	tls      *tls.Config
	evidence evidenceSource // nil: nothing to attest with
	admin    func(claims map[string]any) (string, error)

	once    sync.Once // the first attestation, which many cases look at
	first   *attested
	problem error

	prepare sync.Once // what an administrator sets up for the cases about resources
	ready   error
}

func newServer(o options) (*server, error) {
	base, err := url.Parse(o.url)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fmt.Errorf("--url %q: want http(s)://host[:port]", o.url)
	}
	transport := &http.Transport{DisableCompression: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if o.ca != "" {
		text, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", o.ca)
		}
	}
	s := &server{options: o, base: strings.TrimRight(o.url, "/"), tls: transport.TLSClientConfig, http: &http.Client{
		Transport: transport, Timeout: 50 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if s.evidence, err = newSource(o); err != nil {
		return nil, err
	}
	s.admin, err = newAdmin(o)
	return s, err
}

var errNoAdmin = errors.New("there is no administrator's token: name --admin-token, --admin-token-file or --admin-key")

// newAdmin returns what makes administrators' tokens: claims other than nil are signed as they are, where the key is
// known.
func newAdmin(o options) (func(map[string]any) (string, error), error) {
	switch {
	case o.adminKey != "":
		text, err := os.ReadFile(o.adminKey)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s holds no PEM", o.adminKey)
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.adminKey, err)
		}
		key, ok := parsed.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("%s holds a %T, want Ed25519; make a token of it and use --admin-token", o.adminKey, parsed)
		}
		return func(claims map[string]any) (string, error) {
			if claims == nil {
				claims = adminClaims(o.adminAudience, time.Now())
			}
			return adminJWT(key, claims)
		}, nil
	case o.adminTokenFile != "":
		text, err := os.ReadFile(o.adminTokenFile)
		if err != nil {
			return nil, err
		}
		o.adminToken = strings.TrimSpace(string(text))
	}
	if o.adminToken == "" {
		return nil, nil
	}
	return func(claims map[string]any) (string, error) {
		if claims != nil {
			return "", errors.New("only --admin-key can sign other claims")
		}
		return o.adminToken, nil
	}, nil
}

// answer is what came back of a request.
type answer struct {
	what   string // of the request, for notes
	status int
	header http.Header
	body   []byte
}

func (a *answer) cookie() *http.Cookie {
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == cookieName {
			return c
		}
	}
	return nil
}

// mediaType is the Content-Type without parameters, "" when there is none.
func (a *answer) mediaType() string {
	if a.header.Get("Content-Type") == "" {
		return ""
	}
	t, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		return "invalid"
	}
	return t
}

// option changes a request before it is sent.
type option func(*http.Request)

func bearer(token string) option {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func withCookie(value string) option {
	return func(r *http.Request) { r.Header.Add("Cookie", cookieName+"="+value) }
}

func contentType(t string) option {
	return func(r *http.Request) { r.Header.Set("Content-Type", t) }
}

// How long a server that limits the rate of requests is waited for, and how often.
const (
	longestWait = 10 * time.Second
	attempts    = 4
)

// send sends one request: the path goes onto the wire as it is given. A server that has had enough of the suite for a
// moment is asked again when it says.
func (s *server) send(ctx context.Context, method, path string, body []byte, options ...option) (*answer, error) {
	for n := 1; ; n++ {
		a, err := s.roundTrip(ctx, method, path, body, options...)
		if err != nil || a.status != http.StatusTooManyRequests || n == attempts {
			return a, err
		}
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil {
			seconds = 1
		}
		timer := time.NewTimer(min(time.Duration(seconds)*time.Second, longestWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
}

func (s *server) roundTrip(ctx context.Context, method, path string, body []byte, options ...option) (*answer, error) {
	target, err := url.Parse(s.base)
	if err != nil {
		return nil, err
	}
	r := (&http.Request{Method: method, URL: target, Host: target.Host, Header: http.Header{}}).WithContext(ctx)
	target.Opaque = "//" + target.Host + target.Path + path // neither cleaned nor escaped
	r.Header.Set("User-Agent", "nacre-conformance")
	if body != nil {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	for _, o := range options {
		o(r)
	}
	response, err := s.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	a := &answer{what: method + " " + path, status: response.StatusCode, header: response.Header}
	a.body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return a, err
}

// ask is send for a case, which an error in transit fails.
func (s *server) ask(ctx context.Context, p *suite.Probe, method, path string, body []byte, options ...option) *answer {
	a, err := s.send(ctx, method, path, body, options...)
	if err != nil {
		p.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// may is a status other than the documented one that a server may give, and why.
type may struct {
	status int
	why    string
}

// demand checks a status. It returns whether it is the one documented, or one that may be.
func (a *answer) demand(p *suite.Probe, status int, others ...may) bool {
	if a.status == status {
		return true
	}
	for _, other := range others {
		if a.status == other.status {
			p.Differsf("%s: %d where stock servers answer %d: %s", a.what, a.status, status, other.why)
			return true
		}
	}
	p.Failf("%s: status %d, want %d: %.200s", a.what, a.status, status, a.body)
	return false
}

// refusal is what the body of a refusal must say.
type refusal struct {
	variants []string // of the type; any when empty
	text     string   // part of the detail
}

// refused checks that a request was refused as the protocol does (trustee §1.9).
func (a *answer) refused(p *suite.Probe, status int, want refusal, others ...may) {
	if !a.demand(p, status, others...) {
		return
	}
	if t := a.mediaType(); t != "" && t != "application/json" {
		p.Failf("%s: a refusal of the type %q, want application/json or none", a.what, t)
	}
	var members map[string]any
	if err := json.Unmarshal(a.body, &members); err != nil {
		p.Failf("%s: the refusal is not a JSON object: %.200s", a.what, a.body)
		return
	}
	kind, _ := members["type"].(string)
	detail, isText := members["detail"].(string)
	variant, ok := strings.CutPrefix(kind, errorType)
	switch {
	case !ok || variant == "":
		p.Failf("%s: type %q, want %s and a variant", a.what, kind, errorType)
	case !isText || detail == "":
		p.Failf("%s: no detail: %.200s", a.what, a.body)
	case len(want.variants) > 0 && !slices.Contains(want.variants, variant):
		p.Failf("%s: variant %s, want %s", a.what, variant, strings.Join(want.variants, " or "))
	case !strings.Contains(detail, want.text):
		p.Failf("%s: detail %q does not contain %q", a.what, detail, want.text)
	}
}

// harmless checks that foreign input was refused, whatever the words: not a success, and not the server's fault.
func (a *answer) harmless(p *suite.Probe, what string) {
	if a.status < 400 || a.status >= 500 || a.status == http.StatusTooManyRequests {
		p.Failf("%s: %s: status %d, want a refusal (4xx): %.200s", what, a.what, a.status, a.body)
	}
}

// object parses an answer's JSON object.
func (a *answer) object(p *suite.Probe) map[string]any {
	var members map[string]any
	if err := json.Unmarshal(a.body, &members); err != nil || members == nil {
		p.Fatalf("%s: not a JSON object: %.200s", a.what, a.body)
	}
	return members
}

func names(members map[string]any) []string { return slices.Sorted(maps.Keys(members)) }

// authBody is a request as stock guests send it.
func authBody(tee string) []byte {
	return []byte(`{"version":"0.4.0","tee":"` + tee +
		`","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}`)
}

// tee is the platform that challenges are asked for.
func (s *server) tee() string {
	switch {
	case s.evidence != nil:
		return s.evidence.tee()
	case s.options.tee != "":
		return s.options.tee
	}
	return "snp"
}

// challenge asks for a challenge.
func (s *server) challenge(ctx context.Context) (nonce, cookie string, err error) {
	a, err := s.send(ctx, http.MethodPost, prefix+"auth", authBody(s.tee()), contentType("application/json"))
	if err != nil {
		return "", "", err
	}
	var c struct {
		Nonce string `json:"nonce"`
	}
	if a.status != http.StatusOK || json.Unmarshal(a.body, &c) != nil || c.Nonce == "" || a.cookie() == nil {
		return "", "", fmt.Errorf("no challenge: status %d: %.200s", a.status, a.body)
	}
	return c.Nonce, a.cookie().Value, nil
}

// attempt is an attestation, to be deviated from before it is sent.
type attempt struct {
	cookie, nonce string
	key           *teeKey
	additional    string
	initData      *string // text; nil: the member is null
	evidence      any     // primary evidence; nil: made of the rest
	bound         []byte  // report data; nil: made of the rest
	launched      []byte  // init-data digest that the guest was launched with
	body          map[string]any
}

// attempt prepares an attestation that must succeed.
func (s *server) attempt(ctx context.Context, p *suite.Probe) *attempt {
	if s.evidence == nil {
		p.Skipf("%v", errNoEvidence)
	}
	a := &attempt{}
	var err error
	if a.nonce, a.cookie, err = s.challenge(ctx); err != nil {
		p.Fatalf("%v", err)
	}
	if a.key, err = newKey("ECDH-ES+A256KW-P256"); err != nil {
		p.Fatalf("%v", err)
	}
	return a
}

// text is the attestation's body.
func (s *server) text(ctx context.Context, p *suite.Probe, a *attempt) []byte {
	bound := a.bound
	if bound == nil {
		bound = reportData(a.nonce, a.key.public, a.additional)
	}
	evidence := a.evidence
	if evidence == nil {
		var err error
		if evidence, err = s.evidence.evidence(ctx, bound, a.launched); err != nil {
			p.Fatalf("making evidence: %v", err)
		}
	}
	body := map[string]any{
		"init-data":    nil,
		"runtime-data": map[string]any{"nonce": a.nonce, "tee-pubkey": a.key.public},
		"tee-evidence": map[string]any{"primary_evidence": evidence, "additional_evidence": a.additional},
	}
	if a.initData != nil {
		body["init-data"] = map[string]any{"format": "toml", "body": *a.initData}
	}
	maps.Copy(body, a.body)
	text, err := json.Marshal(body)
	if err != nil {
		p.Fatalf("%v", err)
	}
	return text
}

// attest sends an attestation.
func (s *server) attest(ctx context.Context, p *suite.Probe, a *attempt) *answer {
	return s.ask(ctx, p, http.MethodPost, prefix+"attest", s.text(ctx, p, a), contentType("application/json"),
		withCookie(a.cookie))
}

// attested is a successful attestation.
type attested struct {
	attempt *attempt
	answer  *answer
	token   string
}

// succeed attests and demands a token.
func (s *server) succeed(ctx context.Context, p *suite.Probe, a *attempt) *attested {
	got := s.attest(ctx, p, a)
	token, _ := got.objectIf(http.StatusOK)["token"].(string)
	if token == "" {
		p.Fatalf("%s: status %d without a token: %.300s", got.what, got.status, got.body)
	}
	return &attested{a, got, token}
}

func (a *answer) objectIf(status int) map[string]any {
	var members map[string]any
	if a.status == status {
		_ = json.Unmarshal(a.body, &members) // nil says enough
	}
	return members
}

// guest is the attestation that cases share: a guest with init-data where the platform binds some.
func (s *server) guest(ctx context.Context, p *suite.Probe) *attested {
	s.once.Do(func() {
		s.problem = errors.New("the first attestation failed; see attest/accepted")
		a := s.attempt(ctx, p)
		s.giveInitData(a)
		s.first, s.problem = s.succeed(ctx, p, a), nil
	})
	if s.evidence == nil {
		p.Skipf("%v", errNoEvidence)
	}
	if s.problem != nil {
		p.Fatalf("%v", s.problem)
	}
	return s.first
}

// giveInitData launches the guest of an attempt with the suite's init-data.
func (s *server) giveInitData(a *attempt) {
	if s.evidence.bindsInitData() || s.evidence.tee() == "sample" {
		text := initDataText
		a.initData, a.launched = &text, initDataDigest(text)
	}
}

// adminToken makes an administrator's token.
func (s *server) adminToken(p *suite.Probe) string {
	if s.admin == nil {
		p.Skipf("%v", errNoAdmin)
	}
	token, err := s.admin(nil)
	if err != nil {
		p.Fatalf("%v", err)
	}
	return token
}

// administer sends a request as an administrator.
func (s *server) administer(ctx context.Context, p *suite.Probe, method, path string, body []byte) *answer {
	return s.ask(ctx, p, method, path, body, bearer(s.adminToken(p)))
}

// setPolicy sets a resource policy as stock tools do, and, where a server wants more before it takes one, with the
// members that say so. These are not part of the protocol; stock servers skip them.
func (s *server) setPolicy(ctx context.Context, p *suite.Probe, rego string) (plain *answer, ok bool) {
	encoded := b64url.EncodeToString([]byte(rego))
	plain = s.administer(ctx, p, http.MethodPost, prefix+"resource-policy", []byte(`{"policy":"`+encoded+`"}`))
	extended := s.administer(ctx, p, http.MethodPost, prefix+"resource-policy",
		[]byte(`{"policy":"`+encoded+`","allow_simulated":true,"unsafe_any_initdata":true}`))
	return plain, extended.status == http.StatusOK
}

// repository is where the suite keeps its resources; the policy that it sets releases nothing else.
const repository = "conformance"

// suitePolicy releases the repository's resources to whoever has a token, but those of the type "denied"; those of the
// type "asked" only with a query, and those of the type "claims" only if the token's claims are the input.
const suitePolicy = `package policy

import rego.v1

default allow := false

path := data["resource-path"]

evidence := input.submods.cpu0["ear.veraison.annotated-evidence"]

allow if {
	data.plugin == "resource"
	count(path) == 3
	path[0] == "conformance"
	not path[1] in {"denied", "asked", "claims"}
}

allow if {
	path[0] == "conformance"
	path[1] == "asked"
	data.query.purpose == "conformance"
	data.query.empty == ""
}

allow if {
	path[0] == "conformance"
	path[1] == "claims"
	input.iss
	input.exp > input.iat
	input["ear.verifier-id"].build
	input.submods.cpu0["ear.appraisal-policy-id"] == "default"
	evidence.runtime_data_claims["tee-pubkey"].kty == "EC"
	evidence.runtime_data_claims.nonce
}
`

// The resources that the suite puts, by path below the repository.
var resources = map[string][]byte{
	"text/one":   []byte("a secret"),
	"binary/all": everyByte(),
	"empty/none": {},
	"long/mib":   bytes.Repeat([]byte("0123456789abcdef"), 1<<16),
	"denied/one": []byte("never released"),
	"asked/one":  []byte("released on a query"),
	"claims/one": []byte("released on claims"),
	"a-b_c/D.0":  []byte("all that a name may have"),
}

func everyByte() []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}

// provision puts the suite's policy and resources, once.
func (s *server) provision(ctx context.Context, p *suite.Probe) {
	if s.admin == nil {
		p.Skipf("%v", errNoAdmin)
	}
	s.prepare.Do(func() {
		s.ready = errors.New("an administrator could not set up the suite's policy and resources; see admin/")
		if _, ok := s.setPolicy(ctx, p, suitePolicy); !ok {
			return
		}
		for path, value := range resources {
			a := s.administer(ctx, p, http.MethodPost, prefix+"resource/"+repository+"/"+path, value)
			if a.status != http.StatusOK {
				s.ready = fmt.Errorf("%s: status %d: %.200s", a.what, a.status, a.body)
				return
			}
		}
		s.ready = nil
	})
	if s.ready != nil {
		p.Fatalf("%v", s.ready)
	}
}

// resource asks for a resource of the suite's.
func (s *server) resource(ctx context.Context, p *suite.Probe, path string, options ...option) *answer {
	return s.ask(ctx, p, http.MethodGet, prefix+"resource/"+repository+"/"+path, nil, options...)
}
