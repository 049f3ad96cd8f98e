// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attester"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/test/brokertest"
)

const initData = `version = "0.1.0"
algorithm = "sha256"
[data]
"aa.toml" = "x"
`

// clock is a guest's clock that only tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newService(t *testing.T, b *brokertest.Broker, change func(*Options)) (*Service, *clock) {
	t.Helper()
	o := Options{
		Config:   Config{Broker: b.Client()},
		Attester: brokertest.Guest(t, []byte(initData)),
		InitData: []byte(initData),
		Log:      slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{now: time.Date(2016, 1, 1, 0, 0, 0, 0, time.UTC)} // ten years off: nothing may depend on it
	s.now = c.Now
	return s, c
}

func TestTokenIsKept(t *testing.T) {
	b := brokertest.New(t)
	for _, algorithm := range []kbs.Algorithm{"", kbs.ECDHP521, kbs.RSAOAEP256} {
		s, c := newService(t, b, func(o *Options) { o.Config.KeyAlgorithm = algorithm })
		before := b.Attested.Load()
		token, key, err := s.Token(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		c.pass(4*time.Minute + 29*time.Second)
		again, key2, err := s.Token(t.Context())
		if err != nil || again != token || key2 != key {
			t.Errorf("%s: attested again, %v", algorithm, err)
		}
		c.pass(2 * time.Second) // half a minute before it expires
		later, key3, err := s.Token(t.Context())
		if err != nil || later == token || key3 == key {
			t.Errorf("%s: not attested again, %v", algorithm, err)
		}
		if n := b.Attested.Load() - before; n != 2 {
			t.Errorf("%s: attested %d times, want 2", algorithm, n)
		}
	}
}

func TestTokenIsAskedForOnce(t *testing.T) {
	b := brokertest.New(t)
	s, _ := newService(t, b, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, _, err := s.Token(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.Attested.Load(); n != 1 {
		t.Errorf("attested %d times, want 1", n)
	}
}

func TestDroppedTokenIsReplaced(t *testing.T) {
	b := brokertest.New(t)
	s, _ := newService(t, b, nil)
	token, key, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Drop("another token")
	if same, _, _ := s.Token(t.Context()); same != token {
		t.Error("dropped by another's name")
	}
	s.Drop(token)
	again, key2, err := s.Token(t.Context())
	if err != nil || again == token || key2 == key {
		t.Errorf("the token, or the key, was used again: %v", err)
	}
}

func TestRefusalIsNotRetried(t *testing.T) {
	b := brokertest.New(t)
	s, _ := newService(t, b, func(o *Options) {
		o.Config.Broker.Attempts = 5
		o.Attester = brokertest.Guest(t, []byte(strings.Replace(initData, "x", "y", 1)))
	})
	_, _, err := s.Token(t.Context())
	refusal, ok := errors.AsType[*kbs.StatusError](err)
	if !ok || refusal.Status != http.StatusUnauthorized || refusal.Info.Code != string(attest.CodeInitDataMismatch) {
		t.Errorf("%v", err)
	}
	if n := b.Challenges.Load(); n != 1 {
		t.Errorf("%d handshakes, want 1", n)
	}
}

func TestAttackManyAttestations(t *testing.T) {
	b := brokertest.New(t)
	asked := atomic.Int64{}
	b.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		brokertest.Refuse(w, http.StatusUnauthorized, kbs.ErrorInformation{Code: "root_untrusted"})
		return true
	}
	s, c := newService(t, b, nil)
	for range 50 {
		_, _, err := s.Token(t.Context())
		if refusal, ok := errors.AsType[*kbs.StatusError](err); !ok || refusal.Info.Code != "root_untrusted" {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != attestationsAtOnce {
		t.Errorf("%d handshakes, want %d", n, attestationsAtOnce)
	}
	_, _, err := s.Token(t.Context())
	if !errors.Is(err, ErrTooOften) || len(err.Error()) > 1000 {
		t.Error(err)
	}
	c.pass(attestationsEvery)
	if _, _, err := s.Token(t.Context()); errors.Is(err, ErrTooOften) {
		t.Error(err)
	}
}

// A token that does not say how long it lasts, or says nonsense, is used once.
func TestTokenOfUnknownLife(t *testing.T) {
	b := brokertest.New(t)
	b.Lifetime = -time.Minute
	s, _ := newService(t, b, nil)
	for want := int64(1); want <= 2; want++ {
		if _, _, err := s.Token(t.Context()); err != nil || b.Attested.Load() != want {
			t.Errorf("attested %d times, want %d, %v", b.Attested.Load(), want, err)
		}
	}
}

func TestTimes(t *testing.T) {
	claims := func(text string) string { return "e30." + encode(text) + ".c2ln" }
	tests := []struct {
		name, token string
		want        time.Duration
	}{
		{"five minutes", claims(`{"iat":1000,"exp":1300}`), 5*time.Minute - 30*time.Second},
		{"one minute", claims(`{"iat":1000,"exp":1060}`), 54 * time.Second},
		{"a year", claims(`{"iat":1000,"exp":31537000}`), 24*time.Hour - 30*time.Second},
		{"fractions", claims(`{"iat":1000.5,"exp":1300.25}`), 5*time.Minute - 30*time.Second},
		{"no expiry", claims(`{"iat":1000}`), 0},
		{"no issue", claims(`{"exp":1300}`), 0},
		{"expired before it was issued", claims(`{"iat":1300,"exp":1000}`), 0},
		{"numbers beyond all time", claims(`{"iat":1e300,"exp":2e300}`), 0},
		{"negative", claims(`{"iat":-1e300,"exp":-1}`), 0},
		{"texts", claims(`{"iat":"1000","exp":"1300"}`), 0},
		{"no claims", "e30.!.c2ln", 0},
		{"two parts", "e30.e30", 0},
		{"nothing", "", 0},
	}
	for _, tt := range tests {
		if got := life(times(tt.token)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// The broker's time reaches the clock only from a broker that is known by its certificate.
func TestOnToken(t *testing.T) {
	b := brokertest.New(t)
	issued := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	b.Now = func() time.Time { return issued }
	var got time.Time
	s, _ := newService(t, b, func(o *Options) { o.OnToken = func(t time.Time) { got = t } })
	if _, _, err := s.Token(t.Context()); err != nil || !got.Equal(issued) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAttackTimeFromUnpinnedBroker(t *testing.T) {
	b := brokertest.New(t)
	s, _ := newService(t, b, func(o *Options) { o.OnToken = func(time.Time) { t.Error("the clock was set") } })
	s.options.Config.Broker.PinnedCert = nil // the client keeps its own
	if _, _, err := s.Token(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWithoutBroker(t *testing.T) {
	s, err := New(Options{Attester: brokertest.Guest(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Token(t.Context()); !errors.Is(err, ErrNoBroker) {
		t.Error(err)
	}
}

func TestWithoutInitData(t *testing.T) {
	b := brokertest.New(t)
	s, _ := newService(t, b, func(o *Options) { o.Attester, o.InitData = brokertest.Guest(t, nil), nil })
	if _, _, err := s.Token(t.Context()); err != nil {
		t.Error(err)
	}
}

// broken is a platform that gives no evidence.
type broken struct{ attester.Attester }

func (broken) Evidence(context.Context, []byte) (json.RawMessage, error) {
	return nil, errors.New("the device is gone")
}

func TestWithoutEvidence(t *testing.T) {
	b := brokertest.New(t)
	s, _ := newService(t, b, func(o *Options) { o.Attester = broken{o.Attester} })
	_, _, err := s.Token(t.Context())
	if !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), "the device is gone") {
		t.Error(err)
	}
}

// Who waits for another's attestation goes on when that one gives up.
func TestCallerWhoAttestsGivesUp(t *testing.T) {
	b := brokertest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	first := atomic.Bool{}
	b.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if first.CompareAndSwap(false, true) {
			_, _ = io.Copy(io.Discard, r.Body) // only then the server notices that the client is gone
			close(asked)
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return false
	}
	s, _ := newService(t, b, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := s.Token(ctx); err == nil { // of its context, or of the connection that went with it
			t.Error("the first got a token")
		}
	})
	<-asked
	wg.Go(func() {
		if _, _, err := s.Token(t.Context()); err != nil {
			t.Errorf("the second: %v", err)
		}
	})
	gone, goneCancel := context.WithCancel(t.Context())
	goneCancel()
	if _, _, err := s.Token(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("the third: %v", err)
	}
	cancel()
	wg.Wait()
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no attester: accepted")
	}
	o := Options{Attester: brokertest.Guest(t, nil), Config: Config{Broker: kbs.ClientConfig{URL: "http://broker"}}}
	if _, err := New(o); err == nil {
		t.Error("plain HTTP: accepted")
	}
}
