// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"errors"
	"fmt"
)

// Code is the stable name of the reason why a layer was not opened.
type Code string

const (
	// CodeKeyUnavailable says that the [KeySource] did not give the key; its error is the cause.
	CodeKeyUnavailable Code = "key_unavailable"
	// CodeKeyWrong says that the key is not the one that the packet was made with, or no key of 32 bytes at all.
	CodeKeyWrong Code = "key_wrong"
	// CodePacketMalformed says that a packet is not what a key provider writes.
	CodePacketMalformed Code = "packet_malformed"
	// CodeProviderUnsupported says that the layer's key was wrapped in a way that is not known here: by a key management
	// service, for a public key (JWE, PKCS #7, OpenPGP), with another algorithm.
	CodeProviderUnsupported Code = "provider_unsupported"
	// CodeLayerMalformed says that the layer's descriptor is not that of an encrypted layer.
	CodeLayerMalformed Code = "layer_malformed"
	// CodeLayerUnauthentic says that the layer's bytes are not those that were encrypted.
	CodeLayerUnauthentic Code = "layer_unauthentic"
)

// Error says why a layer was not opened, and what can be done about it.
type Error struct {
	Code   Code
	Detail string
	Err    error // cause, may be nil
}

// Error returns code, detail and cause on one line.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Detail
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

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
