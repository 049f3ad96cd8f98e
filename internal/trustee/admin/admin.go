// SPDX-License-Identifier: Apache-2.0

// Package admin says who may change the trustee: the holder of a private key whose public half the trustee keeps, by
// a short-lived bearer token (a JWT signed with EdDSA; claims role, aud, iat and exp). Beside owners' keys there may be
// identity providers, by whose rules upstream's tools make tokens (spec/trustee.md §2.5); each is named in the
// configuration, and so is what is weaker about it.
//
// It trusts the public keys in the store, which were put there at the first start or by configuration. Private keys
// belong to owners: the trustee writes the first one into a file and forgets it. The package decides nothing but
// "this is an administrator".
package admin

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

const (
	// Role is what an administrator's token must say.
	Role = "admin"
	// DefaultAudience is what an administrator's token must be meant for when nothing else was configured.
	DefaultAudience = "nacre-trustee"
	// DefaultLongestLifetime is the longest time from a token's iat to its exp when nothing else was configured.
	DefaultLongestLifetime = 5 * time.Minute
)

// leeway is how far an owner's clock may be ahead of or behind the trustee's.
const leeway = time.Minute

// maxToken caps a token, in bytes.
const maxToken = 4096

// ErrRefused is wrapped by every refusal; its text does not say more than the holder of the token should know.
var ErrRefused = errors.New("not an administrator")

// Config says which tokens count. The zero value trusts nobody.
type Config struct {
	Keys            []ed25519.PublicKey
	Audience        string        // "": DefaultAudience
	LongestLifetime time.Duration // 0: DefaultLongestLifetime
	Providers       []Provider
	Now             func() time.Time
}

// Authenticator checks administrators' tokens. It does not change.
type Authenticator struct{ config Config }

// New returns an authenticator.
func New(c Config) *Authenticator {
	if c.Audience == "" {
		c.Audience = DefaultAudience
	}
	if c.LongestLifetime <= 0 {
		c.LongestLifetime = DefaultLongestLifetime
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Authenticator{c}
}

// Identity is who an administrator's token was signed by.
type Identity struct {
	Role string
	Key  string // fingerprint of the public key, as Fingerprint makes it; a provider's has its name and "/" before it
}

// Authenticate checks a bearer token. Its errors wrap ErrRefused and are for the log.
func (a *Authenticator) Authenticate(token string) (Identity, error) {
	id, err := a.authenticate(token)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return id, nil
}

func (a *Authenticator) authenticate(token string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, fmt.Errorf("a token of %d bytes, at most %d", len(token), maxToken)
	}
	id, err := a.owner(token)
	if !errors.Is(err, errOthers) || len(a.config.Providers) == 0 {
		return id, err
	}
	return a.provided(token)
}

// errOthers says that no owner's key signed a token. What an owner's key signed is judged by the owners' rules alone.
var errOthers = errors.New("no administrator's key signed the token")

func (a *Authenticator) owner(token string) (Identity, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return Identity{}, fmt.Errorf("parse the token: %w: %w", errOthers, err)
	}
	for _, key := range a.config.Keys {
		var claims kbs.AdminClaims
		if err := parsed.Claims(key, &claims); errors.Is(err, jose.ErrCryptoFailure) {
			continue
		} else if err != nil {
			return Identity{}, fmt.Errorf("read the token: %w", err)
		}
		if err := a.check(claims); err != nil {
			return Identity{}, err
		}
		return Identity{Role: claims.Role, Key: Fingerprint(key)}, nil
	}
	return Identity{}, errOthers
}

// check looks at what a signed token says.
func (a *Authenticator) check(c kbs.AdminClaims) error {
	if c.Role != Role {
		return fmt.Errorf("the token's role is %q, want %q", c.Role, Role)
	}
	if !c.Audience.Contains(a.config.Audience) {
		return fmt.Errorf("the token is meant for %q, not for %q", []string(c.Audience), a.config.Audience)
	}
	return a.current(c, false)
}

