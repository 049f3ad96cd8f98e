// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// identity is a server's certificate, as it serves it and as clients pin it.
type identity struct {
	serve tls.Certificate
	pin   []byte
}

// newIdentity makes a self-signed certificate.
func newIdentity(t *testing.T, change func(*x509.Certificate)) identity {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "broker"},
		DNSNames:     []string{"broker.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// serve starts a TLS server on loopback.
func serve(t *testing.T, id identity, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{id.serve}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = newQuietLog()
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// patient replaces waiting, and records it.
func patient(w *wire) *[]time.Duration {
	var waits []time.Duration
	w.jitter = func() float64 { return 0 }
	w.sleep = func(_ context.Context, d time.Duration) error {
		waits = append(waits, d)
		return nil
	}
	return &waits
}

func newTestClient(t *testing.T, config ClientConfig) (*Client, *[]time.Duration) {
	t.Helper()
	c, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, patient(c.wire)
}

// broker is the protocol's server side, as small as it gets: evidence is the report data itself.
type broker struct {
	t         *testing.T
	challenge string
	expires   string // of the cookie
	secret    string
	asked     atomic.Int64 // handshakes begun
	refuse    func(path string, n int64) *StatusError
}

func (b *broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	if b.refuse != nil {
		if refusal := b.refuse(r.URL.Path, b.asked.Load()); refusal != nil {
			if refusal.RetryAfter > 0 {
				w.Header().Set("Retry-After", fmt.Sprint(int(refusal.RetryAfter.Seconds())))
			}
			if r.URL.Path == "/kbs/v0/auth" {
				b.asked.Add(1)
			}
			w.WriteHeader(refusal.Status)
			_ = json.NewEncoder(w).Encode(refusal.Info)
			return
		}
	}
	switch r.URL.Path {
	case "/kbs/v0/auth":
		n := b.asked.Add(1)
		if _, err := ParseRequest(body); err != nil || r.Header.Get("Content-Type") != "application/json" {
			b.t.Errorf("auth: %v", err)
		}
		w.Header().Set("Set-Cookie", fmt.Sprintf("%s=session-%d; Expires=%s", SessionCookie, n, b.expires))
		_, _ = io.WriteString(w, b.challenge)
	case "/kbs/v0/attest":
		cookie, err := r.Cookie(SessionCookie)
		if err != nil || cookie.Value != fmt.Sprintf("session-%d", b.asked.Load()) {
			b.t.Errorf("attest: cookie %v, %v", cookie, err)
		}
		a, err := ParseAttestation(body)
		if err != nil {
			b.t.Fatal(err)
		}
		want, err := ReportData(testNonce, a.RuntimeData.TEEPubKey, a.TEEEvidence.Additional)
		if err != nil {
			b.t.Error(err)
		}
		var got []byte
		if err := json.Unmarshal(a.TEEEvidence.Primary, &got); err != nil || !bytes.Equal(got, want) ||
			a.RuntimeData.Nonce != testNonce {
			b.t.Errorf("attest: evidence for %x, want %x, %v", got, want, err)
		}
		token, err := json.Marshal(a.RuntimeData.TEEPubKey) // our token is the key
		if err != nil {
			b.t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(TokenResponse{Token: encodeBase64URL(token)})
	case "/kbs/v0/resource/default/db/password":
		raw, err := decodeBase64URL(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil {
			b.t.Error(err)
		}
		key, err := ParseJWK(raw)
		if err != nil {
			b.t.Error(err)
		}
		e, err := Seal(key, []byte(b.secret))
		if err != nil {
			b.t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(e)
	default:
		b.t.Errorf("asked for %s %s", r.Method, r.URL)
	}
}

func newBroker(t *testing.T) *broker {
	return &broker{t: t, challenge: `{"nonce":"` + testNonce + `","extra-params":""}`, secret: "a password",
		expires: "Thu, 01 Jan 1970 00:00:00 GMT"}
}

func echoEvidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	return json.Marshal(reportData)
}

var password = ResourceURI{Path: []string{"default", "db", "password"}}

// The whole way of a secret. The session cookie has long expired by the guest's clock, which nobody trusts.
func TestHandshakeAndResource(t *testing.T) {
	id := newIdentity(t, nil)
	for _, algorithm := range algorithms {
		client, waits := newTestClient(t, ClientConfig{URL: serve(t, id, newBroker(t)) + "/", PinnedCert: id.pin})
		key := newKey(t, algorithm)
		token, err := client.Attest(t.Context(), "snp", key, echoEvidence, &InitData{Format: InitDataFormat, Body: "x"})
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		value, err := client.Resource(t.Context(), password, token, key)
		if err != nil || string(value.Reveal()) != "a password" || len(*waits) != 0 {
			t.Errorf("%s: %q after %v, %v", algorithm, value.Reveal(), *waits, err)
		}
	}
}

func TestRefusalsAreFinal(t *testing.T) {
	id := newIdentity(t, nil)
	for _, status := range []int{400, 401, 403, 404, 302} {
		for _, path := range []string{"/kbs/v0/auth", "/kbs/v0/attest", "/kbs/v0/resource/default/db/password"} {
			b := newBroker(t)
			calls := 0
			info := ErrorInformation{
				Type:      ErrorTypePrefix + "PolicyDeny",
				Detail:    "Access denied by policy",
				Code:      "policy_denied",
				RequestID: "r1",
			}
			b.refuse = func(got string, _ int64) *StatusError {
				if got != path {
					return nil
				}
				calls++
				return &StatusError{Status: status, Info: info}
			}
			client, waits := newTestClient(t, ClientConfig{URL: serve(t, id, b), PinnedCert: id.pin})
			key := newKey(t, ECDHP256)
			token, err := client.Attest(t.Context(), "snp", key, echoEvidence, nil)
			if err == nil {
				_, err = client.Resource(t.Context(), password, token, key)
			}
			var refused *StatusError
			if !errors.As(err, &refused) || refused.Status != status || refused.Info != info || calls != 1 ||
				len(*waits) != 0 {
				t.Errorf("%d at %s: %v after %d calls", status, path, err, calls)
			}
			if err != nil &&
				!strings.Contains(err.Error(), "Access denied by policy (code policy_denied) [request r1]") {
				t.Errorf("%d at %s: the error does not say why: %v", status, path, err)
			}
		}
	}
}

func TestRetries(t *testing.T) {
	id := newIdentity(t, nil)
	unavailable := func(status int, after time.Duration) *StatusError {
		return &StatusError{Status: status, RetryAfter: after}
	}
	for _, c := range []struct {
		name   string
		refuse func(path string, n int64) *StatusError
		waits  []time.Duration
		fails  bool
	}{
		{"503 twice, then well", func(path string, n int64) *StatusError {
			if path == "/kbs/v0/auth" && n < 2 {
				return unavailable(503, 0)
			}
			return nil
		}, []time.Duration{125 * time.Millisecond, 250 * time.Millisecond}, false},
		{"429 that says when", func(path string, n int64) *StatusError {
			if path == "/kbs/v0/auth" && n < 1 {
				return unavailable(429, 7*time.Second)
			}
			return nil
		}, []time.Duration{7 * time.Second}, false},
		{"a failed attest begins anew", func(path string, n int64) *StatusError {
			if path == "/kbs/v0/attest" && n < 3 {
				return unavailable(502, 0)
			}
			return nil
		}, []time.Duration{125 * time.Millisecond, 250 * time.Millisecond}, false},
		{"for good", func(string, int64) *StatusError { return unavailable(500, 0) },
			[]time.Duration{125 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second}, true},
		{"longer than we wait", func(string, int64) *StatusError { return unavailable(503, time.Hour) }, nil, true},
	} {
		b := newBroker(t)
		b.refuse = c.refuse
		client, waits := newTestClient(t, ClientConfig{URL: serve(t, id, b), PinnedCert: id.pin})
		_, err := client.Attest(t.Context(), "snp", newKey(t, ECDHP256), echoEvidence, nil)
		if (err != nil) != c.fails || !slices.Equal(*waits, c.waits) {
			t.Errorf("%s: %v, waited %v, want %v", c.name, err, *waits, c.waits)
		}
		var refused *StatusError
		if c.name == "longer than we wait" && (!errors.As(err, &refused) || refused.RetryAfter != time.Hour) {
			t.Errorf("%s: the caller does not learn how long: %v", c.name, err)
		}
	}
}

func TestRetriesStopWithTheContext(t *testing.T) {
	id := newIdentity(t, nil)
	b := newBroker(t)
	b.refuse = func(string, int64) *StatusError { return &StatusError{Status: 503} }
	client, err := NewClient(ClientConfig{URL: serve(t, id, b), PinnedCert: id.pin})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	client.wire.jitter = func() float64 { cancel(); return 0 }
	if _, err := client.Attest(ctx, "snp", newKey(t, ECDHP256), echoEvidence, nil); err == nil || b.asked.Load() != 1 {
		t.Errorf("%v after %d handshakes", err, b.asked.Load())
	}
}

func TestNetworkErrorsAreRetried(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // nobody listens there now
	client, waits := newTestClient(
		t,
		ClientConfig{URL: "https://" + address, PinnedCert: newIdentity(t, nil).pin, Attempts: 3},
	)
	if _, err := client.Attest(t.Context(), "snp", newKey(t, ECDHP256), echoEvidence, nil); err == nil ||
		len(*waits) != 2 {
		t.Errorf("%v after waiting %v", err, *waits)
	}
}

func TestEvidenceErrorsAreFinal(t *testing.T) {
	id := newIdentity(t, nil)
	client, waits := newTestClient(t, ClientConfig{URL: serve(t, id, newBroker(t)), PinnedCert: id.pin})
	broken := errors.New("no report")
	_, err := client.Attest(t.Context(), "snp", newKey(t, ECDHP256),
		func(context.Context, []byte) (json.RawMessage, error) {
			return nil, &net.OpError{Op: "read", Err: broken}
		}, nil)
	if !errors.Is(err, broken) || len(*waits) != 0 {
		t.Errorf("%v after waiting %v", err, *waits)
	}
}

func TestChallengeSelectsTheHash(t *testing.T) {
	id := newIdentity(t, nil)
	for selected, size := range map[string]int{"sha256": 32, "SHA512": 64} {
		b := newBroker(t)
		b.challenge = `{"nonce":"` + testNonce + `","extra-params":{"selected-hash-algorithm":"` + selected + `"}}`
		client, _ := newTestClient(t, ClientConfig{URL: serve(t, id, b), PinnedCert: id.pin})
		stop := errors.New("seen enough")
		_, err := client.Attest(
			t.Context(),
			"se",
			newKey(t, ECDHP256),
			func(_ context.Context, reportData []byte) (json.RawMessage, error) {
				if len(reportData) != size {
					t.Errorf("%s: %d bytes of report data", selected, len(reportData))
				}
				return nil, stop
			},
			nil,
		)
		if !errors.Is(err, stop) {
			t.Error(err)
		}
	}
}

// attestTo says how a client with this configuration fares at a broker with this identity.
func attestTo(t *testing.T, id identity, config ClientConfig) error {
	t.Helper()
	config.URL = serve(t, id, newBroker(t))
	client, _ := newTestClient(t, config)
	_, err := client.Attest(t.Context(), "snp", newKey(t, ECDHP256), echoEvidence, nil)
	return err
}

// Same name, same validity, another key: the pin is all that tells them apart.
func TestAttackBrokerWithAnotherKey(t *testing.T) {
	honest, impostor := newIdentity(t, nil), newIdentity(t, nil)
	if err := attestTo(t, honest, ClientConfig{PinnedCert: honest.pin}); err != nil {
		t.Fatal(err)
	}
	var untrusted *tls.CertificateVerificationError
	if err := attestTo(t, impostor, ClientConfig{PinnedCert: honest.pin}); !errors.As(err, &untrusted) {
		t.Errorf("the impostor: %v", err)
	}
}

// A pinned server certificate signs no other: who stole nothing but an old key cannot appoint a successor.
func TestAttackBrokerSignedByThePinnedLeaf(t *testing.T) {
	honest := newIdentity(t, func(c *x509.Certificate) { c.BasicConstraintsValid = true })
	parent, err := x509.ParseCertificate(honest.serve.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(
		rand.Reader,
		&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: parent.DNSNames,
			NotBefore: parent.NotBefore, NotAfter: parent.NotAfter},
		parent,
		key.Public(),
		honest.serve.PrivateKey,
	)
	if err != nil {
		t.Fatal(err)
	}
	successor := identity{serve: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	if err := attestTo(t, successor, ClientConfig{PinnedCert: honest.pin}); err == nil {
		t.Error("accepted")
	}
}

// The guest's clock is ten years off, both ways; or, what is the same, the certificate's validity is.
func TestPinNeedsNoClock(t *testing.T) {
	for name, years := range map[string]int{"expired long ago": -10, "not valid for long": 10} {
		id := newIdentity(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.AddDate(years, 0, 0), c.NotAfter.AddDate(years, 0, 0)
		})
		if err := attestTo(t, id, ClientConfig{PinnedCert: id.pin}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The broker is whom the pin names, wherever it is reached.
func TestPinNames(t *testing.T) {
	for name, change := range map[string]func(*x509.Certificate){
		"another DNS name": func(c *x509.Certificate) { c.DNSNames = []string{"elsewhere.test", "broker.test"} },
		"another address":  func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(192, 0, 2, 1)} },
		"IPv6":             func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, []net.IP{net.ParseIP("2001:db8::1")} },
		"self-signed CA":   func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true },
	} {
		id := newIdentity(t, change)
		if err := attestTo(t, id, ClientConfig{PinnedCert: id.pin}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pinned CA vouches for names, so the name in the URL counts.
func TestPinnedCA(t *testing.T) {
	ca := newIdentity(t, func(c *x509.Certificate) {
		c.DNSNames, c.BasicConstraintsValid, c.IsCA, c.KeyUsage = nil, true, true, x509.KeyUsageCertSign
	})
	parent, err := x509.ParseCertificate(ca.serve.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for address, good := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(
			rand.Reader,
			&x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.ParseIP(address)},
				NotBefore: parent.NotBefore, NotAfter: parent.NotAfter},
			parent,
			key.Public(),
			ca.serve.PrivateKey,
		)
		if err != nil {
			t.Fatal(err)
		}
		err = attestTo(
			t,
			identity{serve: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}},
			ClientConfig{PinnedCert: ca.pin},
		)
		if (err == nil) != good {
			t.Errorf("certificate for %s: %v", address, err)
		}
	}
}

func TestAttackUnpinnedBroker(t *testing.T) {
	if err := attestTo(t, newIdentity(t, nil), ClientConfig{}); err == nil {
		t.Error("a certificate that nobody vouches for is accepted")
	}
}

func TestAttackOldTLS(t *testing.T) {
	id := newIdentity(t, nil)
	server := httptest.NewUnstartedServer(newBroker(t))
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{id.serve},
		MinVersion:   tls.VersionTLS10,
		MaxVersion:   tls.VersionTLS11,
	}
	server.Config.ErrorLog = newQuietLog()
	server.StartTLS()
	defer server.Close()
	client, _ := newTestClient(t, ClientConfig{URL: server.URL, PinnedCert: id.pin})
	if _, err := client.Attest(t.Context(), "snp", newKey(t, ECDHP256), echoEvidence, nil); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
}

func TestAttackPlainHTTP(t *testing.T) {
	if _, err := NewClient(ClientConfig{URL: "http://127.0.0.1:8080"}); err == nil {
		t.Error("accepted")
	}
}

func TestUnsafeHTTP(t *testing.T) {
	server := httptest.NewServer(newBroker(t))
	defer server.Close()
	client, _ := newTestClient(t, ClientConfig{URL: server.URL, UnsafeHTTP: true})
	if _, err := client.Attest(t.Context(), "snp", newKey(t, ECDHP256), echoEvidence, nil); err != nil {
		t.Error(err)
	}
}

// Were a redirect followed, the token would go where the redirect says.
func TestAttackRedirect(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("redirected to %s with %q", r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	id := newIdentity(t, nil)
	url := serve(t, id, http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	client, _ := newTestClient(t, ClientConfig{URL: url, PinnedCert: id.pin})
	_, err := client.Resource(t.Context(), password, "token", newKey(t, ECDHP256))
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Status != http.StatusTemporaryRedirect {
		t.Error(err)
	}
}

func TestAttackEndlessAnswer(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		id := newIdentity(t, nil)
		var sent atomic.Int64
		url := serve(t, id, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			chunk := bytes.Repeat([]byte("a"), 1<<20)
			for range 64 {
				n, err := w.Write(chunk)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}))
		client, waits := newTestClient(t, ClientConfig{URL: url, PinnedCert: id.pin})
		_, err := client.Resource(t.Context(), password, "token", newKey(t, ECDHP256))
		if err == nil || len(*waits) != 0 || sent.Load() == 64<<20 {
			t.Errorf("%d: %v after %d bytes, waited %v", status, err, sent.Load(), *waits)
		}
	}
}

// A broker's answer that was sealed for another guest is not this guest's secret.
func TestAttackResourceForAnotherGuest(t *testing.T) {
	id := newIdentity(t, nil)
	client, _ := newTestClient(t, ClientConfig{URL: serve(t, id, newBroker(t)), PinnedCert: id.pin})
	victim, thief := newKey(t, ECDHP256), newKey(t, ECDHP256)
	token, err := client.Attest(t.Context(), "snp", victim, echoEvidence, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Resource(t.Context(), password, token, victim); err != nil {
		t.Fatal(err)
	}
	if value, err := client.Resource(t.Context(), password, token, thief); err == nil {
		t.Errorf("opened %q", value.Reveal())
	}
}

func TestResourceRefusesWhatItCannotAskFor(t *testing.T) {
	client, _ := newTestClient(t, ClientConfig{URL: "https://127.0.0.1:1", PinnedCert: newIdentity(t, nil).pin})
	if _, err := client.Resource(t.Context(), password, "", newKey(t, ECDHP256)); err == nil ||
		!strings.Contains(err.Error(), "no token") {
		t.Error(err)
	}
	if _, err := client.Resource(t.Context(), ResourceURI{Path: []string{".."}}, "token", newKey(t, ECDHP256)); err == nil {
		t.Error("asked for ..")
	}
}

func TestClientConfigRefuses(t *testing.T) {
	id := newIdentity(t, nil)
	nameless := newIdentity(t, func(c *x509.Certificate) { c.DNSNames = nil })
	for name, config := range map[string]ClientConfig{
		"nothing":           {},
		"no scheme":         {URL: "127.0.0.1:8080"},
		"another scheme":    {URL: "ftp://h"},
		"no host":           {URL: "https:///x"},
		"credentials":       {URL: "https://user:password@h"},
		"a query":           {URL: "https://h?a=b"},
		"a fragment":        {URL: "https://h#a"},
		"pin without use":   {URL: "http://h", PinnedCert: id.pin, UnsafeHTTP: true},
		"pin not PEM":       {URL: "https://h", PinnedCert: []byte("x")},
		"pin a key":         {URL: "https://h", PinnedCert: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY"})},
		"pin not X.509":     {URL: "https://h", PinnedCert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})},
		"two pins":          {URL: "https://h", PinnedCert: slices.Concat(id.pin, id.pin)},
		"pin without names": {URL: "https://h", PinnedCert: nameless.pin},
		"pin too long":      {URL: "https://h", PinnedCert: slices.Concat(bytes.Repeat([]byte("\n"), maxPinnedCert), id.pin)},
	} {
		if _, err := NewClient(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := NewAdmin(config, nil); err == nil {
			t.Errorf("%s: accepted for an administrator", name)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0}, {"3", "", 3 * time.Second}, {"-3", "", 0}, {"x", "", 0}, {"99999999999999", "", 0},
		{"Wed, 21 Oct 2015 07:28:09 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 9 * time.Second},
		{"Wed, 21 Oct 2015 07:28:09 GMT", "", 0},
		{"Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:09 GMT", 0},
	} {
		if got := retryAfter(http.Header{"Retry-After": {c.value}, "Date": {c.date}}); got != c.want {
			t.Errorf("%q at %q: %v, want %v", c.value, c.date, got, c.want)
		}
	}
}
