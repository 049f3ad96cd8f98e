// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// Platform is a kind of evidence that is accepted.
type Platform struct {
	Verifier attest.Verifier
	// Describe says what evidence is that the verifier refused with a code. It answers false when the code does not
	// mean that the evidence's hardware signature was found valid: then nothing is known of it, and nothing is
	// recorded.
	Describe func(evidence json.RawMessage, code attest.Code) (Description, bool)
}

// Description is what audit keeps of evidence.
type Description struct {
	Identity    string // the same for the same signed bytes, whatever envelope they come in
	Measurement string // hex
	InitData    string // hex
	// Origin says what the evidence's chain of signatures ended in, where that can still be told. It costs as much as
	// a verification.
	Origin func(context.Context) (root string, simulated bool)
}

// Config is what a broker is made of. Zero durations and sizes are the defaults below.
type Config struct {
	Store     *store.Store
	Platforms map[attest.TEE]Platform // what is not in it is refused
	Plugins   map[string]resource.Plugin
	Resources resource.Stored // what administrators list
	Log       *slog.Logger
	Tunable

	ReferenceValueLifetime time.Duration
	MaxAttests             int // verified at the same time
	Limits                 Limits
	SimulatedRoots         int // how many are trusted, for /metrics
	// UnsafePlainHTTP sends the cookie without the attribute Secure, because without TLS clients would not return it.
	UnsafePlainHTTP bool
	Now             func() time.Time
}

// Defaults.
const (
	DefaultSessionLifetime = 5 * time.Minute
	DefaultTokenLifetime   = 5 * time.Minute
	DefaultBodyLimit       = 2 << 20
	DefaultMaxAttests      = 64
	// MaxSessionLifetime is how long the keys that seal cookies are kept.
	MaxSessionLifetime = time.Hour
	// MaxTokenLifetime is how long a token may live. One that says it lives longer is none of this trustee's.
	MaxTokenLifetime = 24 * time.Hour
)

const (
	verifyTimeout = 30 * time.Second // for one attestation, fetching of certificates included
	commitTimeout = 30 * time.Second // waiting for a place in the store's queue; the disk is in trouble before that
	slotTimeout   = 2 * time.Second  // waiting for other attestations to end

	rememberedTokens   = 512
	rememberedIssued   = 1024     // tokens that were signed and not used yet
	rememberedTokenMax = 16 << 10 // bytes of a token that is remembered

	rememberedInitData    = 128
	rememberedInitDataMax = 64 << 10 // bytes of an init-data text that is remembered

	refusedPieces = 4096 // pieces of refused evidence that are told apart
	refusedLimit  = 16   // audit records about one of them in a period
	refusedPeriod = time.Hour

	triedSessions = 1 << 14 // sessions that are told apart
	triedLimit    = 16      // attestations that may be tried in one of them

	deniedTokens = 4096 // tokens that were refused something and are told apart
	deniedLimit  = 256  // audit records of refusals that one of them causes

	refusalLines     = 10 // log lines a second about requests that were refused, when many are
	refusalLineBurst = 500
)

// Broker answers requests. It is an http.Handler.
type Broker struct {
	store     *store.Store
	platforms map[attest.TEE]Platform
	plugins   map[string]resource.Plugin
	resources resource.Stored
	values    *refvalue.Registry
	policies  *policies
	router    *router
	cookies   *cookies
	ring      atomic.Pointer[keyring]
	rotating  sync.Mutex
	tunable   atomic.Pointer[Tunable]
	fromFiles atomic.Pointer[PolicyTexts]
	tokens    *lru.Cache[string, *guest]              // by their compact forms
	issued    *lru.Cache[string, *ear.Token]          // those signed here that were not used yet, by their compact forms
	initDatas *lru.Cache[string, *appraisal.InitData] // by their texts
	refused   *audit.Budget                           // of records of refused evidence
	denied    *audit.Budget                           // of records of refusals to the holder of a token
	attempts  *audit.Budget                           // of attestations in a session
	slots     chan struct{}
	limits    limits
	draining  atomic.Bool
	metrics   *metrics
	log       *slog.Logger
	logged    *rate.Limiter // lines about refused requests
	now       func() time.Time

	secureCookie bool
}

