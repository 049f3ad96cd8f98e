// SPDX-License-Identifier: Apache-2.0

// Package agent is the Kata agent protocol: messages, clients and service interfaces for ttrpc, generated from the
// .proto files beside this one. It holds no behaviour. The host's side of the wire is internal/sandbox, the guest's is
// internal/guest/agent; neither may trust what the other sends.
package agent

//go:generate ../generate.sh
