// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"errors"
	"fmt"
	"strings"
)

// Code is the stable name of the reason why an image may not run, or a policy not be used.
type Code string

const (
	// CodePolicyMalformed says that the policy is no policy.json, or has a scope, a requirement or a key path that cannot be used.
	CodePolicyMalformed Code = "signature_policy_malformed"
	// CodeUnsupported says that the policy demands signatures, which this build cannot verify.
	CodeUnsupported Code = "signature_unsupported"
	// CodeRejected says that the policy rejects the image, signed or not.
	CodeRejected Code = "signature_policy_rejects"
	// CodeRequired says that a signature is demanded and there is none.
	CodeRequired Code = "signature_required"
	// CodeInvalid says that there are signatures, and the keys or certificates of the requirement verify none of them.
	CodeInvalid Code = "signature_invalid"
	// CodeIdentity says that a signature is good and is one of another name.
	CodeIdentity Code = "signature_identity"
	// CodeDigest says that a signature is good and is one of another image, or that the manifest is not the one which the reference names.
	CodeDigest Code = "signature_digest"
	// CodeKeyUnavailable says that a key of the policy could not be got from the trustee, or is none.
	CodeKeyUnavailable Code = "signature_key_unavailable"
	// CodeUnavailable says that the signatures could not be fetched.
	CodeUnavailable Code = "signature_unavailable"
	// CodeReferenceInvalid says that the name is not one that can be verified: it has no digest.
	CodeReferenceInvalid Code = "signature_reference_invalid"
)

// ErrNotFound is wrapped by the errors of a [Source] and of a lookaside when what was asked for does not exist, in difference to
// what could not be fetched.
var ErrNotFound = errors.New("not found")

// Error says what failed, under which part of the policy, and what the user can do next.
type Error struct {
	Code Code
	// Scope is the scope of the policy that was chosen: a name, `""` for the empty scope, or "default". Empty before one was.
	Scope string
	// Requirement names the requirement in that scope ("requirement 2 of 3, sigstoreSigned"). Empty when none was reached.
	Requirement string
	Detail      string
	Err         error // cause, may be nil
}

// Error returns all of it on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	if e.Scope != "" {
		b.WriteString(": scope " + e.Scope)
		if e.Requirement != "" {
			b.WriteString(", " + e.Requirement)
		}
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first *Error in err's chain, or "" when there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func failed(code Code, err error, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...), Err: err}
}
