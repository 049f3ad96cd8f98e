// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Errors about firmware.
var (
	// ErrNoHashTable refuses firmware that does not check the kernel, initrd and command line it is given: a launch
	// measurement of it would say nothing about them.
	ErrNoHashTable = errors.New("the firmware has no SEV hash table, so that a measurement would not cover kernel, " +
		"initrd and command line; use OVMF built for AmdSev (Debian: package ovmf-amdsev)")
	// ErrFirmware is wrapped by errors about firmware that is not well-formed.
	ErrFirmware = errors.New("not a well-formed OVMF image")
)

// Limits of a firmware image. The largest that is known has 4 MiB and pre-validates less than 1 MiB.
const (
	maxFirmware    = 64 << 20 // bytes
	maxSections    = 64
	maxSectionSize = 64 << 20 // bytes
)

const (
	guidLen = 16

	// GUIDs of the table at the end of OVMF.
	guidFooter      = "96b582de-1fb2-45f7-baea-a366c55a082d"
	guidHashArea    = "7255371f-3a3b-4b04-927b-1da6efa8d454"
	guidResetBlock  = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
	guidSEVMetadata = "dc886566-984a-4798-a75e-5585a7bf67cc"

	// The table ends this many bytes before the end of the image: the reset vector is there.
	footerGap = 32
	// Every entry of the table ends in its own length (16 bits) and GUID; the data is before them.
	entryTrailer = 2 + guidLen

	metadataHeader  = 16 // bytes: "ASEV", length, version, number of sections
	metadataVersion = 1
	sectionLen      = 12 // bytes: address, size, kind
)

// Kinds of metadata sections.
const (
	sectionMemory          = 0x1 // validated before the guest starts
	sectionSecrets         = 0x2
	sectionCPUID           = 0x3
	sectionSVSMCallingArea = 0x4
	sectionKernelHashes    = 0x10
)

// firmware is what the measurement needs to know of an OVMF image.
type firmware struct {
	size      uint64
	apReset   uint32 // where processors but the first start; 0 if the firmware does not say
	hashTable area
	sections  []section // in the order in which they are measured
}

// area is a range of guest physical memory.
type area struct{ address, size uint64 }

type section struct {
	area
	kind uint32
}

// base is the guest physical address of an image: it ends at 4 GiB.
func (f *firmware) base() uint64 { return 1<<32 - f.size }

// parseFirmware reads the table at the end of an OVMF image and the SEV metadata that it points to.
func parseFirmware(image []byte) (*firmware, error) {
	if len(image) == 0 || len(image)%pageSize != 0 || len(image) > maxFirmware {
		return nil, fmt.Errorf("%w: %d bytes, want full pages and at most %d", ErrFirmware, len(image), maxFirmware)
	}
	table, err := footerTable(image)
	if err != nil {
		return nil, err
	}
	fw := &firmware{size: uint64(len(image))}
	// An entry that is there but zero means, like a missing one, that this build does not check hashes.
	hashes, ok := table[guidHashArea]
	if !ok {
		return nil, ErrNoHashTable
	}
	if len(hashes) < 8 {
		return nil, fmt.Errorf("%w: entry of the hash table has %d bytes", ErrFirmware, len(hashes))
	}
	fw.hashTable.address = uint64(binary.LittleEndian.Uint32(hashes))
	fw.hashTable.size = uint64(binary.LittleEndian.Uint32(hashes[4:]))
	if fw.hashTable.address == 0 || fw.hashTable.size == 0 {
		return nil, ErrNoHashTable
	}
	reset, ok := table[guidResetBlock]
	if !ok || len(reset) < 4 {
		return nil, fmt.Errorf("%w: no reset block for the other processors", ErrFirmware)
	}
	fw.apReset = binary.LittleEndian.Uint32(reset)
	metadata, ok := table[guidSEVMetadata]
	if !ok || len(metadata) < 4 {
		return nil, fmt.Errorf("%w: no SEV metadata", ErrFirmware)
	}
	if fw.sections, err = parseSections(image, binary.LittleEndian.Uint32(metadata)); err != nil {
		return nil, err
	}
	return fw, fw.check()
}

