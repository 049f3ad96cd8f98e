// SPDX-License-Identifier: Apache-2.0

// Package imagecrypt encrypts and decrypts the layers of container images in the format of ocicrypt, with layer keys that
// are wrapped by a key of the key broker, as the Confidential Containers' key provider wraps them.
//
// A layer has a key of its own and is AES-256-CTR with an HMAC-SHA256 over the ciphertext. What opens it, the layer key and
// the counter's start (the private options), is wrapped by the owner's key and travels with the layer as an annotation (the
// [Packet]), which names the owner's key and holds nothing that needs to be kept secret.
//
// It trusts the keys that it is given and nothing else: annotations, packets and ciphertext come from whoever may write to
// a registry. It is not what makes an image authentic: who knows a key that a packet may name can make a layer that opens.
// That an image is the one that was meant is what its digest says, or its signature. Keys come from a [KeySource];
// this package speaks to nobody.
package imagecrypt
