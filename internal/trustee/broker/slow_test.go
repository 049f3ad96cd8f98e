// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
)

// A guest begins a request while it may have the secret, and ends it when it no longer may.
func TestAttackKeepingADecision(t *testing.T) {
	s := start(t)
	s.provision()
	token := s.token(s.attempt())
	reading, body := io.Pipe()
	asked := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(asked) }})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+"/kbs/v0/resource/"+secretPath, reading)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Expect", "100-continue")
	withBearer(token)(r)
	status := make(chan int, 1)
	go func() {
		response, err := s.tls.Do(r)
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		response.Body.Close()
		status <- response.StatusCode
	}()
	<-asked // the trustee has begun to read
	s.setRelease(templates.DenyAll(), kbs.ReleaseOptions{})
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-status; got != 403 {
		t.Errorf("status %d after the owner denied everything", got)
	}
}

// changing is a plugin that the owner changes the policy behind the back of, when it was asked for what the policy in
// force let the guest have.
type changing struct {
	memory
	change func()
}

func (p changing) Handle(ctx context.Context, r resource.Request) (resource.Answer, error) {
	p.change()
	return p.memory.Handle(ctx, r)
}

// The owner's change is acknowledged between the decision and the record of the release.
func TestAttackReleaseByAPolicyOfThePast(t *testing.T) {
	var s *trustee
	change := func() {}
	s = start(t, func(c *broker.Config) {
		c.Plugins = map[string]resource.Plugin{"memory": changing{change: func() { change() }}}
	})
	s.setRelease(memoryPolicy(t), kbs.ReleaseOptions{AllowSimulated: true})
	token := s.token(s.attempt())
	t.Run("another that allows it", func(t *testing.T) {
		change = func() {
			change = func() {}
			s.setRelease(memoryPolicy(t)+"# again\n", kbs.ReleaseOptions{AllowSimulated: true})
		}
		if got := s.send("GET", "/kbs/v0/memory/a", nil, withBearer(token)); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
	t.Run("one that denies everything", func(t *testing.T) {
		change = func() { s.setRelease(templates.DenyAll(), kbs.ReleaseOptions{}) }
		if got := s.send("GET", "/kbs/v0/memory/a", nil, withBearer(token)); got.status != 403 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// Who sends the body of an attestation slowly does not keep others from attesting.
func TestAttackKeepingASlot(t *testing.T) {
	s := start(t, func(c *broker.Config) { c.MaxAttests = 1 })
	_, cookie := s.challenge()
	reading, body := io.Pipe()
	asked := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(asked) }})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.server.URL+"/kbs/v0/attest", reading)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Expect", "100-continue")
	withCookie(cookie)(r)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if response, err := s.tls.Do(r); err == nil {
			response.Body.Close()
		}
	}()
	<-asked // the trustee has begun to read
	if got := s.attest(s.attempt()); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// late is a verifier that takes until the session is over.
type late struct {
	attest.Verifier
	s *trustee
}

func (l late) Verify(ctx context.Context, e json.RawMessage, want attest.Expected) (*attest.Claims, error) {
	claims, err := l.Verifier.Verify(ctx, e, want)
	l.s.clock.Add(int64(broker.DefaultSessionLifetime))
	return claims, err
}

// Evidence that was accepted comes again just before its session ends, so that it is verified when the note that the
// nonce was used is gone.
func TestAttackReplayAcrossTheSessionsEnd(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	body := a.body(t)
	if got := s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie)); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	p := s.config.Platforms[attest.SNP]
	p.Verifier = late{p.Verifier, s}
	s.config.Platforms[attest.SNP] = p
	if got := s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie)); got.status != 401 ||
		got.info.Code != "session_expired" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// away is a verifier that needs a certificate that cannot be had.
type away struct{}

func (away) Verify(context.Context, json.RawMessage, attest.Expected) (*attest.Claims, error) {
	return nil, &attest.Error{Code: attest.CodeCollateralUnavailable, RetryAfter: time.Second}
}

// Anybody can name a chip whose certificate cannot be had.
func TestAttackFillingTheLogWithWhatIsUnavailable(t *testing.T) {
	s := start(t, func(c *broker.Config) {
		c.Platforms = map[attest.TEE]broker.Platform{attest.SNP: {Verifier: away{}}}
	})
	a := s.attempt()
	a.evidence = json.RawMessage("{}")
	var body []byte
	const many = 1500 // the burst is 500
	begin := time.Now()
	for i := range many {
		if i%16 == 0 { // no session is tried more often
			a.nonce, a.cookie = s.challenge()
			body = a.body(t)
		}
		if got := s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie)); got.status != 503 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	lines := strings.Count(s.log.String(), `"msg":"refused"`)
	if most := 500 + 10*int(time.Since(begin)/time.Second+1); lines > most {
		t.Errorf("%d lines for %d requests, want at most %d", lines, many, most)
	}
}