// footerTable returns the data of the table's entries by GUID.
func footerTable(image []byte) (map[string][]byte, error) {
	// The table as a whole has the form of an entry, too.
	guid, table, _, err := lastEntry(image[:len(image)-footerGap])
	if err != nil || guid != guidFooter {
		return nil, fmt.Errorf("%w: no table of GUIDs at its end", ErrFirmware)
	}
	entries := make(map[string][]byte)
	for len(table) > 0 {
		var data []byte
		if guid, data, table, err = lastEntry(table); err != nil {
			return nil, err
		}
		if _, twice := entries[guid]; twice {
			return nil, fmt.Errorf("%w: entry %s twice", ErrFirmware, guid)
		}
		entries[guid] = data
	}
	return entries, nil
}

// lastEntry splits the last entry off a table, which is read from its end.
func lastEntry(table []byte) (guid string, data, rest []byte, err error) {
	if len(table) < entryTrailer {
		return "", nil, nil, fmt.Errorf("%w: %d bytes before the first entry of its table", ErrFirmware, len(table))
	}
	trailer := table[len(table)-entryTrailer:]
	length := int(binary.LittleEndian.Uint16(trailer))
	if length < entryTrailer || length > len(table) {
		return "", nil, nil, fmt.Errorf("%w: table entry of %d bytes", ErrFirmware, length)
	}
	start := len(table) - length
	return formatGUID(trailer[2:]), table[start : len(table)-entryTrailer], table[:start], nil
}

// parseSections reads the SEV metadata, which begins fromEnd bytes before the end of the image.
func parseSections(image []byte, fromEnd uint32) ([]section, error) {
	if fromEnd < metadataHeader || uint64(fromEnd) > uint64(len(image)) {
		return nil, fmt.Errorf("%w: SEV metadata %d bytes before its end", ErrFirmware, fromEnd)
	}
	m := image[len(image)-int(fromEnd):]
	length, version := binary.LittleEndian.Uint32(m[4:]), binary.LittleEndian.Uint32(m[8:])
	n := binary.LittleEndian.Uint32(m[12:])
	if !bytes.Equal(m[:4], []byte("ASEV")) || version != metadataVersion {
		return nil, fmt.Errorf("%w: SEV metadata %q version %d", ErrFirmware, m[:4], version)
	}
	if n > maxSections || uint64(length) > uint64(len(m)) || uint64(length) < metadataHeader+uint64(n)*sectionLen {
		return nil, fmt.Errorf("%w: SEV metadata of %d bytes with %d sections", ErrFirmware, length, n)
	}
	sections := make([]section, n)
	for i := range sections {
		d := m[metadataHeader+i*sectionLen:]
		sections[i] = section{
			area{uint64(binary.LittleEndian.Uint32(d)), uint64(binary.LittleEndian.Uint32(d[4:]))},
			binary.LittleEndian.Uint32(d[8:]),
		}
	}
	return sections, nil
}

// check looks whether the sections can be measured, and whether exactly one of them is the page of the hash table.
func (f *firmware) check() error {
	pages := 0
	for _, s := range f.sections {
		if s.size == 0 || s.size > maxSectionSize || (s.address|s.size)%pageSize != 0 {
			return fmt.Errorf("%w: SEV metadata section of %#x bytes at %#x", ErrFirmware, s.size, s.address)
		}
		switch s.kind {
		case sectionMemory, sectionSVSMCallingArea:
		case sectionSecrets, sectionCPUID, sectionKernelHashes:
			if s.size != pageSize {
				return fmt.Errorf("%w: SEV metadata section of kind %#x has %#x bytes", ErrFirmware, s.kind, s.size)
			}
		default:
			return fmt.Errorf("%w: SEV metadata section of kind %#x", ErrFirmware, s.kind)
		}
		if s.kind != sectionKernelHashes {
			continue
		}
		pages++
		if f.hashTable.address < s.address || f.hashTable.address+f.hashTable.size > s.address+s.size {
			return fmt.Errorf("%w: the hash table is not in its page", ErrFirmware)
		}
	}
	if pages == 0 {
		return ErrNoHashTable
	}
	if pages > 1 {
		return fmt.Errorf("%w: %d pages for the hash table", ErrFirmware, pages)
	}
	return nil
}

// A GUID is stored with its first three groups in little-endian order and the rest as written (UEFI appendix A).
func formatGUID(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

// appendGUID appends one of this package's GUIDs.
func appendGUID(b []byte, guid string) []byte {
	raw, err := hex.DecodeString(strings.ReplaceAll(guid, "-", ""))
	if err != nil || len(raw) != guidLen {
		panic("measure: malformed GUID constant " + guid)
	}
	b = append(b, raw[3], raw[2], raw[1], raw[0], raw[5], raw[4], raw[7], raw[6])
	return append(b, raw[8:]...)
}
