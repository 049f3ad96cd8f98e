// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Product is a generation of EPYC processors, as AMD's key distribution service spells it. Each has its own root key.
type Product string

// The products that implement SEV-SNP and whose roots are public.
//
// Turin: everything here follows AMD's documents and other implementations; no report of a real Turin machine was
// available to test against.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa" // with Bergamo and Siena
	Turin Product = "Turin"
)

// ProductOf returns the product of a CPUID family and model, both in combined (base plus extended) form as report
// versions 3 and later carry them.
func ProductOf(family, model uint8) (Product, bool) {
	switch family {
	case 0x19:
		switch {
		case model <= 0x0F:
			return Milan, true
		case model >= 0x10 && model <= 0x1F, model >= 0xA0 && model <= 0xAF:
			return Genoa, true
		}
	case 0x1A:
		if model <= 0x11 {
			return Turin, true
		}
	}
	return "", false
}

// productOfIssuer returns the product that an endorsement certificate's issuer is named for: "SEV-Genoa" issues
// VCEKs and "SEV-VLEK-Genoa" issues VLEKs. Reports of version 2 say nothing about the processor, so the certificate
// must; the name is only believed once the chain under that product's root is verified.
func productOfIssuer(commonName string) (Product, bool) {
	name, ok := strings.CutPrefix(commonName, "SEV-")
	if !ok {
		return "", false
	}
	switch p := Product(strings.TrimPrefix(name, "VLEK-")); p {
	case Milan, Genoa, Turin:
		return p, true
	}
	return "", false
}

// hwidSize is the number of leading CHIP_ID bytes that identify a chip; the bytes after them are zero.
func (p Product) hwidSize() int {
	if p == Turin {
		return 8
	}
	return 64
}

// TCB is a TCB_VERSION as the firmware reports it: eight bytes read as a little-endian integer. What the bytes mean
// depends on the product (SEV-SNP ABI specification 56860, TCB_VERSION tables for Milan/Genoa and for Turin).
type TCB uint64

// TCBVersion is a TCB taken apart: the security version number of each firmware component.
type TCBVersion struct {
	FMC        uint8 // Turin only: the chip's first mutable code
	Bootloader uint8
	TEE        uint8
	SNP        uint8
	Microcode  uint8
}

// Version takes t apart by the layout of product p. It fails when a byte that the layout reserves is not zero.
func (t TCB) Version(p Product) (TCBVersion, error) {
	v := t.split(p)
	if v.TCB(p) != t {
		return TCBVersion{}, fmt.Errorf("TCB version %#016x has reserved bytes set in the layout of %s", uint64(t), p)
	}
	return v, nil
}

// split takes t apart without a look at the reserved bytes.
func (t TCB) split(p Product) TCBVersion {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(t))
	if p == Turin {
		return TCBVersion{FMC: b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
	}
	return TCBVersion{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
}

// TCB puts v together in the layout of product p. FMC is left out where the layout has none.
func (v TCBVersion) TCB(p Product) TCB {
	b := [8]byte{0: v.Bootloader, 1: v.TEE, 6: v.SNP, 7: v.Microcode}
	if p == Turin {
		b = [8]byte{0: v.FMC, 1: v.Bootloader, 2: v.TEE, 3: v.SNP, 7: v.Microcode}
	}
	return TCB(binary.LittleEndian.Uint64(b[:]))
}

// String returns v for people and logs.
func (v TCBVersion) String() string {
	return fmt.Sprintf("fmc %d, bootloader %d, tee %d, snp %d, microcode %d",
		v.FMC, v.Bootloader, v.TEE, v.SNP, v.Microcode)
}
