// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/strictjson"
)

// ProtocolVersion is the one RCAR version that is spoken. Servers compare it whole.
const ProtocolVersion = "0.4.0"

// SessionCookie names the cookie that ties an attestation to its challenge.
const SessionCookie = "kbs-session-id"

// Caps on the messages, in bytes. An attestation carries evidence with event logs; everything else is small.
const (
	MaxRequestSize       = 64 << 10
	MaxAttestationSize   = 4 << 20
	MaxChallengeSize     = 64 << 10
	MaxTokenResponseSize = 1 << 20
	MaxNonceLength       = 16 << 10 // 44 characters, but a whole JSON document on IBM Secure Execution
)

// Request opens a handshake: the guest says what it is. (POST /kbs/v0/auth)
type Request struct {
	Version     string          `json:"version"` // ProtocolVersion
	TEE         attest.TEE      `json:"tee"`
	ExtraParams json.RawMessage `json:"extra-params"` // any JSON; stock guests list the hash algorithms that they know
}

// ErrVersion is wrapped by the error of [ParseRequest] for a request in another version of the protocol.
var ErrVersion = errors.New("KBS Client Protocol Version Mismatch")

// ParseRequest reads the body of POST /kbs/v0/auth, of which the extra parameters stay a part. A TEE that this program does not know is not an error here.
func ParseRequest(body []byte) (*Request, error) {
	members, err := strictjson.ParseObject(body, MaxRequestSize)
	if err != nil {
		return nil, fmt.Errorf("parsing the RCAR request: %w", err)
	}
	var version, tee string
	if err := members.Texts(map[string]*string{"version": &version, "tee": &tee}); err != nil {
		return nil, fmt.Errorf("parsing the RCAR request: %w", err)
	}
	if version != ProtocolVersion {
		return nil, fmt.Errorf("parsing the RCAR request: %w: expect =%s while the request is %s",
			ErrVersion, ProtocolVersion, clip(version))
	}
	extra := members["extra-params"].Raw()
	if extra == nil {
		return nil, errors.New(`parsing the RCAR request: no member "extra-params"`)
	}
	return &Request{Version: version, TEE: attest.TEE(tee), ExtraParams: extra}, nil
}

// MarshalJSON writes the request; absent extra parameters become the empty string, as on stock servers.
func (r Request) MarshalJSON() ([]byte, error) {
	type plain Request
	r.ExtraParams = orEmptyString(r.ExtraParams)
	return json.Marshal(plain(r))
}

// Challenge is the broker's answer: what the evidence must be fresh for.
type Challenge struct {
	Nonce       string          `json:"nonce"`        // opaque; base64 of 32 random bytes, except on SE
	ExtraParams json.RawMessage `json:"extra-params"` // "" or {"selected-hash-algorithm": …}
}

// ParseChallenge reads the answer to POST /kbs/v0/auth.
func ParseChallenge(body []byte) (*Challenge, error) {
	members, err := strictjson.ParseObject(body, MaxChallengeSize)
	if err != nil {
		return nil, fmt.Errorf("parsing the RCAR challenge: %w", err)
	}
	c := &Challenge{ExtraParams: members["extra-params"].Raw()}
	if c.Nonce, err = members.Text("nonce"); err != nil {
		return nil, fmt.Errorf("parsing the RCAR challenge: %w", err)
	}
	if c.Nonce == "" || len(c.Nonce) > MaxNonceLength {
		return nil, fmt.Errorf("parsing the RCAR challenge: a nonce of %d characters", len(c.Nonce))
	}
	return c, nil
}

// MarshalJSON writes the challenge; absent extra parameters become the empty string, as on stock servers.
func (c Challenge) MarshalJSON() ([]byte, error) {
	type plain Challenge
	c.ExtraParams = orEmptyString(c.ExtraParams)
	return json.Marshal(plain(c))
}

// hash is the digest that the broker wants the report data made with; SHA-384 when it does not say.
func (c *Challenge) hash() (HashAlgorithm, error) {
	if len(c.ExtraParams) == 0 || c.ExtraParams[0] != '{' {
		return SHA384, nil
	}
	members, err := strictjson.ParseObject(c.ExtraParams, MaxChallengeSize)
	if err != nil {
		return "", fmt.Errorf("parsing the RCAR challenge: extra-params: %w", err)
	}
	if !members["selected-hash-algorithm"].Present() {
		return SHA384, nil
	}
	selected, err := members.Text("selected-hash-algorithm")
	if err != nil {
		return "", fmt.Errorf("parsing the RCAR challenge: extra-params: %w", err)
	}
	algorithm := HashAlgorithm(strings.ToLower(selected))
	if !algorithm.known() {
		return "", fmt.Errorf("parsing the RCAR challenge: hash algorithm %q is not supported", clip(selected))
	}
	return algorithm, nil
}

// InitDataFormat is the one format of init-data.
const InitDataFormat = "toml"

// InitData is the text whose digest the platform bound at launch.
type InitData struct {
	Format string `json:"format"` // InitDataFormat
	Body   string `json:"body"`
}

// RuntimeData is what the evidence is bound to.
type RuntimeData struct {
	Nonce     string `json:"nonce"` // the challenge's, byte for byte
	TEEPubKey JWK    `json:"tee-pubkey"`
}

