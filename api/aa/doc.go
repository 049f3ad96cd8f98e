// SPDX-License-Identifier: Apache-2.0

// Package aa is the Attestation Agent's ttrpc protocol: messages, client and service interface, generated from the
// .proto file beside this one. It holds no behaviour; internal/guest/aa serves it, inside the guest only.
package aa