// current looks at when a token is valid. One that may live as long as it says need not say since when.
func (a *Authenticator) current(c kbs.AdminClaims, anyLifetime bool) error {
	now := a.config.Now()
	if c.Expiry == nil {
		return errors.New("the token lacks exp")
	}
	if c.IssuedAt == nil && !anyLifetime {
		return errors.New("the token lacks iat")
	}
	expires := c.Expiry.Time()
	if c.NotBefore != nil && c.NotBefore.Time().After(now.Add(leeway)) {
		return fmt.Errorf("the token is not valid before %s, now is %s", c.NotBefore.Time().UTC(), now.UTC())
	}
	if c.IssuedAt != nil && c.IssuedAt.Time().After(now.Add(leeway)) {
		return fmt.Errorf("the token is from the future: iat is %s, now is %s", c.IssuedAt.Time().UTC(), now.UTC())
	}
	if !expires.After(now.Add(-leeway)) {
		return fmt.Errorf("the token expired at %s, now is %s", expires.UTC(), now.UTC())
	}
	if anyLifetime {
		return nil
	}
	if lifetime := expires.Sub(c.IssuedAt.Time()); lifetime > a.config.LongestLifetime {
		return fmt.Errorf("the token is valid for %s, at most %s are allowed", lifetime, a.config.LongestLifetime)
	}
	return nil
}

// Fingerprint names a public key: the first 16 hex digits of the SHA-256 of its 32 bytes.
func Fingerprint(key ed25519.PublicKey) string {
	digest := sha256.Sum256(key)
	return hex.EncodeToString(digest[:8])
}

// ParsePublicKey reads an Ed25519 public key in PEM (PKIX).
func ParsePublicKey(text []byte) (ed25519.PublicKey, error) {
	key, err := parsePKIX(text)
	if err != nil {
		return nil, err
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want Ed25519", key)
	}
	return public, nil
}

const namespace store.Namespace = "admin"

// firstKey is the key in the store of the 32 bytes of the public key made at the first start.
const firstKey = "first-key"

// First returns the public key of the owner's first key pair. At the first start it makes the pair: the private half
// goes to the file out (mode 0600, never over another; a key that is there already is taken), the public half stays.
// Made says whether that happened now.
func First(ctx context.Context, s *store.Store, out string) (key ed25519.PublicKey, made bool, err error) {
	public, err := s.Get(ctx, namespace, firstKey)
	if err == nil {
		if len(public) != ed25519.PublicKeySize {
			return nil, false, fmt.Errorf("the administrator's public key in the store has %d bytes", len(public))
		}
		return public, false, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, false, fmt.Errorf("read the administrator's public key: %w", err)
	}
	// The file comes first: were the trustee stopped between the two, the next start would take the key from it.
	private, err := ownerKey(out)
	if err != nil {
		return nil, false, err
	}
	key = private.Public()
	err = s.Update(ctx, func(tx *store.Tx) error { return tx.PutNew(namespace, firstKey, key) })
	if err != nil {
		return nil, false, fmt.Errorf("store the administrator's public key: %w", err)
	}
	return key, true, nil
}

func ownerKey(path string) (kbs.AdminKey, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		key, err := kbs.ParseAdminKey(text)
		if err != nil {
			return kbs.AdminKey{}, fmt.Errorf("%s exists and is not an administrator's key, and nothing is "+
				"written over it; move it away or name another file with --admin-key-out: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return kbs.AdminKey{}, fmt.Errorf("read the administrator's key: %w", err)
	}
	key, err := kbs.NewAdminKey()
	if err != nil {
		return kbs.AdminKey{}, err
	}
	pemText, err := key.MarshalPEM()
	if err != nil {
		return kbs.AdminKey{}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return kbs.AdminKey{}, fmt.Errorf("make the directory of the administrator's key: %w", err)
	}
	if err := writeNew(path, pemText.Reveal()); err != nil {
		return kbs.AdminKey{}, fmt.Errorf("write the administrator's key to %s: %w", path, err)
	}
	return key, nil
}

// writeNew writes a file that only its owner can read, whole or not at all, and never over another.
func writeNew(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".nacre-admin-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
