// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// MaxSize caps a token, in bytes.
const MaxSize = 1 << 20

// Options says how strictly times are taken.
type Options struct {
	// ExpiryLeeway is how long after its expiry a token is still taken; 0 is not at all.
	ExpiryLeeway time.Duration

	// IssueLeeway is how far in the future a token may have been issued, for clocks that differ; 0 is a minute.
	IssueLeeway time.Duration
}

const defaultIssueLeeway = time.Minute

// Errors that callers decide on. Both mean that the token is no good.
var (
	ErrExpired   = errors.New("the token has expired")
	ErrUntrusted = errors.New("the token is not signed by a key that is trusted here")
)

// Verify verifies a token at a time, with keys by their ids, and returns it together with all its claims, in which
// numbers are json.Number. Whatever keys the token brings along are ignored.
func Verify(compact string, keys []Key, now time.Time, options Options) (*Token, map[string]any, error) {
	t, claims, err := verify(compact, keys, now, options)
	if err != nil {
		return nil, nil, fmt.Errorf("verifying the token: %w", err)
	}
	return t, claims, nil
}

func verify(compact string, keys []Key, now time.Time, options Options) (*Token, map[string]any, error) {
	if len(compact) > MaxSize {
		return nil, nil, fmt.Errorf("%d bytes, at most %d are allowed", len(compact), MaxSize)
	}
	// The one algorithm is named here, by us. A token that names another is not looked at any further.
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, nil, err
	}
	var payload []byte
	err = ErrUntrusted
	for _, key := range keys {
		if id := jws.Signatures[0].Protected.KeyID; key.ID != id || id == "" {
			continue
		}
		if payload, err = jws.Verify(key.Public); err == nil {
			break
		}
		err = ErrUntrusted
	}
	if err != nil {
		return nil, nil, err
	}
	t, claims, err := parseToken(payload)
	if err != nil {
		return nil, nil, err
	}
	issueLeeway := options.IssueLeeway
	if issueLeeway == 0 {
		issueLeeway = defaultIssueLeeway
	}
	if !now.Before(t.Expiry.Add(options.ExpiryLeeway)) {
		return nil, nil, fmt.Errorf("%w at %s", ErrExpired, t.Expiry.UTC().Format(time.RFC3339))
	}
	if t.IssuedAt.After(now.Add(issueLeeway)) {
		return nil, nil, fmt.Errorf("the token was issued in the future, at %s", t.IssuedAt.UTC().Format(time.RFC3339))
	}
	if _, present := claims["nbf"]; present {
		r := reader{}
		if from := r.time(claims, "nbf"); r.err != nil {
			return nil, nil, r.err
		} else if from.After(now.Add(issueLeeway)) {
			return nil, nil, fmt.Errorf("the token is not valid before %s", from.UTC().Format(time.RFC3339))
		}
	}
	return t, claims, nil
}
