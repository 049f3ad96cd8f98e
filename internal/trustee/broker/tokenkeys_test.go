// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/broker"
)

// jwks returns the ids of the keys that the trustee publishes.
func (s *trustee) jwks() []string {
	s.t.Helper()
	keys, err := ear.ParseJWKS(s.send("GET", "/.well-known/jwks.json", nil, nil).body)
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, key := range keys {
		ids = append(ids, key.ID)
	}
	return ids
}

func (s *trustee) rotate() {
	s.t.Helper()
	if got := s.send("POST", "/nacre/v1/token-key", nil, s.withAdmin()); got.status != 200 {
		s.t.Fatalf("%d %s", got.status, got.body)
	}
}

// signer is the key that signs tokens now, stolen.
func (s *trustee) signer() *ear.Signer {
	s.t.Helper()
	text, err := s.store.Get(s.t.Context(), "server", "token-key")
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := ear.ParseSigner(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return signer
}

func TestTokenKeyRotation(t *testing.T) {
	s := start(t)
	s.provision()
	first := s.jwks()
	old := s.token(s.attempt())
	s.rotate()
	if r := s.last(); r.Event != "admin" || !strings.Contains(r.Detail, "rotate the key that signs tokens, by the key ") {
		t.Errorf("audit: %+v", r)
	}
	released := func(name, token string, want int) {
		t.Helper()
		if got := s.get(secretPath, withBearer(token)); got.status != want {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	fresh := s.token(s.attempt())
	second := s.jwks()
	if len(first) != 1 || len(second) != 2 || second[1] != first[0] || second[0] == first[0] {
		t.Fatalf("keys %v, then %v", first, second)
	}
	released("the old token", old, 200)
	released("a new token", fresh, 200)
	s.restart()
	released("the old token after a restart", old, 200)
	released("a new token after a restart", fresh, 200)
	if got := s.jwks(); len(got) != 2 || got[0] != second[0] {
		t.Errorf("keys after a restart: %v", got)
	}
	s.clock.Store(int64(broker.DefaultTokenLifetime + 3*time.Minute))
	released("the old token when it has expired", old, 401)
	if got := s.jwks(); len(got) != 1 || got[0] != second[0] {
		t.Errorf("keys when the old one's time is over: %v", got)
	}
}

func TestTokenKeyRotatesByAge(t *testing.T) {
	s := start(t)
	first := s.jwks()
	if err := s.broker.RotateTokenKey(t.Context(), time.Hour); err != nil || len(s.jwks()) != 1 {
		t.Errorf("a young key: %v, %v", s.jwks(), err)
	}
	s.clock.Store(int64(2 * time.Hour))
	if err := s.broker.RotateTokenKey(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := s.jwks(); len(got) != 2 || got[1] != first[0] {
		t.Errorf("an old key: %v", got)
	}
	if err := s.broker.RotateTokenKey(t.Context(), time.Hour); err != nil || len(s.jwks()) != 2 {
		t.Errorf("the new key: %v, %v", s.jwks(), err)
	}
	for range 15 {
		s.rotate()
	}
	if got := s.send("POST", "/nacre/v1/token-key", nil, s.withAdmin()); got.status != 503 {
		t.Errorf("one rotation too many: %d %s", got.status, got.body)
	}
}

// Somebody has a key that signed tokens once, and makes his own.
func TestAttackRetiredTokenKey(t *testing.T) {
	s := start(t)
	s.provision()
	stolen := s.signer()
	a := s.attempt()
	genuine, _, err := ear.Verify(s.token(a), []ear.Key{stolen.Public()}, s.now(), ear.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.rotate()
	forge := func() string {
		genuine.IssuedAt, genuine.Expiry = s.now(), s.now().Add(time.Hour)
		token, err := stolen.Sign(*genuine)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	before := forge()
	if got := s.get(secretPath, withBearer(before)); got.status != 200 {
		t.Fatalf("while the key counts: %d %s", got.status, got.body)
	}
	s.clock.Store(int64(broker.DefaultTokenLifetime + 3*time.Minute))
	for name, token := range map[string]string{"when its time is over": forge(), "remembered from when it counted": before} {
		t.Run(name, func(t *testing.T) {
			if got := s.get(secretPath, withBearer(token)); got.status != 401 || got.info.Code != "token_invalid" {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
}
