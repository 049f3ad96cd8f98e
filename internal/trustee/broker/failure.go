// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// Variants of an error's type, as the protocol's clients know them (spec/trustee.md §1.9).
const (
	variantAttestation  = "AttestationError"
	variantToken        = "TokenVerifierError"
	variantNoToken      = "TokenNotFound"
	variantPolicyDeny   = "PolicyDeny"
	variantPolicyParse  = "ParsePolicyError"
	variantPolicyEngine = "PolicyEngineError"
	variantNoPlugin     = "PluginNotFound"
	variantPlugin       = "PluginInternalError"
	variantAdmin        = "AdminAuthAccess"
	variantAdminPlugin  = "AdminAuthInitialization" // how upstream names the same of plugins' routes
	variantRVPS         = "RvpsError"
	variantPath         = "InvalidRequestPath"
	variantSerde        = "SerdeError"
	variantHTTP         = "HTTPFailed"
)

// Stable codes of refusals, beside those of attest and release.
const (
	codeBadRequest       = "bad_request"
	codeTooLarge         = "too_large"
	codeMethod           = "method_not_allowed"
	codeNotFound         = "not_found"
	codePluginUnknown    = "plugin_unknown"
	codeResourceNotFound = "resource_not_found"
	codeVersion          = "protocol_version"
	codeSessionMissing   = "session_missing"
	codeSessionInvalid   = "session_invalid"
	codeSessionExpired   = "session_expired"
	codeNonceMismatch    = "nonce_mismatch"
	codeNonceUsed        = "nonce_used"
	codeAttempts         = "too_many_attempts"
	codeTokenMissing     = "token_missing"
	codeTokenInvalid     = "token_invalid"
	codeTokenExpired     = "token_expired"
	codeNotAdmin         = "not_admin"
	codeBadPolicy        = "bad_policy"
	codePolicyError      = "policy_error"
	codePolicyFromFile   = "policy_from_file"
	codeBusy             = "busy"
	codeRateLimited      = "rate_limited"
	codeDraining         = "draining"
	codeInternal         = "internal"
)

// failure is a refusal as the client sees it, and its cause as the owner's log does.
type failure struct {
	status     int
	variant    string
	code       string
	detail     string
	retryAfter time.Duration // 0: no header
	allow      string        // methods, for 405
	cause      error
}

func (f *failure) Error() string {
	if f.cause == nil {
		return f.code + ": " + f.detail
	}
	return f.code + ": " + f.cause.Error()
}

func (f *failure) Unwrap() error { return f.cause }

func fail(status int, variant, code, detail string) *failure {
	return &failure{status: status, variant: variant, code: code, detail: detail}
}

// because adds what only the owner sees.
func (f *failure) because(err error) *failure {
	f.cause = err
	return f
}

// asFailure makes a failure of any error: what no handler foresaw is ours, not the client's, and is not explained to
// it.
func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fail(http.StatusRequestEntityTooLarge, variantHTTP, codeTooLarge, "the body is too large").because(err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		f := fail(http.StatusServiceUnavailable, variantHTTP, codeBusy, "the request took too long").because(err)
		f.retryAfter = time.Second
		return f
	}
	if errors.Is(err, store.ErrPast) { // the session ran out while the evidence was sent and verified
		return fail(http.StatusUnauthorized, variantAttestation, codeSessionExpired,
			attestDetail+"the session has expired").because(err)
	}
	return fail(http.StatusInternalServerError, variantHTTP, codeInternal,
		"the trustee failed; its log has the cause under this request id").because(err)
}

// attestDetail is the beginning of what clients are told of a failed attestation.
const attestDetail = "Attestation error: RCAR handshake Attest failed: "

// attestReasons tell a client why, without anything that was measured.
var attestReasons = map[attest.Code]string{
	attest.CodeEvidenceMalformed:     "the evidence cannot be parsed",
	attest.CodeEvidenceUnsupported:   "evidence of this kind is not accepted here",
	attest.CodeRootUntrusted:         "the evidence's certificates do not end in a trusted root",
	attest.CodeCertificateInvalid:    "a certificate of the evidence is invalid",
	attest.CodeCertificateExpired:    "a certificate of the evidence has expired",
	attest.CodeSignatureInvalid:      "the evidence's signature is invalid",
	attest.CodeChipIDMismatch:        "the evidence's certificate is for another chip",
	attest.CodeTCBMismatch:           "the evidence's certificate is for other firmware",
	attest.CodeReportDataMismatch:    "the evidence is not bound to this session and key",
	attest.CodeInitDataMismatch:      "the guest was launched with other init-data",
	attest.CodeDebugEnabled:          "the guest can be debugged by its host",
	attest.CodeVMPLNotZero:           "the evidence was not asked for by the guest's kernel",
	attest.CodeCollateralUnavailable: "certificates that are needed cannot be had right now",
}

// shortestRetry is the least that a client is asked to wait for collateral.
const shortestRetry = 2 * time.Second

// attestFailure tells how evidence was refused.
func attestFailure(err error) *failure {
	refusal, ok := errors.AsType[*attest.Error](err)
	if !ok {
		return asFailure(err)
	}
	reason, known := attestReasons[refusal.Code]
	if !known {
		reason = "the evidence was refused"
	}
	f := fail(http.StatusUnauthorized, variantAttestation, string(refusal.Code), attestDetail+reason).because(err)
	switch refusal.Code {
	case attest.CodeEvidenceMalformed:
		f.status = http.StatusBadRequest
	case attest.CodeCollateralUnavailable:
		f.status = http.StatusServiceUnavailable
		f.retryAfter = max(refusal.RetryAfter, shortestRetry)
	}
	return f
}

// body is the error as the protocol writes it.
func (f *failure) body(requestID string) kbs.ErrorInformation {
	return kbs.ErrorInformation{Type: kbs.ErrorTypePrefix + f.variant, Detail: f.detail, Code: f.code,
		RequestID: requestID}
}

func badRequest(variant string, err error) *failure {
	return fail(http.StatusBadRequest, variant, codeBadRequest,
		fmt.Sprintf("the request cannot be understood: %v", err)).because(err)
}