// TEEEvidence is the evidence itself, in the form of each platform.
type TEEEvidence struct {
	Primary    json.RawMessage `json:"primary_evidence"`
	Additional string          `json:"additional_evidence"` // "" or the text of a JSON object, device TEE to evidence
}

// Attestation answers a challenge. (POST /kbs/v0/attest)
type Attestation struct {
	InitData    *InitData   `json:"init-data"` // nil: none was sent, and none will be checked
	RuntimeData RuntimeData `json:"runtime-data"`
	TEEEvidence TEEEvidence `json:"tee-evidence"`
}

// ParseAttestation reads the body of POST /kbs/v0/attest. The public key in it is validated; the evidence is a part of
// body.
func ParseAttestation(body []byte) (*Attestation, error) {
	a, err := parseAttestation(body)
	if err != nil {
		return nil, fmt.Errorf("parsing the RCAR attestation: %w", err)
	}
	return a, nil
}

func parseAttestation(body []byte) (*Attestation, error) {
	members, err := strictjson.ParseObject(body, MaxAttestationSize)
	if err != nil {
		return nil, err
	}
	a := &Attestation{}
	if members["init-data"].Present() {
		inner, err := members.Object("init-data")
		if err != nil {
			return nil, err
		}
		a.InitData = &InitData{}
		if err := inner.Texts(map[string]*string{"format": &a.InitData.Format, "body": &a.InitData.Body}); err != nil {
			return nil, fmt.Errorf("init-data: %w", err)
		}
		if a.InitData.Format != InitDataFormat {
			return nil, fmt.Errorf(
				"init-data: format %q is not supported, want %q",
				clip(a.InitData.Format),
				InitDataFormat,
			)
		}
	}
	inner, err := members.Object("runtime-data")
	if err != nil {
		return nil, err
	}
	if a.RuntimeData.Nonce, err = inner.Text("nonce"); err != nil {
		return nil, fmt.Errorf("runtime-data: %w", err)
	}
	if len(a.RuntimeData.Nonce) > MaxNonceLength {
		return nil, fmt.Errorf("runtime-data: a nonce of %d characters", len(a.RuntimeData.Nonce))
	}
	key, err := inner.Object("tee-pubkey")
	if err != nil {
		return nil, fmt.Errorf("runtime-data: %w", err)
	}
	if a.RuntimeData.TEEPubKey, err = jwkOf(key); err != nil {
		return nil, fmt.Errorf("runtime-data: tee-pubkey: %w", err)
	}
	if inner, err = members.Object("tee-evidence"); err != nil {
		return nil, err
	}
	if a.TEEEvidence.Primary = inner["primary_evidence"].Raw(); a.TEEEvidence.Primary == nil {
		return nil, errors.New(`tee-evidence: no member "primary_evidence"`)
	}
	if a.TEEEvidence.Additional, err = inner.Text("additional_evidence"); err != nil {
		return nil, fmt.Errorf("tee-evidence: %w", err)
	}
	return a, nil
}

// TokenResponse ends a handshake.
type TokenResponse struct {
	Token string `json:"token"` // compact JWS
}

// ParseTokenResponse reads the answer to POST /kbs/v0/attest. It does not verify the token.
func ParseTokenResponse(body []byte) (*TokenResponse, error) {
	members, err := strictjson.ParseObject(body, MaxTokenResponseSize)
	if err != nil {
		return nil, fmt.Errorf("parsing the RCAR response: %w", err)
	}
	token, err := members.Text("token")
	if err != nil {
		return nil, fmt.Errorf("parsing the RCAR response: %w", err)
	}
	return &TokenResponse{Token: token}, nil
}

// ErrorTypePrefix precedes the variant in [ErrorInformation].Type.
const ErrorTypePrefix = "https://github.com/confidential-containers/kbs/errors/"

// ErrorInformation is the body of every refusal. Code and RequestID are Nacre's additions, which stock clients skip.
type ErrorInformation struct {
	Type      string `json:"type"`   // ErrorTypePrefix and a variant such as PolicyDeny
	Detail    string `json:"detail"` // for people; some clients match phrases in it
	Code      string `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
}

// parseErrorInformation takes what it can from the body of a refusal, which need not be JSON at all when a proxy
// answered in the server's place.
func parseErrorInformation(body []byte) ErrorInformation {
	members, err := strictjson.ParseObject(body, maxErrorSize)
	if err != nil {
		return ErrorInformation{Detail: printable(body)}
	}
	var info ErrorInformation
	for name, s := range map[string]*string{
		"type": &info.Type, "detail": &info.Detail, "code": &info.Code, "request_id": &info.RequestID,
	} {
		if text, err := members.Text(name); err == nil {
			*s = printable([]byte(text))
		}
	}
	return info
}

// maxErrorSize caps the body of a refusal, maxErrorText what of each text in it is kept.
const (
	maxErrorSize = 64 << 10
	maxErrorText = 1024
)

// printable makes foreign text fit for a log line and a terminal.
func printable(text []byte) string {
	clean := strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text[:min(len(text), maxErrorText)]), "\uFFFD"))
	return strings.TrimSpace(clean)
}

func orEmptyString(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage(`""`)
	}
	return raw
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
