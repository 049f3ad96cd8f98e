// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attester"
	"github.com/nacre-project/nacre/kbs"
)

// Errors that callers decide on.
var (
	// ErrNoBroker says that the guest's init-data names no broker, so that there is nobody to attest to.
	ErrNoBroker = errors.New("no broker is configured: the pod's init-data must name one in aa.toml, " +
		"[token_configs.kbs] url")
	// ErrTooOften says that the guest has attested so often of late that it rests.
	ErrTooOften = errors.New("this guest has attested too often")
	// ErrEvidence says that the platform gave no evidence.
	ErrEvidence = errors.New("no evidence from the platform")
)

// How often the guest attests: a few times in a row, and then now and again. One attestation costs a platform up to
// a tenth of a second of its one secure processor, and a broker a signature.
const (
	attestationsAtOnce = 3
	attestationsEvery  = 10 * time.Second
)

// Options are what a [Service] is made of.
type Options struct {
	Config   Config
	Attester attester.Attester
	// InitData is the raw text that the guest was launched with, and has verified; nil is none.
	InitData []byte
	// OnToken, if set, is called with the time of issue of each token that came from a broker whose certificate is
	// pinned: a time that the host has no say in. It is called by one attestation at a time.
	OnToken func(issued time.Time)
	Log     *slog.Logger // default slog.Default()
}

// Service gets and keeps the guest's token. It may be used by many at a time.
type Service struct {
	options  Options
	broker   broker // nil when none is configured
	initData *kbs.InitData
	limiter  *rate.Limiter
	now      func() time.Time
	log      *slog.Logger

	mu      sync.Mutex
	current held
	flight  *flight
	last    error // of the latest attestation, nil if it succeeded
}

// broker is kbs.Client.
type broker interface {
	Attest(ctx context.Context, tee attest.TEE, key *kbs.TEEKey,
		evidence func(ctx context.Context, reportData []byte) (json.RawMessage, error), initData *kbs.InitData) (string, error)
}

// held is a token with the key that it was made for.
type held struct {
	token string
	key   *kbs.TEEKey
	until time.Time // zero: it does not say how long it is good for, and is not kept
}

// flight is an attestation that is under way. Its fields are read after done is closed.
type flight struct {
	done      chan struct{}
	result    held
	err       error
	abandoned bool // by the caller who attested
}

// New makes a Service. It connects to nobody.
func New(o Options) (*Service, error) {
	if o.Attester == nil {
		return nil, errors.New("the attestation agent needs an attester")
	}
	s := &Service{
		options: o,
		limiter: rate.NewLimiter(rate.Every(attestationsEvery), attestationsAtOnce),
		now:     time.Now,
		log:     o.Log,
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.options.Config.KeyAlgorithm == "" {
		s.options.Config.KeyAlgorithm = kbs.ECDHP256
	}
	if o.InitData != nil {
		s.initData = &kbs.InitData{Format: kbs.InitDataFormat, Body: string(o.InitData)}
	}
	if o.Config.Broker.URL != "" {
		client, err := kbs.NewClient(o.Config.Broker)
		if err != nil {
			return nil, fmt.Errorf("aa.toml: %w", err)
		}
		s.broker = client
	}
	return s, nil
}

// TEE returns the platform's wire name.
func (s *Service) TEE() attest.TEE { return s.options.Attester.TEE() }

// Token returns a token that is good for a while, and the key that it was made for. Of several callers that need a new
// one, one attests, and the others get what he gets. A refusal is a *kbs.StatusError, and is not retried.
func (s *Service) Token(ctx context.Context) (string, *kbs.TEEKey, error) {
	if s.broker == nil {
		return "", nil, ErrNoBroker
	}
	for {
		s.mu.Lock()
		if s.now().Before(s.current.until) {
			defer s.mu.Unlock()
			return s.current.token, s.current.key, nil
		}
		f := s.flight
		if f == nil {
			f = &flight{done: make(chan struct{})}
			s.flight = f
			s.mu.Unlock()
			s.fly(ctx, f)
			return f.result.token, f.result.key, f.err
		}
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return "", nil, fmt.Errorf("waiting for an attestation: %w", context.Cause(ctx))
		}
		if !f.abandoned {
			return f.result.token, f.result.key, f.err
		}
	}
}

// Drop forgets a token that a broker does not take any more. The next call of Token attests.
func (s *Service) Drop(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.token == token {
		s.current = held{}
	}
}

// fly attests for all who wait on f.
func (s *Service) fly(ctx context.Context, f *flight) {
	f.result, f.err = s.attest(ctx)
	f.abandoned = f.err != nil && ctx.Err() != nil
	s.mu.Lock()
	if f.err == nil {
		s.current = f.result
	}
	if !f.abandoned && !errors.Is(f.err, ErrTooOften) {
		s.last = f.err
	}
	s.flight = nil
	s.mu.Unlock()
	close(f.done)
}

func (s *Service) attest(ctx context.Context) (held, error) {
	asked := s.now()
	if !s.limiter.AllowN(asked, 1) {
		return held{}, s.tooOften()
	}
	key, err := kbs.GenerateTEEKey(s.options.Config.KeyAlgorithm)
	if err != nil {
		return held{}, err
	}
	token, err := s.broker.Attest(ctx, s.TEE(), key, s.evidence, s.initData)
	if err != nil {
		s.log.WarnContext(ctx, "attestation failed", "broker", s.options.Config.Broker.URL, "tee", s.TEE(), "err", err)
		return held{}, err
	}
	issued, expires := times(token)
	lasts := life(issued, expires)
	result := held{token: token, key: key}
	if lasts > 0 {
		result.until = asked.Add(lasts)
	}
	s.log.InfoContext(ctx, "attested", "broker", s.options.Config.Broker.URL, "tee", s.TEE(), "token_lasts", lasts)
	if s.options.OnToken != nil && len(s.options.Config.Broker.PinnedCert) > 0 && !issued.IsZero() {
		s.options.OnToken(issued)
	}
	return result, nil
}

func (s *Service) evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	evidence, err := s.options.Attester.Evidence(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	return evidence, nil
}

func (s *Service) tooOften() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return fmt.Errorf("%w, and its tokens do not last: try again in %v", ErrTooOften, attestationsEvery)
	}
	return fmt.Errorf("%w: try again in %v; the latest failed: %w", ErrTooOften, attestationsEvery, s.last)
}
