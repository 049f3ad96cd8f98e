// SPDX-License-Identifier: Apache-2.0

// Package cdh is the Confidential Data Hub's ttrpc protocol and the key provider protocol that is served beside it:
// messages, clients and service interfaces, generated from the .proto files beside this one. It holds no behaviour;
// internal/guest/cdh serves it, inside the guest only.
package cdh
