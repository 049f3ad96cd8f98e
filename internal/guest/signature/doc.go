// SPDX-License-Identifier: Apache-2.0

// Package signature decides whether an image may run, by the owner's signature policy: a policy.json as podman,
// CRI-O and the Confidential Containers guest read it (containers-policy.json(5)).
//
// It trusts the policy, the keys that the policy names, and the name of the image as the user wrote it. All else is
// the adversary's: registry, mirrors, signatures and their number. An image is verified under the user's name even
// when a mirror delivered it, and on every use, for a cache proves nothing about a policy that has changed since.
//
// What is signed is a digest together with a name. The digest is that of the manifest which the reference pins (an
// index, or a platform's manifest), or that of the platform's manifest which this index lists: a requirement is met when
// one signature of either is good. Signatures of others beside it do no harm.
//
// Cosign's signatures are looked for in the image's own repository, under the tag sha256-<hex>.sig; simple signatures
// (OpenPGP) in the places that [Policy.WithLookaside] was given. The verdict on one signature under one requirement is that of
// go.podman.io/image/v5. What is decided here is which requirements hold (the scope), which signatures are looked at
// (their bounds), that keys come from the policy itself or from the trustee and never from a file, and that the
// manifest is the one which the reference names.
//
// It differs from containers-policy.json(5) where that is unsafe or unusable in a guest: files are refused in the place
// of keys; a scope that no name can match is refused rather than ignored; and a sigstoreSigned requirement without
// signedIdentity compares the repository (matchRepository), for cosign signs repositories without a tag, and the
// default of the other implementations either refuses all that cosign signs, or compares nothing.
//
// # Build tag
//
// image/v5 compiles its OpenPGP code against gpgme, a C library, unless the tag containers_image_openpgp is set; its
// verification cannot be imported without one of the two, for both lie in its package signature, and a replacement of
// gpgme in go.mod would take `go install …@latest` from the users. So the evaluation, evaluate_openpgp.go, stands
// behind that tag. The Makefile and the builder of the guest image set it. Without it all compiles, and every policy
// that demands a signature is refused ([CodeUnsupported]).
//
// What the package does not do: pull, speak HTTP, cache verdicts or keys, sign, read sigstore bundles (v0.3), OCI 1.1
// referrers, attestations or Notation signatures.
package signature
