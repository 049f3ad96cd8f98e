// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/kbs"
)

// Kind is what a failure means to the one who asked.
type Kind int

const (
	// Internal is a failure of this guest.
	Internal Kind = iota
	// Invalid means that what was asked for cannot be the name of a resource.
	Invalid
	// Denied means that the broker refused: the guest, its token, or the release of this resource.
	Denied
	// NotFound means that the broker would release the resource, and has none of that name.
	NotFound
	// Unreachable means that there was no answer from the broker, or none from the right one.
	Unreachable
	// Unavailable means that the broker, or this guest, cannot answer now.
	Unavailable
)

// Codes that are not the broker's own. They are stable.
const (
	CodeNoBroker            = "no_broker"
	CodePathInvalid         = "resource_path_invalid"
	CodeAttestationRefused  = "attestation_refused"
	CodeAttestationTooOften = "attestation_too_often"
	CodeEvidenceFailed      = "evidence_failed"
	CodeTokenRefused        = "token_refused"
	CodePolicyDenied        = "policy_denied"
	CodeNotFound            = "resource_not_found"
	CodeBrokerUnreachable   = "broker_unreachable"
	CodeBrokerUntrusted     = "broker_untrusted"
	CodeBrokerUnavailable   = "broker_unavailable"
	CodeBrokerAnswer        = "broker_answer_invalid"
)

// Error says why there is no resource.
type Error struct {
	Kind Kind
	// Code is the broker's own where it gave one, or one of the codes above.
	Code string
	// Doing is what failed, in a few words, and Err why.
	Doing string
	Err   error
	// RequestID is the broker's, "" when it did not answer: under it, its owner finds what was wanted and got.
	RequestID  string
	RetryAfter time.Duration // 0: the broker did not say
}

// Error returns what failed, why, and the code. The broker's request id is in the cause.
func (e *Error) Error() string { return fmt.Sprintf("%s (%s): %v", e.Doing, e.Code, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// HTTP statuses that mean something of their own, RFC 9110 §15.5 and RFC 6585 §4.
const (
	statusUnauthorized    = 401
	statusNotFound        = 404
	statusTooManyRequests = 429
	statusServerError     = 500 // and above
)

// explain turns an error of attesting, or of fetching a resource, into an *Error. refused is the code of a refusal
// for which the broker gave none.
func explain(doing, refused string, err error) *Error {
	e := &Error{Doing: doing, Err: err}
	answer, answered := errors.AsType[*kbs.StatusError](err)
	evidence, ours := errors.AsType[*attest.Error](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case answered:
		e.Kind, e.Code = explainStatus(answer.Status, refused)
		e.RequestID, e.RetryAfter = answer.Info.RequestID, answer.RetryAfter
		if answer.Info.Code != "" {
			e.Code = answer.Info.Code
		}
	case ours:
		e.Kind, e.Code, e.RetryAfter = Internal, string(evidence.Code), evidence.RetryAfter
	case errors.Is(err, aa.ErrEvidence):
		e.Kind, e.Code = Internal, CodeEvidenceFailed
	case errors.Is(err, aa.ErrNoBroker):
		e.Kind, e.Code = Unavailable, CodeNoBroker
	case errors.Is(err, aa.ErrTooOften):
		e.Kind, e.Code = Unavailable, CodeAttestationTooOften
	case untrusted:
		e.Kind, e.Code = Unreachable, CodeBrokerUntrusted
	case inTransit(err):
		e.Kind, e.Code = Unreachable, CodeBrokerUnreachable
	default: // it answered with something that is neither a refusal nor what it should be
		e.Kind, e.Code = Unreachable, CodeBrokerAnswer
	}
	return e
}

func explainStatus(status int, refused string) (Kind, string) {
	switch {
	case status == statusNotFound:
		return NotFound, CodeNotFound
	case status == statusTooManyRequests || status >= statusServerError:
		return Unavailable, CodeBrokerUnavailable
	}
	return Denied, refused
}

func inTransit(err error) bool {
	_, request := errors.AsType[*url.Error](err)
	_, network := errors.AsType[net.Error](err)
	return request || network || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded)
}
