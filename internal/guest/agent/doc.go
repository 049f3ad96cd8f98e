// SPDX-License-Identifier: Apache-2.0

// Package agent is what the host talks to: the Kata agent protocol over ttrpc, and the containers behind it.
//
// Every request passes one gate (Gate) before its handler sees it: the agent policy is asked for the rule that bears
// the request message's name, and anything but an explicit yes is a refusal. The policy is given when the server is
// made and cannot be replaced. What the policy allows is still checked: requests come from the adversary, so names,
// paths, addresses and sizes have limits of their own, and a container gets secure settings whatever was asked for
// (spec.go). A handler that panics refuses the request and nothing else.
//
// The package trusts the policy, the root image with its OCI runtime, and the images that its ImageStore has verified.
// It does not pull or verify images, it does not attest, and it opens no secrets: what sealed ones in a container's
// environment and files stand for comes from its Unsealer, goes to the container, and is not kept (resolve.go). Two
// containers of a pod are kept apart as containers are; the guest around them is the boundary that counts.
package agent
