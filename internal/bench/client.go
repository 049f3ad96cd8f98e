// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"

	"github.com/nacre-project/nacre/kbs"
)

// newHTTPClient makes a client that keeps one connection, as a guest does.
func newHTTPClient(pool *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		MaxConnsPerHost:    1,
		DisableCompression: true,
	}}
}

// request is a request that was prepared.
type request struct {
	method, path   string
	cookie, bearer string
	body           []byte
}

// send sends a request and reads the whole answer, which must be a success.
func send(ctx context.Context, client *http.Client, url string, r request) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, url+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, nil, err
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	if r.cookie != "" {
		req.AddCookie(&http.Cookie{Name: kbs.SessionCookie, Value: r.cookie})
	}
	response, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, kbs.MaxResponseSize))
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s %s was answered with %s: %.500s", r.method, r.path, response.Status, body)
	}
	return body, response.Header, nil
}

// crowd is clients of one server, each with a connection of its own.
type crowd struct {
	url     string
	pid     int
	clients []*http.Client
}

func newCrowd(s *server, pool *x509.CertPool, size int) *crowd {
	c := &crowd{url: s.url, pid: s.pid(), clients: make([]*http.Client, size)}
	for i := range c.clients {
		c.clients[i] = newHTTPClient(pool)
	}
	return c
}

func (c *crowd) close() {
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
}

// connect makes each client's connection, so that no load has to.
func (c *crowd) connect(ctx context.Context) error {
	_, err := load{clients: len(c.clients), requests: len(c.clients), do: func(ctx context.Context, _, n int) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/healthz", nil)
		if err != nil {
			return err
		}
		response, err := c.clients[n].Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body) // read whole, so that the connection is kept
		return err
	}}.run(ctx)
	return err
}

// send sends each request once, by as many of the clients, and keeps the answers in answers unless that is nil.
func (c *crowd) send(ctx context.Context, clients int, requests []request, answers [][]byte) (outcome, error) {
	return load{clients: clients, requests: len(requests), do: func(ctx context.Context, i, n int) error {
		body, _, err := send(ctx, c.clients[i], c.url, requests[n])
		if err == nil && answers != nil {
			answers[n] = body
		}
		return err
	}}.against(ctx, c.pid)
}
