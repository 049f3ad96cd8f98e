// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http/httpproxy"
)

// Proxy names the proxies for pulling, as cdh.toml's [image] image_pull_proxy does. No field is read from the
// environment.
type Proxy struct {
	HTTPS, HTTP string // URLs; "" is none
	NoProxy     string // comma-separated hosts, domains and CIDR blocks
}

const (
	connectTimeout  = 10 * time.Second
	responseTimeout = 30 * time.Second
	maxRedirects    = 5
	maxTokenReply   = 64 << 10
	maxChallenge    = 4 << 10
	maxRetryAfter   = 30 * time.Second
	userAgent       = "nacre-guest"
)

func newTransport(cfg Config) (*http.Transport, error) {
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	proxies := httpproxy.Config{HTTPProxy: cfg.Proxy.HTTP, HTTPSProxy: cfg.Proxy.HTTPS, NoProxy: cfg.Proxy.NoProxy}
	proxy := proxies.ProxyFunc()
	return &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: cfg.Now},
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  responseTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        time.Minute,
		DisableCompression:     true, // a digest is of the bytes as they are
		ForceAttemptHTTP2:      true,
	}, nil
}

// session speaks with one registry about one repository, for one pull (OCI distribution-spec 1.1).
type session struct {
	transport  http.RoundTripper
	at         endpoint
	credential *Credential
	retry      Retry

	mu     sync.Mutex
	scheme string // "https", until a local registry turned out to speak plain HTTP
	auth   string // Authorization header that the registry takes, "" before it asked for one
	lost   error  // why it is not asked any more
}

// url is that of a document or blob; name is a digest or a tag.
func (s *session) url(kind, name string) *url.URL {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &url.URL{Scheme: s.scheme, Host: s.at.registry, Path: "/v2/" + s.at.repository + "/" + kind + "/" + name}
}

// get asks for a document or blob from a byte on, and returns a response with status 200 or 206. It retries nothing
// but what changes by asking otherwise: with a token, or without TLS where that is allowed.
func (s *session) get(
	ctx context.Context, kind, name, accept string, from int64,
) (*http.Response, error) {
	response, err := s.follow(ctx, s.url(kind, name), accept, from)
	if speaksPlaintext(err) {
		if err := s.allowPlaintext(); err != nil {
			return nil, err
		}
		response, err = s.follow(ctx, s.url(kind, name), accept, from)
	}
	if err != nil {
		return nil, unreachable(err, "%s", s.at.registry)
	}
	if response.StatusCode == http.StatusUnauthorized {
		challenge := response.Header.Get("WWW-Authenticate")
		response.Body.Close()
		if err := s.authorize(ctx, challenge); err != nil {
			return nil, err
		}
		if response, err = s.follow(ctx, s.url(kind, name), accept, from); err != nil {
			return nil, unreachable(err, "%s", s.at.registry)
		}
	}
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusPartialContent && from > 0 {
		return response, nil
	}
	response.Body.Close()
	what := fmt.Sprintf("%s: status %d for %s of %s", s.at.registry, response.StatusCode, name, s.at.repository)
	switch {
	case response.StatusCode == http.StatusNotFound:
		return nil, refuse(CodeNotFound, "%s", what)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return nil, refuse(CodeUnauthorized, "%s", what)
	case response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= 500:
		return nil, &temporary{refuse(CodeUnreachable, "%s", what), retryAfter(response.Header)}
	}
	return nil, refuse(CodeUnreachable, "%s", what)
}

