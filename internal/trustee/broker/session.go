// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// server is the namespace of the trustee's own keys in the store.
const server store.Namespace = "server"

// session is what a challenge was about. It travels in the client's cookie, sealed, so that a challenge writes nothing.
type session struct {
	id      [16]byte // 6 bytes of time, 10 random
	nonce   [32]byte
	expires time.Time // whole seconds
	tee     attest.TEE
}

func newSession(tee attest.TEE, expires time.Time) session {
	s := session{tee: tee, expires: time.Unix(expires.Unix(), 0)}
	// The id begins with the time, so that rows of sessions that are attested together lie together.
	binary.BigEndian.PutUint64(s.id[:], uint64(expires.UnixMilli())<<16)
	rand.Read(s.id[6:])
	rand.Read(s.nonce[:])
	return s
}

// key is the session's key in the store, where a row means that its nonce was used.
func (s session) key() string { return hex.EncodeToString(s.id[:]) }

// challenge is the nonce as it goes over the wire.
func (s session) challenge() string { return base64.StdEncoding.EncodeToString(s.nonce[:]) }

const (
	sealedHead   = 4                     // epoch, big endian
	plainHead    = 16 + 32 + 8           // id, nonce, expiry in seconds since 1970 big endian; then the TEE's name
	maxCookie    = 512                   // characters of a cookie
	epochLength  = time.Hour             // how long a cookie key is used for new cookies
	cookieDomain = "nacre kbs session 1" // what the keys are derived for
)

// cookies seals sessions. Each hour has its own key, derived from the server's: challenges cost nothing to ask for,
// and a key that seals under random nonces may not seal without end.
type cookies struct {
	secret []byte
	now    func() time.Time
	last   atomic.Pointer[epochCipher]
}

type epochCipher struct {
	epoch uint32
	aead  cipher.AEAD
}

// openCookies loads the server's cookie secret, or makes it.
func openCookies(ctx context.Context, s *store.Store, now func() time.Time) (*cookies, error) {
	secret, err := own(ctx, s, "cookie-secret", func() ([]byte, error) {
		b := make([]byte, 32)
		rand.Read(b)
		return b, nil
	})
	if err != nil {
		return nil, err
	}
	return &cookies{secret: secret, now: now}, nil
}

// own loads a key of the trustee's own, or makes it at the first start.
func own(ctx context.Context, s *store.Store, name string, make func() ([]byte, error)) ([]byte, error) {
	key, err := s.Get(ctx, server, name)
	if !errors.Is(err, store.ErrNotFound) {
		return key, err
	}
	if key, err = make(); err != nil {
		return nil, fmt.Errorf("make the trustee's %s: %w", name, err)
	}
	if err := s.Update(ctx, func(tx *store.Tx) error { return tx.PutNew(server, name, key) }); err != nil {
		return nil, fmt.Errorf("store the trustee's %s: %w", name, err)
	}
	return key, nil
}

func epochOf(t time.Time) uint32 { return uint32(t.Unix() / int64(epochLength/time.Second)) }

// cipher returns the cipher of an epoch; the last one used is remembered.
func (c *cookies) cipher(epoch uint32) (cipher.AEAD, error) {
	if last := c.last.Load(); last != nil && last.epoch == epoch {
		return last.aead, nil
	}
	key, err := hkdf.Key(sha256.New, c.secret, nil, fmt.Sprintf("%s epoch %d", cookieDomain, epoch), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	c.last.Store(&epochCipher{epoch, aead})
	return aead, nil
}

// seal makes the cookie's value.
func (c *cookies) seal(s session) (string, error) {
	epoch := epochOf(c.now())
	aead, err := c.cipher(epoch)
	if err != nil {
		return "", err
	}
	plain := make([]byte, 0, plainHead+len(s.tee))
	plain = append(plain, s.id[:]...)
	plain = append(plain, s.nonce[:]...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(s.expires.Unix()))
	plain = append(plain, s.tee...)
	head := binary.BigEndian.AppendUint32(make([]byte, 0, sealedHead+len(plain)+aead.Overhead()), epoch)
	return base64.RawURLEncoding.EncodeToString(aead.Seal(head, nil, plain, head)), nil
}

var (
	errCookie  = errors.New("the session cookie was not made by this trustee")
	errExpired = errors.New("the session has expired")
)

// open reads a cookie's value. It returns errExpired for one that was good once.
func (c *cookies) open(value string) (session, error) {
	if len(value) > maxCookie {
		return session{}, errCookie
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(sealed) < sealedHead {
		return session{}, errCookie
	}
	head, sealed := sealed[:sealedHead], sealed[sealedHead:]
	epoch := binary.BigEndian.Uint32(head)
	// Only recent keys are derived; a session outlives at most one change of keys.
	if current := epochOf(c.now()); epoch > current {
		return session{}, errCookie
	} else if epoch+1 < current {
		return session{}, errExpired
	}
	aead, err := c.cipher(epoch)
	if err != nil {
		return session{}, err
	}
	plain, err := aead.Open(nil, nil, sealed, head)
	if err != nil || len(plain) < plainHead {
		return session{}, errCookie
	}
	s := session{expires: time.Unix(int64(binary.BigEndian.Uint64(plain[48:])), 0), tee: attest.TEE(plain[plainHead:])}
	copy(s.id[:], plain)
	copy(s.nonce[:], plain[16:])
	if !c.now().Before(s.expires) {
		return session{}, errExpired
	}
	return s, nil
}
