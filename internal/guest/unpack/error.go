// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"errors"
	"fmt"
	"syscall"
)

// Code is the stable name of the reason why a layer was not unpacked.
type Code string

const (
	// CodeMalformed says that the stream is no tar archive, or holds an entry that no honest tool writes.
	CodeMalformed Code = "layer_malformed"
	// CodeEscape says that an entry leads out of the layer.
	CodeEscape Code = "layer_escape"
	// CodeTooLarge says that the layer exceeds one of the [Limits].
	CodeTooLarge Code = "layer_too_large"
	// CodeUnsupported says that an entry is of a kind that is not known here.
	CodeUnsupported Code = "layer_unsupported"
	// CodeNoSpace says that the guest's memory or disk is full.
	CodeNoSpace Code = "layer_no_space"
	// CodeFailed says that the file system or the sandbox failed.
	CodeFailed Code = "layer_unpack_failed"
)

// Error says why a layer was not unpacked, and at which entry.
type Error struct {
	Code   Code
	Entry  string // name as in the archive; "" when it is not about one entry
	Detail string
	Err    error // cause, may be nil
}

// Error returns code, entry, detail and cause on one line; names are quoted, for they are foreign bytes.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Entry != "" {
		s += fmt.Sprintf(": entry %q", e.Entry)
	}
	if reason := e.reason(); reason != "" {
		s += ": " + reason
	}
	return s
}

func (e *Error) reason() string {
	switch {
	case e.Err == nil:
		return e.Detail
	case e.Detail == "":
		return e.Err.Error()
	}
	return e.Detail + ": " + e.Err.Error()
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

// failed wraps what the kernel said while something was being done.
func failed(doing string, err error) *Error {
	code := CodeFailed
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		code = CodeNoSpace
	}
	return &Error{Code: code, Detail: doing, Err: err}
}