// New loads what the store holds and returns a broker.
func New(ctx context.Context, c Config) (*Broker, error) {
	if c.Store == nil || c.Log == nil {
		return nil, errors.New("a broker needs a store and a log")
	}
	b := &Broker{
		store: c.Store, platforms: c.Platforms, plugins: c.Plugins, resources: c.Resources,
		secureCookie: !c.UnsafePlainHTTP, now: c.Now, log: c.Log,
		logged: rate.NewLimiter(refusalLines, refusalLineBurst), metrics: newMetrics(c.SimulatedRoots),
		limits: newLimits(c.Limits),
	}
	if b.now == nil {
		b.now = time.Now
	}
	if err := b.Tune(c.Tunable); err != nil {
		return nil, err
	}
	if c.MaxAttests <= 0 {
		c.MaxAttests = DefaultMaxAttests
	}
	b.slots = make(chan struct{}, c.MaxAttests)
	var err error
	if b.values, err = refvalue.Open(ctx, c.Store, c.ReferenceValueLifetime, b.now); err != nil {
		return nil, err
	}
	if b.policies, err = openPolicies(ctx, c.Store, b.now); err != nil {
		return nil, err
	}
	if b.cookies, err = openCookies(ctx, c.Store, b.now); err != nil {
		return nil, err
	}
	b.fromFiles.Store(&PolicyTexts{})
	ring, err := openKeyring(ctx, c.Store, b.now())
	if err != nil {
		return nil, err
	}
	b.ring.Store(ring)
	if b.tokens, err = lru.New[string, *guest](rememberedTokens); err != nil {
		return nil, err
	}
	if b.issued, err = lru.New[string, *ear.Token](rememberedIssued); err != nil {
		return nil, err
	}
	if b.initDatas, err = lru.New[string, *appraisal.InitData](rememberedInitData); err != nil {
		return nil, err
	}
	if b.refused, err = audit.NewBudget(refusedPieces, refusedLimit, refusedPeriod); err != nil {
		return nil, err
	}
	if b.attempts, err = audit.NewBudget(triedSessions, triedLimit, MaxSessionLifetime); err != nil {
		return nil, err
	}
	// A period is never shorter than a token's life, so that a token has only one.
	if b.denied, err = audit.NewBudget(deniedTokens, deniedLimit, MaxTokenLifetime); err != nil {
		return nil, err
	}
	b.router = &router{authenticate: b.administrator, admit: b.admit, plugins: b.plugin}
	b.register()
	return b, nil
}

// administrator says which administrator a token is of, by the keys in force.
func (b *Broker) administrator(token string) (admin.Identity, error) {
	return b.tunable.Load().Admin.Authenticate(token)
}

// register names every route.
func (b *Broker) register() {
	r := b.router
	r.public(http.MethodGet, "/healthz", func(context.Context, *call) (*reply, error) {
		return &reply{contentType: "text/plain"}, nil
	})
	r.public(http.MethodGet, "/readyz", func(context.Context, *call) (*reply, error) { return b.ready() })
	r.public(http.MethodGet, "/metrics", func(context.Context, *call) (*reply, error) { return b.metrics.text() })
	r.public(http.MethodGet, "/.well-known/jwks.json", func(context.Context, *call) (*reply, error) {
		b.trusted(b.now())
		return &reply{contentType: typeJSON, body: b.ring.Load().jwks}, nil
	})
	r.public(http.MethodPost, protocolPrefix+"auth", b.metrics.counted(b.auth, b.metrics.authSuccesses, b.metrics.authErrors))
	r.public(http.MethodPost, protocolPrefix+"attest", b.metrics.counted(b.attest, nil, b.metrics.attestErrors))

	r.administrators(http.MethodPost, protocolPrefix+"attestation-policy", b.setAttestationPolicy)
	r.administrators(http.MethodPost, protocolPrefix+"resource-policy", b.setReleasePolicy)
	r.administrators(http.MethodGet, protocolPrefix+"resource-policy", b.releasePolicyIDs)
	r.administrators(http.MethodPost, protocolPrefix+"reference-value", b.registerReferenceValue)
	r.administrators(http.MethodGet, protocolPrefix+"reference-value", b.referenceValue) // none has no name
	r.administrators(http.MethodGet, protocolPrefix+"reference-value/", b.referenceValue)

	r.administrators(http.MethodGet, adminPrefix+"resource-policy", b.releasePolicy)
	r.administrators(http.MethodGet, adminPrefix+"attestation-policy/", b.attestationPolicy)
	r.administrators(http.MethodGet, adminPrefix+"resources", b.listResources)
	r.administrators(http.MethodGet, adminPrefix+"reference-values", b.listReferenceValues)
	r.administrators(http.MethodGet, adminPrefix+"reference-value-history/", b.referenceValueHistory)
	r.administrators(http.MethodDelete, adminPrefix+"reference-value/", b.deleteReferenceValue)
	r.administrators(http.MethodPost, adminPrefix+"token-key", b.rotateTokenKey)
	r.administrators(http.MethodGet, adminPrefix+"audit", b.audit)
	r.administrators(http.MethodGet, adminPrefix+"audit/verify", b.verifyAudit)
}

// commit runs a transaction even when the client is gone: the record of what was decided does not depend on who waits
// for it.
func (b *Broker) commit(ctx context.Context, change func(*store.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	return b.store.Update(ctx, change)
}
