// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/secret"
)

// Client is a guest's client of one broker. It is safe for concurrent use, and keeps nothing between calls but
// connections: tokens are the caller's to keep.
type Client struct{ wire *wire }

// NewClient makes a client. It does not connect.
func NewClient(config ClientConfig) (*Client, error) {
	w, err := newWire(config)
	if err != nil {
		return nil, err
	}
	return &Client{w}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.wire.http.CloseIdleConnections() }

// supportedHashes is what a request says of this client.
const supportedHashes = `{"supported-hash-algorithms":["sha256","sha384","sha512"]}`

// Attest walks through one RCAR handshake and returns the token, unverified. evidence is asked for evidence bound to
// report data of at most 64 bytes, again for each attempt; initData is nil for a guest without.
//
// Failures in transit, 429 and 5xx begin the handshake anew, after a while; a refusal is final, and a *[StatusError].
func (c *Client) Attest(ctx context.Context, tee attest.TEE, key *TEEKey,
	evidence func(ctx context.Context, reportData []byte) (json.RawMessage, error), initData *InitData,
) (token string, err error) {
	err = c.wire.retry(ctx, func() error {
		token, err = c.handshake(ctx, tee, key, evidence, initData)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("attesting to %s: %w", c.wire.base, err)
	}
	return token, nil
}

func (c *Client) handshake(ctx context.Context, tee attest.TEE, key *TEEKey,
	evidence func(context.Context, []byte) (json.RawMessage, error), initData *InitData,
) (string, error) {
	body, err := json.Marshal(
		Request{Version: ProtocolVersion, TEE: tee, ExtraParams: json.RawMessage(supportedHashes)},
	)
	if err != nil {
		return "", err
	}
	opened, err := c.wire.once(ctx, call{method: http.MethodPost, path: apiPrefix + "auth", json: true, body: body})
	if err != nil {
		return "", fmt.Errorf("asking for a challenge: %w", err)
	}
	challenge, err := ParseChallenge(opened.body)
	if err != nil {
		return "", err
	}
	hash, err := challenge.hash()
	if err != nil {
		return "", err
	}
	reportData, err := hash.ReportData(challenge.Nonce, key.Public(), "")
	if err != nil {
		return "", err
	}
	primary, err := evidence(ctx, reportData)
	if err != nil {
		return "", permanentError{fmt.Errorf("collecting evidence: %w", err)}
	}
	body, err = json.Marshal(Attestation{
		InitData:    initData,
		RuntimeData: RuntimeData{Nonce: challenge.Nonce, TEEPubKey: key.Public()},
		TEEEvidence: TEEEvidence{Primary: primary},
	})
	if err != nil {
		return "", err
	}
	// The cookies go back as they came. A cookie jar would look at their expiry, and so at a clock that is the host's.
	attested, err := c.wire.once(ctx, call{method: http.MethodPost, path: apiPrefix + "attest", json: true, body: body,
		cookies: opened.cookies})
	if err != nil {
		return "", fmt.Errorf("presenting evidence: %w", err)
	}
	response, err := ParseTokenResponse(attested.body)
	if err != nil {
		return "", err
	}
	return response.Token, nil
}

// Resource fetches a resource with a token, and opens it with the key that the token was made for. A *[StatusError]
// of status 401 means that the token is no longer good: attest once more, and ask once more.
func (c *Client) Resource(ctx context.Context, resource ResourceURI, token string, key *TEEKey) (secret.Bytes, error) {
	value, err := c.resource(ctx, resource, token, key)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("getting %s from %s: %w", resource, c.wire.base, err)
	}
	return value, nil
}

func (c *Client) resource(ctx context.Context, resource ResourceURI, token string, key *TEEKey) (secret.Bytes, error) {
	if err := resource.Validate(); err != nil {
		return secret.Bytes{}, err
	}
	if token == "" {
		return secret.Bytes{}, errors.New("no token: attest first")
	}
	var got *answer
	err := c.wire.retry(ctx, func() (err error) {
		got, err = c.wire.once(ctx, call{method: http.MethodGet, path: resource.RequestPath(), token: token})
		return err
	})
	if err != nil {
		return secret.Bytes{}, err
	}
	envelope, err := ParseEnvelope(got.body)
	if err != nil {
		return secret.Bytes{}, err
	}
	return key.Open(envelope)
}
