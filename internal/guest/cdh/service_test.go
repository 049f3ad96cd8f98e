// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/internal/guest/socket"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/test/brokertest"
)

const password = "a password that no log may show"

// hub is a guest with its agent and data hub, and the log that they write.
type hub struct {
	*Service
	log bytes.Buffer
}

func newHub(t *testing.T, b *brokertest.Broker, change func(*Config, *aa.Options)) *hub {
	t.Helper()
	h := &hub{}
	log := slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	config := Config{Broker: b.Client()}
	options := aa.Options{Config: aa.Config{Broker: b.Client()}, Attester: brokertest.Guest(t, nil), Log: log}
	if change != nil {
		change(&config, &options)
	}
	tokens, err := aa.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if h.Service, err = New(config, tokens, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if strings.Contains(h.log.String(), password) {
			t.Errorf("the secret is in the log:\n%s", h.log.String())
		}
	})
	return h
}

func newBroker(t *testing.T) *brokertest.Broker {
	b := brokertest.New(t)
	b.Resources["default/db/password"] = password
	return b
}

var uri = kbs.ResourceURI{Path: []string{"default", "db", "password"}}

// refused demands an error of a kind and code, and returns it.
func refused(t *testing.T, h *hub, kind Kind, code string) *Error {
	t.Helper()
	value, err := h.Resource(t.Context(), uri)
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v, %v", value, err)
	}
	if e.Kind != kind || e.Code != code || value.Len() != 0 {
		t.Errorf("kind %d code %q, want %d %q: %v", e.Kind, e.Code, kind, code, err)
	}
	return e
}

func TestResource(t *testing.T) {
	b := newBroker(t)
	h := newHub(t, b, nil)
	for range 3 {
		value, err := h.Resource(t.Context(), uri)
		if err != nil || string(value.Reveal()) != password {
			t.Errorf("%v", err)
		}
	}
	if a, r := b.Attested.Load(), b.Released.Load(); a != 1 || r != 3 {
		t.Errorf("%d attestations for %d resources, want 1 for 3", a, r)
	}
}

func TestNothingIsAttestedBeforeASecretIsWanted(t *testing.T) {
	b := newBroker(t)
	newHub(t, b, nil)
	if n := b.Challenges.Load(); n != 0 {
		t.Errorf("%d handshakes", n)
	}
}

func TestOutdatedTokenIsReplacedOnce(t *testing.T) {
	b := newBroker(t)
	h := newHub(t, b, nil)
	if _, err := h.Resource(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	b.Forget(t)
	if _, err := h.Resource(t.Context(), uri); err != nil || b.Attested.Load() != 2 {
		t.Errorf("attested %d times, want 2, %v", b.Attested.Load(), err)
	}
}

func resourceRefusal(status int, code string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/kbs/v0/resource/") {
			return false
		}
		w.Header().Set("Retry-After", "7")
		brokertest.Refuse(w, status, kbs.ErrorInformation{Detail: "the broker's words", Code: code, RequestID: "request-7"})
		return true
	}
}

func TestTokenThatIsNeverTaken(t *testing.T) {
	b := newBroker(t)
	b.Intercept = resourceRefusal(http.StatusUnauthorized, "")
	h := newHub(t, b, nil)
	refused(t, h, Denied, CodeTokenRefused)
	if n := b.Attested.Load(); n != 2 {
		t.Errorf("attested %d times, want 2", n)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		status int
		given  string
		kind   Kind
		code   string
	}{
		{http.StatusForbidden, "", Denied, CodePolicyDenied},
		{http.StatusForbidden, "policy_denied_simulated", Denied, "policy_denied_simulated"},
		{http.StatusNotFound, "", NotFound, CodeNotFound},
		{http.StatusTooManyRequests, "", Unavailable, CodeBrokerUnavailable},
		{http.StatusServiceUnavailable, "collateral_unavailable", Unavailable, "collateral_unavailable"},
		{http.StatusInternalServerError, "", Unavailable, CodeBrokerUnavailable},
		{http.StatusTeapot, "", Denied, CodePolicyDenied},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.given), func(t *testing.T) {
			b := newBroker(t)
			asked := atomic.Int64{}
			refuse := resourceRefusal(tt.status, tt.given)
			b.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				answered := refuse(w, r)
				if answered {
					asked.Add(1)
				}
				return answered
			}
			e := refused(t, newHub(t, b, nil), tt.kind, tt.code)
			if e.RequestID != "request-7" || e.RetryAfter != 7*time.Second || !strings.Contains(e.Error(), "the broker's words") {
				t.Errorf("%+v", e)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			if n := b.Attested.Load(); n != 1 {
				t.Errorf("attested %d times", n)
			}
		})
	}
}

func TestAttestationIsRefused(t *testing.T) {
	b := newBroker(t)
	h := newHub(t, b, func(_ *Config, o *aa.Options) {
		o.InitData = []byte("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n") // not what the guest was launched with
	})
	e := refused(t, h, Denied, "init_data_mismatch")
	if e.RequestID != "request-1" || e.Doing != "attesting" {
		t.Errorf("%+v", e)
	}
}

