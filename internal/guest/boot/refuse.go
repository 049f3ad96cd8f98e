// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nacre-project/nacre/attest"
)

// Code is the stable name of a reason to refuse to boot; the host's console reader knows it.
type Code string

// What process 1 and the agent refuse for. Codes of package attest (init_data_mismatch, …) appear on the console too.
const (
	CodeBootFailed       Code = "boot_failed"        // the machine is not as the image needs it
	CodeCmdlineInvalid   Code = "cmdline_invalid"    // a nacre.* parameter that this image does not know
	CodeEntropy          Code = "entropy"            // the host's generator could not be taken out of the credit
	CodeAttester         Code = "attester_failed"    // a platform is there and cannot be used
	CodeInitDataDevice   Code = "init_data_device"   // two devices, or one that cannot be read
	CodeInitDataUnbound  Code = "init_data_unbound"  // init-data without a platform that could bind it
	CodeInitDataInvalid  Code = "init_data_invalid"  // bound, and not what init-data must be
	CodeInitDataMismatch Code = "init_data_mismatch" // not what the platform was launched with
	CodePolicyInvalid    Code = "policy_invalid"     // the agent policy does not compile
	CodePanic            Code = "panic"              // the agent process ended by itself
)

// Refusal is an error that ends the boot.
type Refusal struct {
	Code Code
	Err  error
}

func refuse(code Code, format string, args ...any) error {
	return &Refusal{Code: code, Err: fmt.Errorf(format, args...)}
}

// Error implements error.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives access to the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// codeOf finds the code of an error: its own, the attester's, or boot_failed.
func codeOf(err error) Code {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	if code := attest.CodeOf(err); code != "" {
		return Code(code)
	}
	return CodeBootFailed
}

// maxLine caps the console line: serial consoles are slow and their readers have limits.
const maxLine = 400 // bytes

// report writes the console line.
func report(console io.Writer, err error) {
	line := fmt.Sprintf("nacre: refused code=%s %s", codeOf(err), oneLine(err.Error()))
	if len(line) > maxLine {
		line = strings.ToValidUTF8(line[:maxLine], "") + "…"
	}
	// The newline before it ends whatever half line the kernel or a dying goroutine left.
	fmt.Fprintf(console, "\n%s\n", line)
}

// oneLine makes text harmless for a console: no control characters, no escape sequences, no line breaks.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, text)
}