// allowPlaintext decides what to do with a registry that does not speak TLS.
func (s *session) allowPlaintext() error {
	if !local(s.at.registry) {
		return refuse(CodePlaintextRefused, "%s does not speak TLS; only a registry named by a loopback, private or "+
			"link-local address may do without", s.at.registry)
	}
	if s.credential != nil {
		return refuse(CodePlaintextRefused, "%s does not speak TLS, and there are credentials for it, which are not "+
			"sent in the clear", s.at.registry)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scheme = "http"
	return nil
}

// follow sends one GET and follows redirections, which registries use to hand out blobs. It sends the registry's
// authorization to nobody else.
func (s *session) follow(ctx context.Context, target *url.URL, accept string, from int64) (*http.Response, error) {
	for range maxRedirects + 1 {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		if err != nil {
			return nil, err
		}
		request.Header.Set("User-Agent", userAgent)
		if accept != "" {
			request.Header.Set("Accept", accept)
		}
		if from > 0 {
			request.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		}
		if auth := s.authorization(); auth != "" && s.own(target) {
			request.Header.Set("Authorization", auth)
		}
		response, err := s.transport.RoundTrip(request)
		if err != nil {
			return nil, err
		}
		switch response.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect,
			http.StatusPermanentRedirect:
		default:
			return response, nil
		}
		response.Body.Close()
		next, err := target.Parse(response.Header.Get("Location"))
		if err != nil {
			return nil, fmt.Errorf("redirected to nowhere: %w", err)
		}
		if err := s.mayVisit(next); err != nil {
			return nil, err
		}
		target = next
	}
	return nil, fmt.Errorf("more than %d redirections", maxRedirects)
}

// own says whether a URL is the registry's itself, as it was first spoken to.
func (s *session) own(u *url.URL) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return u.Scheme == s.scheme && u.Host == s.at.registry
}

// mayVisit is asked before the registry sends the guest somewhere else. Without TLS that could be anything that
// listens in the guest, the service that hands out secrets included.
func (s *session) mayVisit(u *url.URL) error {
	if u.Scheme == "https" || s.own(u) {
		return nil
	}
	return refuse(CodePlaintextRefused, "%s points to %s://%s, which is neither TLS nor the registry itself",
		s.at.registry, u.Scheme, u.Host)
}

func (s *session) authorization() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.auth
}

// authorize answers a challenge (RFC 9110 §11.6.1; distribution's token specification): with the credential itself,
// or with a token that the registry's own authority gives for it, or to anybody.
func (s *session) authorize(ctx context.Context, header string) error {
	c, err := parseChallenge(header)
	if err != nil {
		return failed(CodeUnauthorized, err, "%s", s.at.registry)
	}
	if c.scheme == "basic" {
		if s.credential == nil || s.credential.User == "" {
			return refuse(CodeUnauthorized, "%s wants a user and a password, and there are none for it", s.at.registry)
		}
		s.setAuthorization("Basic " + s.credential.basic())
		return nil
	}
	if s.credential != nil && s.credential.RegistryToken.Len() > 0 {
		s.setAuthorization("Bearer " + string(s.credential.RegistryToken.Reveal()))
		return nil
	}
	realm, err := url.Parse(c.realm)
	if err != nil || realm.Host == "" {
		return refuse(CodeUnauthorized, "%s sends for a token to %q", s.at.registry, c.realm)
	}
	if err := s.mayVisit(realm); err != nil {
		return err
	}
	request, err := s.tokenRequest(ctx, realm, c.service)
	if err != nil {
		return failed(CodeUnauthorized, err, "%s", s.at.registry)
	}
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return unreachable(err, "asking %s for a token", realm.Host)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refuse(CodeUnauthorized, "%s: status %d for a token to pull %s",
			realm.Host, response.StatusCode, s.at.repository)
	}
	token, err := readToken(response.Body)
	if err != nil {
		return failed(CodeUnauthorized, err, "%s", realm.Host)
	}
	s.setAuthorization("Bearer " + token)
	return nil
}

// tokenRequest asks for a token to pull: with a user's name and password, by OAuth2 with an identity token, or as
// anybody (distribution's token specification, "Token" and "OAuth2").
func (s *session) tokenRequest(ctx context.Context, realm *url.URL, service string) (*http.Request, error) {
	scope := "repository:" + s.at.repository + ":pull"
	var request *http.Request
	var err error
	if s.credential != nil && s.credential.IdentityToken.Len() > 0 {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {string(s.credential.IdentityToken.Reveal())},
			"client_id": {userAgent}, "service": {service}, "scope": {scope},
		}
		request, err = http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err == nil {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		query := realm.Query()
		if service != "" {
			query.Set("service", service)
		}
		query.Set("scope", scope)
		realm.RawQuery = query.Encode()
		request, err = http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
		if err == nil && s.credential != nil && s.credential.User != "" {
			request.Header.Set("Authorization", "Basic "+s.credential.basic())
		}
	}
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", userAgent)
	return request, nil
}

