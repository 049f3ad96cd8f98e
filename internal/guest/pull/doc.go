// SPDX-License-Identifier: Apache-2.0

// Package pull fetches container images into the guest and mounts them.
//
// It trusts the digest in the reference, which the owner wrote and the agent policy has checked, and the owner's
// configuration. All else, the registry, its mirrors, the network, name servers and proxies, belongs to the adversary.
// So an image is taken by digest only, and every byte is bound to it by a chain: the digest names the manifest (or the
// index that names it), the manifest names the configuration and the compressed layers, the configuration names the
// layers' contents (diff_ids). Each blob is fetched once, verified while it streams, and what was verified is what is
// used. A layer whose digest turns out wrong is removed; nothing of it was visible to a container.
//
// Where images come from is the registry configuration's to say (a part of containers-registries.conf(5)): mirrors,
// rewritten and blocked names. All places are asked in their order, each for what the one before it does not deliver,
// and a place that fails is left for the rest of the pull. Credentials (an auth.json) go to the place that they are
// for and to no other. Both stand in the measured configuration or are resources of the trustee, and then are
// fetched when an image is pulled and kept in memory for a bounded time ([Resources]), so that their rotation is
// seen. Nothing comes from the host or the environment.
//
// A [Policy] is asked at every pull, whether the layers are there already or not, under the name that the user wrote
// and not that of the mirror which served it, before anything but the manifest is fetched.
//
// Encrypted layers are decrypted while they stream, before they are decompressed, by keys of a key broker. What was
// decrypted is no other image's to use, even one that names the same contents.
//
// TLS is the rule, for images may be confidential and credentials are: the certificate authorities are the guest
// image's own and those of the configuration. Plain HTTP is spoken to a registry that the configuration calls
// insecure, or that is named by a loopback, private or link-local address and does not speak TLS; and never when there
// are credentials for it. Proxies come from the configuration.
//
// Layers are unpacked by an [Unpacker] in a process of its own (package unpack), each once, into
// <work>/layers/<algorithm>-<diff_id>, and shared by all images that have them. A mount stacks them by the mount API of
// Linux 5.2 with overlayfs's lowerdir+ (Linux 6.7), which has no limit of one page.
//
// What the package does not do: resolve tags, run credential helpers, know aliases of short names, or collect
// layers that are no longer used (the guest lives as long as its pod). A name without a registry is one of docker.io to
// a policy, wherever the configuration has it searched. A directory that a layer does not list, but
// puts files into, becomes 0755 and root's, even where a lower layer had said otherwise.
package pull
