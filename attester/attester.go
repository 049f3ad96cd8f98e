// SPDX-License-Identifier: Apache-2.0

// Package attester is how a guest gets evidence about itself. Each platform's room below implements Attester.
//
// It trusts the guest's own kernel, which is measured, and nothing that the host says: bytes from the platform's
// devices are bounded and parsed before they are used. It does not verify evidence; it cannot, for it would ask itself.
// And it never makes evidence up: where there is no platform, there is ErrNoTEE.
package attester

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/nacre-project/nacre/attest"
)

// ErrNoTEE says that this machine has no platform that could attest, or none that may be used.
var ErrNoTEE = errors.New("no trusted execution environment found")

// Attester collects evidence. Implementations are safe for concurrent use.
type Attester interface {
	// TEE returns the platform's wire name.
	TEE() attest.TEE

	// Simulated reports whether the evidence is a simulated platform's. It is for people; verifiers decide by the root.
	Simulated() bool

	// Evidence returns evidence bound to report data of at most 64 bytes, padded with zero bytes on the right. Report
	// data must be a domain-separated digest: callers never pass on what a workload chose.
	Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error)

	// BindInitData checks that the guest was launched with init-data of this digest, or binds it where the platform
	// works that way. A nil digest means that there is no init-data; then the platform must hold none. A mismatch is an
	// *attest.Error with CodeInitDataMismatch.
	BindInitData(ctx context.Context, digest []byte) error
}
