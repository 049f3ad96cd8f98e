// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"errors"
	"fmt"
)

// Code is the stable name of the reason why an image was not pulled.
type Code string

const (
	// CodeReferenceInvalid says that the reference cannot be parsed.
	CodeReferenceInvalid Code = "image_reference_invalid"
	// CodeNotPinned says that the reference names no digest.
	CodeNotPinned Code = "image_not_pinned"
	// CodeDigestMismatch says that the registry delivered something else than the digest names.
	CodeDigestMismatch Code = "image_digest_mismatch"
	// CodeMalformed says that a manifest, index or configuration is not what the OCI image specification demands.
	CodeMalformed Code = "image_malformed"
	// CodeUnsupported says that the image is for another platform, or of a kind that is not known here.
	CodeUnsupported Code = "image_unsupported"
	// CodeTooLarge says that the image exceeds one of the [Limits].
	CodeTooLarge Code = "image_too_large"
	// CodeNotFound says that the registry does not have it.
	CodeNotFound Code = "image_not_found"
	// CodeUnauthorized says that the registry wants other credentials, or any.
	CodeUnauthorized Code = "registry_unauthorized"
	// CodePlaintextRefused says that the registry speaks no TLS and is not one that may do without.
	CodePlaintextRefused Code = "registry_plaintext_refused"
	// CodeBlocked says that the registry configuration blocks every place to fetch the image from.
	CodeBlocked Code = "image_blocked"
	// CodePolicyRefused says that the signature policy does not accept the image; the cause says why.
	CodePolicyRefused Code = "image_policy_refused"
	// CodeSettingsInvalid says that the registry configuration or the credentials are not what they should be.
	CodeSettingsInvalid Code = "image_settings_invalid"
	// CodeSettingsUnavailable says that the trustee does not give the registry configuration or the credentials; the
	// cause is the data hub's error.
	CodeSettingsUnavailable Code = "image_settings_unavailable"
	// CodeNotDecrypted says that an encrypted layer cannot be decrypted; the cause is an error of package imagecrypt, or
	// of the data hub, which has no key.
	CodeNotDecrypted Code = "image_layer_not_decrypted"
	// CodeUnreachable says that the registry cannot be reached, breaks off, or fails.
	CodeUnreachable Code = "registry_unreachable"
	// CodeLayerRefused says that a layer could not be unpacked; the cause is an unpack.Error.
	CodeLayerRefused Code = "image_layer_refused"
	// CodeMountFailed says that the image is there and cannot be mounted.
	CodeMountFailed Code = "image_mount_failed"
)

// Error says what failed, and what the user can do next.
type Error struct {
	Code   Code
	Detail string
	Err    error // cause, may be nil
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
