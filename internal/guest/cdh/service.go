// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
)

// Tokens is the attestation agent, [aa.Service].
type Tokens interface {
	// Token returns a token and the key that it was made for.
	Token(ctx context.Context) (token string, key *kbs.TEEKey, err error)
	// Drop forgets a token that the broker does not take any more.
	Drop(token string)
}

// Service fetches resources and opens sealed secrets. It may be used by many at a time.
type Service struct {
	tokens Tokens
	broker broker // nil when none is configured
	sealed sealed.Pins
	log    *slog.Logger
}

// broker is kbs.Client.
type broker interface {
	Resource(ctx context.Context, uri kbs.ResourceURI, token string, key *kbs.TEEKey) (secret.Bytes, error)
}

// New makes a Service. It connects to nobody. A nil log is slog.Default().
func New(config Config, tokens Tokens, log *slog.Logger) (*Service, error) {
	s := &Service{tokens: tokens, sealed: config.Sealed, log: log}
	if s.log == nil {
		s.log = slog.Default()
	}
	if config.Broker.URL == "" {
		return s, nil
	}
	client, err := kbs.NewClient(config.Broker)
	if err != nil {
		return nil, fmt.Errorf("cdh.toml: %w", err)
	}
	s.broker = client
	return s, nil
}

// Resource fetches a resource. Every error is an *[Error].
func (s *Service) Resource(ctx context.Context, uri kbs.ResourceURI) (secret.Bytes, error) {
	value, err := s.resource(ctx, uri)
	if err != nil {
		s.log.WarnContext(ctx, "no resource", "uri", uri, "code", err.Code, "request_id", err.RequestID, "err", err.Err)
		return secret.Bytes{}, err
	}
	s.log.InfoContext(ctx, "resource fetched", "uri", uri, "bytes", value.Len())
	return value, nil
}

func (s *Service) resource(ctx context.Context, uri kbs.ResourceURI) (secret.Bytes, *Error) {
	if err := uri.Validate(); err != nil {
		return secret.Bytes{}, &Error{Kind: Invalid, Code: CodePathInvalid, Doing: "reading the name of the resource", Err: err}
	}
	if s.broker == nil {
		return secret.Bytes{}, &Error{Kind: Unavailable, Code: CodeNoBroker, Doing: "getting " + uri.String(),
			Err: errors.New("no broker is configured: the pod's init-data must name one in cdh.toml, [kbc] url")}
	}
	for attempt := 1; ; attempt++ {
		token, key, err := s.tokens.Token(ctx)
		if err != nil {
			return secret.Bytes{}, explain("attesting", CodeAttestationRefused, err)
		}
		value, err := s.broker.Resource(ctx, uri, token, key)
		if err == nil {
			return value, nil
		}
		answer, refused := errors.AsType[*kbs.StatusError](err)
		if !refused || answer.Status != statusUnauthorized {
			return secret.Bytes{}, explain("getting "+uri.String(), CodePolicyDenied, err)
		}
		s.tokens.Drop(token)
		if attempt > 1 {
			return secret.Bytes{}, explain("getting "+uri.String()+" with a new token", CodeTokenRefused, err)
		}
	}
}

var _ Tokens = (*aa.Service)(nil)
