// SPDX-License-Identifier: Apache-2.0

// Package measure predicts launch measurements from the artifacts that a guest is started with, so that reference
// values never have to be read back from a running guest.
//
// It computes bytes from bytes: it talks to no device and no hypervisor, and it vouches for nothing. Whether the
// artifacts are the right ones is the caller's business; that a guest was really started with them is what comparing
// the prediction with attested evidence shows. Firmware is parsed as foreign input: every offset and size in it is
// checked.
//
// Specifications: AMD SEV Secure Nested Paging Firmware ABI (publication 56860) §8.17.2 for the digest, AMD64
// Architecture Programmer's Manual volume 2 (publication 24593) appendix B table B-4 for the save area, and the
// metadata that OVMF carries (edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and X64/OvmfSevMetadata.asm).
package measure
