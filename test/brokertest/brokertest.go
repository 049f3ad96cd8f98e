// SPDX-License-Identifier: Apache-2.0

// Package brokertest is a small broker for tests of what runs in the guest: RCAR over TLS on loopback, for guests of a
// simulated platform. Evidence is really signed, by that platform's chain, and really verified; tokens are signed and
// verified; resources are sealed to the attested key. What it has not got is a policy: it releases all it has.
// It is for tests only.
package brokertest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/attester"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/test/machine"
)

// platform is the machine that guests run on.
var platform = machine.Lazy("guests")

// Broker is a broker. Its fields may be set before the first request.
type Broker struct {
	*httptest.Server
	// Pin is its certificate, PEM.
	Pin string
	// Resources are the values by path ("default/db/password").
	Resources map[string]string
	// Lifetime is the tokens'; New makes it five minutes.
	Lifetime time.Duration
	// Now is the broker's clock.
	Now func() time.Time
	// Intercept, if set, sees every request first, and says whether it has answered it.
	Intercept func(w http.ResponseWriter, r *http.Request) bool
	// SealTo, if set, is the key that resources are sealed to in place of the attested one.
	SealTo *kbs.JWK

	// Challenges, Attested and Released count what was done.
	Challenges, Attested, Released atomic.Int64

	verifier attest.Verifier

	mu     sync.Mutex
	nonces map[string]string // by session
	signer *ear.Signer
}

// New starts a broker that ends with the test.
func New(t testing.TB) *Broker {
	t.Helper()
	host, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		Resources: map[string]string{},
		Lifetime:  5 * time.Minute,
		Now:       time.Now,
		verifier:  snp.NewVerifier(snp.Config{Roots: []snp.Root{host.Root()}}),
		nonces:    map[string]string{},
	}
	b.Forget(t)
	b.Server = httptest.NewUnstartedServer(b)
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.StartTLS()
	t.Cleanup(b.Close)
	b.Pin = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw}))
	return b
}

// Forget gives the broker a new key to sign tokens with, so that it takes none of those it has given.
func (b *Broker) Forget(t testing.TB) {
	t.Helper()
	signer, err := ear.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signer = signer
}

// Client is how a guest's configuration names the broker.
func (b *Broker) Client() kbs.ClientConfig {
	return kbs.ClientConfig{URL: b.URL, PinnedCert: []byte(b.Pin), Attempts: 1}
}

// Refuse answers as a broker does that refuses.
func Refuse(w http.ResponseWriter, status int, info kbs.ErrorInformation) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(info)
}

// Platform is the machine whose guests brokers trust.
func Platform(t testing.TB) *signer.Platform {
	t.Helper()
	host, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// Guest is a guest of the simulated platform, launched with init-data, nil for none.
func Guest(t testing.TB, initData []byte) attester.Attester {
	t.Helper()
	host := Platform(t)
	launch := signer.Launch{Measurement: [48]byte{1}}
	if initData != nil {
		digest, err := initdata.Digest(initData)
		if err != nil {
			t.Fatal(err)
		}
		copy(launch.HostData[:], digest)
	}
	return &guest{host.Launch(launch)}
}

type guest struct{ processor *signer.Processor }

func (g *guest) TEE() attest.TEE { return attest.SNP }
func (g *guest) Simulated() bool { return true }

func (g *guest) Evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	return g.processor.Evidence(reportData)
}

func (g *guest) BindInitData(context.Context, []byte) error { return nil }

