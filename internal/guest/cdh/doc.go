// SPDX-License-Identifier: Apache-2.0

// Package cdh is the guest's confidential data hub: it fetches resources from the broker for what runs in the pod, and opens
// the sealed secrets that the host hands to it.
//
// It trusts the broker that the measured configuration names, and the attestation agent for the token and the key. A
// resource goes from the broker's envelope into the caller's hands and is not kept. The path comes from a workload, is
// parsed strictly, and decides nothing but which resource is asked for: whether it is released is the broker's
// decision, on evidence about the whole guest.
//
// A refusal says what the broker said: its code, its words, and the request id under which its owner finds the rest.
// It is not retried. A token that is not taken any more is replaced once.
//
// A sealed secret says of itself who signed it. Which keys may have is what the measured configuration pins, in
// [sealed_secrets]; without it none is opened.
//
// Layer keys are unwrapped for other pullers of images (UnWrapKey). Secure mounts and image pulls for other processes belong to
// the stock protocol, and are not served.
package cdh
