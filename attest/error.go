// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"errors"
	"fmt"
	"time"
)

// Code is the stable name of a refusal. Codes go over the wire and into audit records; none is ever renamed.
type Code string

const (
	// CodeEvidenceMalformed says that the evidence cannot be parsed.
	CodeEvidenceMalformed Code = "evidence_malformed"
	// CodeEvidenceUnsupported says that the evidence is of a version, algorithm or product that is not known here.
	CodeEvidenceUnsupported Code = "evidence_unsupported"
	// CodeRootUntrusted says that the endorsement chain does not end in a root that the configuration names.
	CodeRootUntrusted Code = "root_untrusted"
	// CodeCertificateInvalid says that an endorsement certificate is not what the platform's specification demands.
	CodeCertificateInvalid Code = "certificate_invalid"
	// CodeCertificateExpired says that a certificate of the chain is not valid now.
	CodeCertificateExpired Code = "certificate_expired"
	// CodeSignatureInvalid says that the endorsed key did not sign this evidence.
	CodeSignatureInvalid Code = "signature_invalid"
	// CodeChipIDMismatch says that the endorsement is for another chip than the evidence names.
	CodeChipIDMismatch Code = "chip_id_mismatch"
	// CodeTCBMismatch says that the endorsement is for other firmware versions than the evidence names.
	CodeTCBMismatch Code = "tcb_mismatch"
	// CodeReportDataMismatch says that the evidence is bound to something else than this session.
	CodeReportDataMismatch Code = "report_data_mismatch"
	// CodeInitDataMismatch says that the guest was launched with other init-data.
	CodeInitDataMismatch Code = "init_data_mismatch"
	// CodeDebugEnabled says that the host may read the guest's memory.
	CodeDebugEnabled Code = "debug_enabled"
	// CodeVMPLNotZero says that the report was asked for at a lower privilege than the guest kernel's.
	CodeVMPLNotZero Code = "vmpl_not_zero"
	// CodeCollateralUnavailable says that certificates are needed which cannot be had right now.
	CodeCollateralUnavailable Code = "collateral_unavailable"
)

// Error is a refusal, or a failure to decide, with its stable code.
type Error struct {
	Code Code

	// Detail says what was wanted and got. It is for the owner's log and audit, never for the other side of the wire.
	Detail string

	// RetryAfter, when positive, is how long to wait before the same evidence may fare better.
	RetryAfter time.Duration

	// Err is the cause, if there is one beneath.
	Err error
}

// Error returns code, detail and cause on one line.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Refuse returns an *Error with a formatted detail and a cause, which may be nil.
func Refuse(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...), Err: cause}
}

// CodeOf returns the code of the first *Error in err's chain, or "" when there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
