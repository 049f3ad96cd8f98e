// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// apiPrefix precedes all of the protocol's paths, adminPrefix those that only Nacre's broker has.
const (
	apiPrefix   = "/kbs/v0/"
	adminPrefix = "/nacre/v1/"
)

const userAgent = "nacre-kbs-client/" + ProtocolVersion

// Defaults and bounds of how long a client waits and how often it tries.
const (
	defaultHTTPTimeout = 60 * time.Second
	defaultAttempts    = 5
	firstBackoff       = 250 * time.Millisecond
	longestBackoff     = 8 * time.Second
	longestRetryAfter  = 30 * time.Second // a server that wants more patience is the caller's to wait for
)

// MaxResponseSize caps every answer, in bytes.
const MaxResponseSize = 4 << 20

// ClientConfig says which broker a client talks to, and how it knows it.
type ClientConfig struct {
	// URL is https://host[:port], with a path if the broker lives below one.
	URL string

	// PinnedCert is the PEM of the broker's own certificate, or of the one CA that signs it. It is then the only
	// certificate that is trusted, and expiry is not looked at, since a guest cannot trust its clock. Empty: the
	// system's roots and clock.
	PinnedCert []byte

	// HTTPTimeout limits each request; 0 is a minute.
	HTTPTimeout time.Duration

	// Attempts limits how often is tried what failed in transit, or with a status of 429 or 5xx; 0 is 5 times.
	Attempts int

	// UnsafeHTTP allows a http:// URL. Resources stay encrypted to the TEE key, but anybody on the way can answer
	// with another resource, and reads an administrator's token.
	UnsafeHTTP bool
}

// StatusError is an answer other than success. It is not retried, save for 429 and 5xx.
type StatusError struct {
	Status     int // HTTP status; 401 from a resource means that a new token is wanted
	Info       ErrorInformation
	RetryAfter time.Duration // what the server asked for; 0: nothing
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the broker answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Info.Detail != "" {
		text += ": " + e.Info.Detail
	}
	if e.Info.Code != "" {
		text += " (code " + e.Info.Code + ")"
	}
	if e.Info.RequestID != "" {
		text += " [request " + e.Info.RequestID + "]"
	}
	return text
}

// wire sends requests to one broker. It is safe for concurrent use.
type wire struct {
	base     string // without a slash at the end
	http     *http.Client
	attempts int
	sleep    func(context.Context, time.Duration) error
	jitter   func() float64 // in [0,1)
}

func newWire(config ClientConfig) (*wire, error) {
	base, err := url.Parse(config.URL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("broker URL %q: want https://host[:port]", clip(config.URL))
	}
	transport := &http.Transport{
		// No proxy from the environment: a guest's environment is not its own.
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:    20 * time.Second,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // what arrives is as long as what is read
	}
	switch {
	case base.Scheme == "http" && !config.UnsafeHTTP:
		return nil, fmt.Errorf(
			"broker URL %q: plain HTTP is refused; use https and pin the broker's certificate",
			clip(config.URL),
		)
	case base.Scheme == "http" && len(config.PinnedCert) > 0:
		return nil, fmt.Errorf(
			"broker URL %q: a certificate is pinned, but plain HTTP would not use it",
			clip(config.URL),
		)
	case base.Scheme != "http" && base.Scheme != "https":
		return nil, fmt.Errorf("broker URL %q: want https://host[:port]", clip(config.URL))
	}
	if len(config.PinnedCert) > 0 {
		if transport.TLSClientConfig, err = pinnedTLS(config.PinnedCert, time.Now); err != nil {
			return nil, fmt.Errorf("broker %s: %w", base.Host, err)
		}
	}
	w := &wire{
		base: strings.TrimRight(config.URL, "/"),
		http: &http.Client{
			Transport:     transport,
			Timeout:       config.HTTPTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		attempts: config.Attempts,
		sleep:    sleep,
		jitter:   rand.Float64,
	}
	if w.http.Timeout <= 0 {
		w.http.Timeout = defaultHTTPTimeout
	}
	if w.attempts <= 0 {
		w.attempts = defaultAttempts
	}
	return w, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// call is one HTTP request.
type call struct {
	method  string
	path    string // from the slash, with the query
	token   string // bearer; "": none
	cookies []*http.Cookie
	json    bool // what the body is, if there is one
	body    []byte
}

// answer is a successful response.
type answer struct {
	body    []byte
	cookies []*http.Cookie
}

// once sends a request. The error for an answer other than 2xx is a *[StatusError].
func (w *wire) once(ctx context.Context, c call) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, c.method, w.base+c.path, bytes.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", userAgent)
	if c.json {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	for _, cookie := range c.cookies {
		request.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
	}
	response, err := w.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxResponseSize+1))
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, &StatusError{Status: response.StatusCode, Info: parseErrorInformation(body),
			RetryAfter: retryAfter(response.Header)}
	}
	if len(body) > MaxResponseSize {
		return nil, permanentError{fmt.Errorf("the broker's answer is longer than %d bytes", MaxResponseSize)}
	}
	return &answer{body: body, cookies: response.Cookies()}, nil
}

// permanentError is an error that another attempt would not mend.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// retry runs attempt until it succeeds, fails for good, or has failed in transit too often.
func (w *wire) retry(ctx context.Context, attempt func() error) error {
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || n >= w.attempts || ctx.Err() != nil || !transient(err) {
			return err
		}
		wait := min(firstBackoff<<(n-1), longestBackoff)
		wait = wait/2 + time.Duration(float64(wait/2)*w.jitter())
		var status *StatusError
		if errors.As(err, &status) && status.RetryAfter > 0 {
			if status.RetryAfter > longestRetryAfter {
				return err
			}
			wait = max(wait, status.RetryAfter)
		}
		if w.sleep(ctx, wait) != nil {
			return err
		}
	}
}

// transient says whether another attempt may succeed: errors in transit, 429 and 5xx; not refusals, and not a server
// that is not the one we know.
func transient(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Status == http.StatusTooManyRequests || status.Status >= 500
	}
	var untrusted *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var transit *url.Error // what http.Client.Do returns
	var permanent permanentError
	if errors.As(err, &untrusted) || errors.As(err, &unknown) || errors.As(err, &permanent) {
		return false
	}
	var network net.Error // while reading the body
	return errors.As(err, &transit) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

// retryAfter reads Retry-After, in seconds or as a date. A date counts from the server's own clock.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}