func readToken(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxTokenReply))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	var reply struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"` // OAuth2's name for it
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		return "", fmt.Errorf("parsing the token: %w", err)
	}
	if reply.Token == "" {
		reply.Token = reply.AccessToken
	}
	if reply.Token == "" {
		return "", errors.New("a reply without a token")
	}
	return reply.Token, nil
}

func (s *session) setAuthorization(auth string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = auth
}

// document fetches a small blob or manifest whole, and returns it only if it is what its digest says.
func (s *session) document(
	ctx context.Context, kind string, d ocispec.Descriptor, accept string, limit int64,
) ([]byte, error) {
	var text []byte
	err := s.retry.do(ctx, func() (err error) {
		text, _, err = s.read(ctx, kind, d.Digest.String(), accept, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(text); got != d.Digest {
		return nil, refuse(CodeDigestMismatch, "%s delivered %s for %s: the registry, or somebody on the way, changed it",
			s.at.registry, got, d.Digest)
	}
	if d.Size != 0 && d.Size != int64(len(text)) {
		return nil, refuse(CodeMalformed, "%s has %d bytes where its descriptor says %d", d.Digest, len(text), d.Size)
	}
	return text, nil
}

// read fetches a document once, whatever it is.
func (s *session) read(ctx context.Context, kind, name, accept string, limit int64) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	response, err := s.get(ctx, kind, name, accept, 0)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, nil, unreachable(err, "reading %s from %s", name, s.at.registry)
	}
	if int64(len(text)) > limit {
		return nil, nil, refuse(CodeTooLarge, "%s is longer than %d bytes", name, limit)
	}
	return text, response.Header, nil
}

// temporary is an error that may be gone after a while.
type temporary struct {
	error
	after time.Duration // as the server asked, 0 if it did not
}

func (t *temporary) Unwrap() error { return t.error }

// unreachable wraps what the network said. A refusal from below stays what it is.
func unreachable(err error, format string, args ...any) error {
	if CodeOf(err) != "" {
		return err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return failed(CodeUnreachable, err, format, args...) // stays so
	}
	return &temporary{error: failed(CodeUnreachable, err, format, args...)}
}

// speaksPlaintext says whether a TLS client got the beginning of an HTTP reply.
func speaksPlaintext(err error) bool {
	record, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok && string(record.RecordHeader[:]) == "HTTP/"
}

// retryAfter is how long the server asks to wait (RFC 9110 §10.2.3): seconds, or a date, which is taken relative to the
// server's own. It is no longer than maxRetryAfter.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return min(time.Duration(max(0, min(seconds, 3600)))*time.Second, maxRetryAfter)
	}
	until, err := http.ParseTime(value)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return max(0, min(until.Sub(now), maxRetryAfter))
}

// Retry says how often and how patiently to try again what may be a passing failure. The zero value takes the
// defaults.
type Retry struct {
	Attempts int           // in a row without progress; default 5
	Base     time.Duration // wait before the second; it doubles from then on, with jitter. Default 250 ms.
}

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 5
	}
	if r.Base <= 0 {
		r.Base = 250 * time.Millisecond
	}
	return r
}

func (r Retry) do(ctx context.Context, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		t, again := errors.AsType[*temporary](err)
		if !again || attempt >= r.Attempts {
			return err
		}
		if err := r.wait(ctx, attempt, t.after); err != nil {
			return errors.Join(err, t)
		}
	}
}

// wait waits before the attempt after the given one: at least as long as the server asked, and between half and all
// of the doubled base, so that pods which failed together do not come back together.
func (r Retry) wait(ctx context.Context, attempt int, asked time.Duration) error {
	pause := r.Base << min(attempt-1, 10)
	pause = max(asked, pause/2+rand.N(pause/2+1))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
