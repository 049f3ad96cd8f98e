// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/test/soak/model"
)

// requestTimeout is far more than a trustee needs, an emulated one too.
const requestTimeout = 30 * time.Second

// wire is a client's connection to the trustee. The project's own client is not used, because it does not tell the
// request id of a success, by which the model finds the record.
type wire struct {
	http  *http.Client
	clock func() model.Time
	url   string
}

func newWire(pool *x509.CertPool, clock func() model.Time) *wire {
	return &wire{clock: clock, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
			MaxConnsPerHost:    1,
			DisableCompression: true,
		},
	}}
}

// to names the trustee that runs now. Connections to the one before are closed, so that no request is sent by one that
// turns out to be dead, and then sent again.
func (w *wire) to(url string) {
	w.http.CloseIdleConnections()
	w.url = url
}

// request is what is sent.
type request struct {
	method, path string
	bearer       string
	cookies      []*http.Cookie
	body         []byte
}

// answer is what came. Its operation has the times, the request id and the outcome; the rest is the caller's.
type answer struct {
	op      model.Op
	status  int
	body    []byte
	cookies []*http.Cookie
}

// errGone says that nobody listens any more.
var errGone = errors.New("the trustee is gone")

// send sends a request. Without a whole answer the operation is lost; that is no error here.
func (w *wire) send(ctx context.Context, r request) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, w.url+r.path, bytes.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	for _, c := range r.cookies {
		req.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	a := answer{op: model.Op{Invoked: w.clock()}}
	response, err := w.http.Do(req)
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" && ctx.Err() == nil {
		return a, fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil {
		return a, nil //nolint:nilerr // nobody answered: that is what the operation says
	}
	defer response.Body.Close()
	a.body, err = io.ReadAll(io.LimitReader(response.Body, kbs.MaxResponseSize))
	if err != nil {
		return a, nil //nolint:nilerr // likewise
	}
	a.op.Answered, a.op.RequestID = w.clock(), response.Header.Get("X-Request-Id")
	a.status, a.cookies = response.StatusCode, response.Cookies()
	switch a.status {
	case http.StatusOK:
		a.op.Outcome = model.Done
	case http.StatusTooManyRequests:
		a.op.Outcome = model.Busy
	case http.StatusServiceUnavailable:
		a.op.Outcome = model.Lost // it gave up, and what it had begun may yet happen
	default:
		a.op.Outcome, a.op.Code = model.Refused, refusalCode(a)
	}
	return a, nil
}

// refusalCode is the code of a refusal.
func refusalCode(a answer) string {
	var info kbs.ErrorInformation
	if err := json.Unmarshal(a.body, &info); err != nil || info.Code == "" {
		return fmt.Sprintf("http_%d", a.status)
	}
	return info.Code
}
