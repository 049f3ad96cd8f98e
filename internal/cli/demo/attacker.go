// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/kbs"
)

// attacker speaks RCAR by hand, so that it can say what no honest client says. It is the host: it owns the machine, so it can ask the
// simulated processor for a report over any report data (on hardware only the measured guest could).
type attacker struct {
	base string
	http *http.Client
}

func newAttacker(trusteeURL string, trusteeCert []byte) (*attacker, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(trusteeCert) {
		return nil, errors.New("the trustee's certificate is not PEM")
	}
	return &attacker{trusteeURL, &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
	}}, nil
}

func (a *attacker) Close() { a.http.CloseIdleConnections() }

// challenge is what an attest message answers.
type challenge struct {
	nonce   string
	cookies []*http.Cookie
}

func (a *attacker) auth(ctx context.Context) (challenge, error) {
	request, err := json.Marshal(kbs.Request{Version: kbs.ProtocolVersion, TEE: attest.SNP, ExtraParams: json.RawMessage(`""`)})
	if err != nil {
		return challenge{}, err
	}
	status, header, body, err := a.post(ctx, "/kbs/v0/auth", nil, request)
	if err != nil {
		return challenge{}, err
	}
	if status != http.StatusOK {
		return challenge{}, fmt.Errorf("auth: status %d: %s", status, body)
	}
	c, err := kbs.ParseChallenge(body)
	if err != nil {
		return challenge{}, err
	}
	return challenge{c.Nonce, (&http.Response{Header: header}).Cookies()}, nil
}

// attest sends evidence under the challenge. claimed is the key that the message names, which need not be the one the evidence is bound to.
func (a *attacker) attest(ctx context.Context, c challenge, claimed kbs.JWK, evidence json.RawMessage, initData []byte) (refusal, error) {
	message := kbs.Attestation{
		RuntimeData: kbs.RuntimeData{Nonce: c.nonce, TEEPubKey: claimed},
		TEEEvidence: kbs.TEEEvidence{Primary: evidence},
	}
	if initData != nil {
		message.InitData = &kbs.InitData{Format: "toml", Body: string(initData)}
	}
	text, err := json.Marshal(message)
	if err != nil {
		return refusal{}, err
	}
	status, _, body, err := a.post(ctx, "/kbs/v0/attest", c.cookies, text)
	if err != nil || status == http.StatusOK {
		return refusal{}, err
	}
	var info kbs.ErrorInformation
	if err := json.Unmarshal(body, &info); err != nil {
		return refusal{}, fmt.Errorf("attest: status %d, and no error document: %q", status, body)
	}
	return refusal{By: "trustee", Code: info.Code, Text: info.Detail, RequestID: info.RequestID}, nil
}

func (a *attacker) post(ctx context.Context, path string, cookies []*http.Cookie, body []byte) (int, http.Header, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	for _, c := range cookies {
		request.AddCookie(c)
	}
	response, err := a.http.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, response.Header, answer, err
}
