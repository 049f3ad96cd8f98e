// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// Where the keys of tokens lie in the store: the private key that signs, and the public ones that signed before.
const (
	tokenKeyName     = "token-key"
	retiredKeysName  = "token-keys-retired"
	maxRetiredKeys   = 16              // more rotations than these within a token's life are refused
	rotationLeeway   = 2 * time.Minute // for tokens that are being signed while the key changes
	minimumKeyPeriod = time.Minute
)

// keyring is the key that signs tokens, and those that did and whose tokens may still be valid. It does not change.
type keyring struct {
	signer  *ear.Signer
	since   time.Time // that it signs
	retired []retiredKey
	keys    []ear.Key // of all of them
	jwks    []byte
}

// retiredKey is a public key that signs no more. No token of its lives beyond the time given, so it is not trusted
// then.
type retiredKey struct {
	JWKS  json.RawMessage `json:"jwks"`
	Until time.Time       `json:"until"`
	key   ear.Key
}

// newKeyring completes a keyring, without the retired keys whose time is over.
func newKeyring(signer *ear.Signer, since time.Time, retired []retiredKey, now time.Time) (*keyring, error) {
	r := &keyring{signer: signer, since: since, keys: []ear.Key{signer.Public()}}
	for _, k := range retired {
		if now.Before(k.Until) {
			r.retired = append(r.retired, k)
			r.keys = append(r.keys, k.key)
		}
	}
	var err error
	r.jwks, err = ear.JWKS(r.keys...)
	return r, err
}

// openKeyring loads the keys of tokens, or makes the first.
func openKeyring(ctx context.Context, s *store.Store, now time.Time) (*keyring, error) {
	text, err := own(ctx, s, tokenKeyName, func() ([]byte, error) {
		signer, err := ear.GenerateSigner()
		if err != nil {
			return nil, err
		}
		key, err := signer.MarshalPEM()
		return key.Reveal(), err
	})
	if err != nil {
		return nil, err
	}
	signer, err := ear.ParseSigner(text)
	if err != nil {
		return nil, err
	}
	since := now
	list, err := s.List(ctx, server, tokenKeyName, "", 1)
	if err != nil {
		return nil, err
	}
	if len(list) == 1 && list[0].Key == tokenKeyName {
		since = list[0].Updated
	}
	var retired []retiredKey
	switch text, err := s.Get(ctx, server, retiredKeysName); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("load the retired keys of tokens: %w", err)
	default:
		if retired, err = parseRetired(text); err != nil {
			return nil, fmt.Errorf("load the retired keys of tokens: %w", err)
		}
	}
	return newKeyring(signer, since, retired, now)
}

func parseRetired(text []byte) ([]retiredKey, error) {
	var list []retiredKey
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	for i := range list {
		keys, err := ear.ParseJWKS(list[i].JWKS)
		if err != nil {
			return nil, err
		}
		list[i].key = keys[0]
	}
	return list, nil
}

// next is the keyring after a rotation.
func (r *keyring) next(signer *ear.Signer, now time.Time, longestToken time.Duration) (*keyring, error) {
	retiring := r.signer.Public()
	jwks, err := ear.JWKS(retiring)
	if err != nil {
		return nil, err
	}
	return newKeyring(signer, now, append([]retiredKey{{JWKS: jwks, key: retiring,
		Until: now.Add(longestToken + rotationLeeway).UTC().Truncate(time.Second)}}, r.retired...), now)
}

// trusted returns the keys that tokens may be signed with now. When the time of one is over, it is forgotten together
// with all that was remembered of tokens.
func (b *Broker) trusted(now time.Time) []ear.Key {
	ring := b.ring.Load()
	for _, k := range ring.retired {
		if now.Before(k.Until) {
			continue
		}
		next, err := newKeyring(ring.signer, ring.since, ring.retired, now)
		if err != nil { // texts only, so it cannot be; better no old key than one too old
			return []ear.Key{ring.signer.Public()}
		}
		if b.ring.CompareAndSwap(ring, next) {
			b.tokens.Purge()
			b.issued.Purge()
		}
		return next.keys
	}
	return ring.keys
}

// RotateTokenKey makes a new key sign tokens if the one that does is as old as age. The old one is trusted until its
// last token has expired.
func (b *Broker) RotateTokenKey(ctx context.Context, age time.Duration) error {
	if b.now().Sub(b.ring.Load().since) < age {
		return nil
	}
	_, err := b.rotate(ctx, audit.Record{Time: b.now(), Event: audit.EventAdmin, Decision: audit.Changed,
		Detail: fmt.Sprintf("rotate the key that signs tokens, which is older than %s", age)}, age)
	return err
}

// errTooManyKeys says that rotations follow too fast one on another.
var errTooManyKeys = fmt.Errorf("%d keys have signed tokens that may still be valid; wait until they have expired",
	maxRetiredKeys+1)

func (b *Broker) rotate(ctx context.Context, record audit.Record, age time.Duration) (*keyring, error) {
	b.rotating.Lock()
	defer b.rotating.Unlock()
	now := b.now()
	ring := b.ring.Load()
	if now.Sub(ring.since) < age { // somebody else just did
		return ring, nil
	}
	signer, err := ear.GenerateSigner()
	if err != nil {
		return nil, err
	}
	next, err := ring.next(signer, now, b.tunable.Load().TokenLifetime)
	if err != nil {
		return nil, err
	}
	if len(next.retired) > maxRetiredKeys {
		return nil, errTooManyKeys
	}
	private, err := signer.MarshalPEM()
	if err != nil {
		return nil, err
	}
	retired, err := json.Marshal(next.retired)
	if err != nil {
		return nil, err
	}
	if err := b.commit(ctx, func(tx *store.Tx) error {
		return errors.Join(tx.Put(server, tokenKeyName, private.Reveal()), tx.Put(server, retiredKeysName, retired),
			audit.Append(tx, &record))
	}); err != nil {
		return nil, fmt.Errorf("store the new key of tokens: %w", err)
	}
	b.ring.Store(next)
	b.metrics.rotations.Inc()
	b.log.LogAttrs(ctx, slog.LevelInfo, "a new key signs tokens", slog.String("kid", signer.KeyID()),
		slog.String("old_kid", ring.signer.KeyID()), slog.Time("old_trusted_until", next.retired[0].Until))
	return next, nil
}

// rotateTokenKey is what an administrator calls.
func (b *Broker) rotateTokenKey(ctx context.Context, c *call, who admin.Identity) (*reply, error) {
	ring, err := b.rotate(ctx, b.changed(ctx, c, who, "rotate the key that signs tokens"), 0)
	if errors.Is(err, errTooManyKeys) {
		f := busy(err.Error())
		f.retryAfter = minimumKeyPeriod
		return nil, f
	} else if err != nil {
		return nil, err
	}
	return &reply{contentType: typeJSON, body: ring.jwks}, nil
}
