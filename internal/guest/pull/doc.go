// SPDX-License-Identifier: Apache-2.0

// Package pull fetches container images into the guest and mounts them.
//
// It trusts one thing: the digest in the reference, which the owner wrote and the agent policy has checked. All else,
// the registry, the network, its name servers and proxies, belongs to the adversary. So an image is taken by digest
// only, and every byte is bound to it by a chain: the digest names the manifest (or the index that names it), the
// manifest names the configuration and the compressed layers, the configuration names the layers' contents (diff_ids).
// Each blob is fetched once, verified while it streams, and what was verified is what is used. A layer whose digest
// turns out wrong is removed; nothing of it was visible to a container.
//
// TLS is nevertheless the rule, for images may be confidential and credentials are: the certificate authorities are
// the guest image's own and those of the configuration. Plain HTTP is spoken only to a registry at a loopback, private
// or link-local address, only when it does not speak TLS, and never when there are credentials for it. Proxies come
// from the configuration, never from the environment.
//
// Layers are unpacked by an [Unpacker] in a process of its own (package unpack), each once, into
// <work>/layers/<algorithm>-<diff_id>, and shared by all images that have them. A mount stacks them by the mount API of
// Linux 5.2 with overlayfs's lowerdir+ (Linux 6.7), which has no limit of one page.
//
// What the package does not do: verify signatures, decrypt layers, resolve tags, run credential helpers, or collect
// layers that are no longer used (the guest lives as long as its pod). A directory that a layer does not list, but
// puts files into, becomes 0755 and root's, even where a lower layer had said otherwise.
package pull