func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if b.Intercept != nil && b.Intercept(w, r) {
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/kbs/v0/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, kbs.MaxAttestationSize))
	var status int
	var answer any
	switch {
	case err != nil:
		status = http.StatusBadRequest
	case path == "auth":
		status, answer, err = b.challenge(w, body)
	case path == "attest":
		status, answer, err = b.attest(r, body)
	default:
		status, answer, err = b.release(r, strings.TrimPrefix(path, "resource/"))
	}
	if err != nil {
		code := string(attest.CodeOf(err))
		Refuse(w, status, kbs.ErrorInformation{
			Type: kbs.ErrorTypePrefix + "Test", Detail: err.Error(), Code: code, RequestID: "request-1",
		})
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (b *Broker) challenge(w http.ResponseWriter, body []byte) (int, any, error) {
	b.Challenges.Add(1)
	if _, err := kbs.ParseRequest(body); err != nil {
		return http.StatusUnauthorized, nil, err
	}
	session, nonce := rand.Text(), rand.Text()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nonces[session] = nonce
	http.SetCookie(w, &http.Cookie{Name: kbs.SessionCookie, Value: session})
	return 0, kbs.Challenge{Nonce: nonce}, nil
}

func (b *Broker) attest(r *http.Request, body []byte) (int, any, error) {
	attestation, err := kbs.ParseAttestation(body)
	if err != nil {
		return http.StatusUnauthorized, nil, err
	}
	session, err := r.Cookie(kbs.SessionCookie)
	if err != nil {
		return http.StatusUnauthorized, nil, err
	}
	b.mu.Lock()
	nonce := b.nonces[session.Value]
	delete(b.nonces, session.Value)
	signer := b.signer
	b.mu.Unlock()
	if nonce == "" || nonce != attestation.RuntimeData.Nonce {
		return http.StatusUnauthorized, nil, errors.New("another nonce")
	}
	key := attestation.RuntimeData.TEEPubKey
	expected := attest.Expected{}
	if expected.ReportData, err = kbs.ReportData(nonce, key, attestation.TEEEvidence.Additional); err != nil {
		return http.StatusUnauthorized, nil, err
	}
	if attestation.InitData != nil {
		if expected.InitDataDigest, err = initdata.Digest([]byte(attestation.InitData.Body)); err != nil {
			return http.StatusUnauthorized, nil, err
		}
	}
	if _, err := b.verifier.Verify(r.Context(), attestation.TEEEvidence.Primary, expected); err != nil {
		return http.StatusUnauthorized, nil, err
	}
	now := b.Now()
	token, err := signer.Sign(ear.Token{
		Profile: ear.Profile, IssuedAt: now, Expiry: now.Add(b.Lifetime), Issuer: "test", ID: rand.Text(),
		Verifier: ear.VerifierID{Developer: "test", Build: "test"},
		Submods: map[string]ear.Submod{ear.PrimarySubmod: {PolicyID: "default", Evidence: map[string]any{
			ear.RuntimeDataClaims: map[string]any{ear.TEEPublicKeyClaim: key},
		}}},
	})
	if err != nil {
		return http.StatusInternalServerError, nil, err
	}
	b.Attested.Add(1)
	return 0, kbs.TokenResponse{Token: token}, nil
}

func (b *Broker) release(r *http.Request, path string) (int, any, error) {
	b.mu.Lock()
	keys := []ear.Key{b.signer.Public()}
	b.mu.Unlock()
	token, _, err := ear.Verify(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), keys, b.Now(), ear.Options{})
	if err != nil {
		return http.StatusUnauthorized, nil, err
	}
	value, ok := b.Resources[path]
	if !ok {
		return http.StatusNotFound, nil, errors.New("no such resource")
	}
	claims, _ := token.Submods[ear.PrimarySubmod].Evidence[ear.RuntimeDataClaims].(map[string]any)
	text, err := json.Marshal(claims[ear.TEEPublicKeyClaim])
	if err != nil {
		return http.StatusInternalServerError, nil, err
	}
	key, err := kbs.ParseJWK(text)
	if err != nil {
		return http.StatusInternalServerError, nil, err
	}
	if b.SealTo != nil {
		key = *b.SealTo
	}
	envelope, err := kbs.Seal(key, []byte(value))
	if err != nil {
		return http.StatusInternalServerError, nil, err
	}
	b.Released.Add(1)
	return 0, envelope, nil
}