func TestBrokerIsAway(t *testing.T) {
	b := newBroker(t)
	h := newHub(t, b, nil)
	b.Close()
	refused(t, h, Unreachable, CodeBrokerUnreachable)
}

func TestBrokerGoesAway(t *testing.T) {
	b := newBroker(t)
	h := newHub(t, b, nil)
	if _, err := h.Resource(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	b.Close()
	refused(t, h, Unreachable, CodeBrokerUnreachable)
}

func TestWithoutBroker(t *testing.T) {
	b := newBroker(t)
	refused(t, newHub(t, b, func(c *Config, _ *aa.Options) { c.Broker = kbs.ClientConfig{} }), Unavailable, CodeNoBroker)
	refused(t, newHub(t, b, func(_ *Config, o *aa.Options) { o.Config.Broker = kbs.ClientConfig{} }), Unavailable, CodeNoBroker)
}

// Somebody with another certificate answers at the broker's address.
func TestAttackAnotherBroker(t *testing.T) {
	b := newBroker(t)
	h := newHub(t, b, func(c *Config, _ *aa.Options) { c.Broker.PinnedCert = nil }) // the system's roots do not know it
	refused(t, h, Unreachable, CodeBrokerUntrusted)
	if n := b.Released.Load(); n != 0 {
		t.Errorf("%d resources were asked for", n)
	}
}

// The answer is for another guest's key: a broker, or somebody in its place, that mixes up whom it speaks to.
func TestAttackOtherTEEKey(t *testing.T) {
	b := newBroker(t)
	other, err := kbs.GenerateTEEKey(kbs.ECDHP256)
	if err != nil {
		t.Fatal(err)
	}
	public := other.Public()
	b.SealTo = &public
	refused(t, newHub(t, b, nil), Unreachable, CodeBrokerAnswer)
}

func TestAnswerThatIsNoEnvelope(t *testing.T) {
	b := newBroker(t)
	b.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/kbs/v0/resource/") {
			return false
		}
		_, _ = io.WriteString(w, password)
		return true
	}
	refused(t, newHub(t, b, nil), Unreachable, CodeBrokerAnswer)
}

func TestInvalidURI(t *testing.T) {
	h := newHub(t, newBroker(t), nil)
	for _, path := range [][]string{nil, {""}, {".."}, {"a", "b/c"}, {"a b"}} {
		_, err := h.Resource(t.Context(), kbs.ResourceURI{Path: path})
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != Invalid || e.Code != CodePathInvalid {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	b := newBroker(t)
	tokens, err := aa.New(aa.Options{Config: aa.Config{Broker: b.Client()}, Attester: brokertest.Guest(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Broker: b.Client()}, tokens, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if value, err := s.Resource(t.Context(), uri); err != nil || string(value.Reveal()) != password {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.Attested.Load(); n != 1 {
		t.Errorf("attested %d times, want 1", n)
	}
}

func dial(t *testing.T, h *hub) *ttrpc.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cdh.sock")
	l, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- socket.Serve(ctx, l, h.Register) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}

func TestServer(t *testing.T) {
	b := newBroker(t)
	b.Resources["default/large/value"] = strings.Repeat("x", 2<<20)
	client := dial(t, newHub(t, b, nil))
	c := api.NewGetResourceServiceClient(client)
	for _, name := range []string{"kbs:///default/db/password", "kbs+resource://some.host:8080/default/db/password"} {
		r, err := c.GetResource(t.Context(), &api.GetResourceRequest{ResourcePath: name})
		if err != nil || string(r.GetResource()) != password {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := c.GetResource(t.Context(), &api.GetResourceRequest{ResourcePath: "kbs:///default/large/value"})
	if err != nil || len(r.GetResource()) != 2<<20 {
		t.Errorf("large: %v", err)
	}
	for name, want := range map[string]struct {
		code codes.Code
		text string
	}{
		"kbs:///default/db/other": {codes.NotFound, "[CDH] [ERROR]: Get Resource failed: getting kbs:///default/db/other " +
			"(resource_not_found): "},
		"http://x/default/db/password": {codes.InvalidArgument, "scheme must be kbs"},
		"":                             {codes.InvalidArgument, CodePathInvalid},
	} {
		_, err := c.GetResource(t.Context(), &api.GetResourceRequest{ResourcePath: name})
		if status.Code(err) != want.code || !strings.Contains(fmt.Sprint(err), want.text) {
			t.Errorf("%q: %v", name, err)
		}
	}
	_, err = c.GetResource(t.Context(), &api.GetResourceRequest{ResourcePath: "kbs:///default/db/other"})
	if !strings.Contains(fmt.Sprint(err), "request-1") {
		t.Errorf("no request id: %v", err)
	}
}

func TestServicesThatAreNotThere(t *testing.T) {
	client := dial(t, newHub(t, newBroker(t), nil))
	_, mount := api.NewSecureMountServiceClient(client).SecureMount(t.Context(), &api.SecureMountRequest{})
	_, pull := api.NewImagePullServiceClient(client).PullImage(t.Context(), &api.ImagePullRequest{})
	for _, err := range []error{mount, pull} {
		if c := status.Code(err); c != codes.Unimplemented && c != codes.NotFound {
			t.Error(err)
		}
	}
}
