// SPDX-License-Identifier: Apache-2.0

package measure

import "encoding/binary"

// Offsets in the save area of a virtual processor (APM volume 2 table B-4). Fields are little-endian; those that are
// not named here are zero when a guest starts.
const (
	offES          = 0x000
	offCS          = 0x010
	offSS          = 0x020
	offDS          = 0x030
	offFS          = 0x040
	offGS          = 0x050
	offGDTR        = 0x060
	offLDTR        = 0x070
	offIDTR        = 0x080
	offTR          = 0x090
	offEFER        = 0x0d0
	offCR4         = 0x148
	offCR0         = 0x158
	offDR7         = 0x160
	offDR6         = 0x168
	offRFLAGS      = 0x170
	offRIP         = 0x178
	offGPAT        = 0x268
	offRDX         = 0x310
	offSEVFeatures = 0x3b0
	offXCR0        = 0x3e8
	offMXCSR       = 0x408 // 32 bits
	offX87FCW      = 0x410 // 16 bits
)

// saveArea returns the initial state of a virtual processor as QEMU and KVM set it: real mode at reset, with what KVM
// switches on of its own. signature is what CPUID function 1 returns in EAX; it is in RDX at reset.
func saveArea(eip, signature uint32, features uint64) [pageSize]byte {
	var a [pageSize]byte
	put64 := func(offset int, v uint64) { binary.LittleEndian.PutUint64(a[offset:], v) }
	// A segment: selector, attributes, limit (32 bits), base (64 bits).
	segment := func(offset int, selector, attributes uint16, base uint64) {
		binary.LittleEndian.PutUint16(a[offset:], selector)
		binary.LittleEndian.PutUint16(a[offset+2:], attributes)
		binary.LittleEndian.PutUint32(a[offset+4:], 0xffff)
		put64(offset+8, base)
	}
	for _, data := range []int{offES, offSS, offDS, offFS, offGS} {
		segment(data, 0, 0x93, 0)
	}
	segment(offCS, 0xf000, 0x9b, uint64(eip&0xffff_0000))
	segment(offGDTR, 0, 0, 0)
	segment(offIDTR, 0, 0, 0)
	segment(offLDTR, 0, 0x82, 0)
	segment(offTR, 0, 0x8b, 0)

	put64(offEFER, 0x1000) // SVME, set by KVM
	put64(offCR4, 0x40)    // MCE, set by KVM
	put64(offCR0, 0x10)    // ET
	put64(offDR7, 0x400)
	put64(offDR6, 0xffff_0ff0)
	put64(offRFLAGS, 0x2)
	put64(offRIP, uint64(eip&0xffff))
	put64(offGPAT, 0x0007_0406_0007_0406) // reset value, APM volume 2 §7.8.2
	put64(offRDX, uint64(signature))
	put64(offSEVFeatures, features)
	put64(offXCR0, 0x1)
	// Since Linux 6.10 KVM copies the floating-point state into the save area; these are its reset values.
	binary.LittleEndian.PutUint32(a[offMXCSR:], 0x1f80)
	binary.LittleEndian.PutUint16(a[offX87FCW:], 0x37f)
	return a
}
