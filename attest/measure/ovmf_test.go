// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// imageSpec describes a firmware image of one page that has nothing but its tables.
type imageSpec struct {
	reset     uint32
	hashTable area
	sections  []section
	version   uint32 // of the metadata; 0: the right one
}

// metadataAt is the offset of the SEV metadata in an image of imageSpec.
const metadataAt = 0x100

func (s imageSpec) image() []byte {
	image := make([]byte, pageSize)
	version := s.version
	if version == 0 {
		version = metadataVersion
	}
	m := append(image[metadataAt:metadataAt], "ASEV"...)
	m = binary.LittleEndian.AppendUint32(m, uint32(metadataHeader+len(s.sections)*sectionLen))
	m = binary.LittleEndian.AppendUint32(m, version)
	m = binary.LittleEndian.AppendUint32(m, uint32(len(s.sections)))
	for _, d := range s.sections {
		m = binary.LittleEndian.AppendUint32(m, uint32(d.address))
		m = binary.LittleEndian.AppendUint32(m, uint32(d.size))
		m = binary.LittleEndian.AppendUint32(m, d.kind)
	}
	var hashTable []byte
	hashTable = binary.LittleEndian.AppendUint32(hashTable, uint32(s.hashTable.address))
	hashTable = binary.LittleEndian.AppendUint32(hashTable, uint32(s.hashTable.size))

	var table []byte
	table = appendEntry(table, guidSEVMetadata, binary.LittleEndian.AppendUint32(nil, pageSize-metadataAt))
	table = appendEntry(table, guidHashArea, hashTable)
	table = appendEntry(table, guidResetBlock, binary.LittleEndian.AppendUint32(nil, s.reset))
	return placeTable(image, table)
}

// placeTable puts the entries and the footer of a table where OVMF has them.
func placeTable(image, entries []byte) []byte {
	table := appendEntry(nil, guidFooter, entries)
	copy(image[len(image)-footerGap-len(table):], table)
	return image
}

func appendEntry(b []byte, guid string, data []byte) []byte {
	b = append(b, data...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(data)+entryTrailer))
	return appendGUID(b, guid)
}

func TestParseFirmware(t *testing.T) {
	fw, err := parseFirmware(amdSev().image())
	if err != nil {
		t.Fatal(err)
	}
	if fw.base() != 0xffff_f000 || fw.apReset != 0x80b004 || fw.hashTable != (area{0x810c00, 0x400}) ||
		len(fw.sections) != 7 {
		t.Errorf("parsed %+v", fw)
	}
}

func TestParseFirmwareHostile(t *testing.T) {
	entry := func(guid string, data ...byte) []byte { return appendEntry(nil, guid, data) }
	with := func(entries ...[]byte) []byte {
		var table []byte
		for _, e := range entries {
			table = append(table, e...)
		}
		return placeTable(make([]byte, pageSize), table)
	}
	hash := entry(guidHashArea, 0, 0xc, 0x81, 0, 0, 4, 0, 0)
	reset := entry(guidResetBlock, 4, 0xb0, 0x80, 0)
	spec := func(change func(*imageSpec)) []byte {
		s := amdSev()
		change(&s)
		return s.image()
	}
	patched := func(offset int, value uint32) []byte {
		image := amdSev().image()
		binary.LittleEndian.PutUint32(image[metadataAt+offset:], value)
		return image
	}
	for name, tt := range map[string]struct {
		image []byte
		want  error
		text  string
	}{
		"empty":                {nil, ErrFirmware, "0 bytes"},
		"not a page":           {make([]byte, 100), ErrFirmware, "100 bytes"},
		"zeros":                {make([]byte, pageSize), ErrFirmware, "no table"},
		"empty table":          {with(), ErrNoHashTable, ""},
		"short hash entry":     {with(reset, entry(guidHashArea, 1)), ErrFirmware, "1 bytes"},
		"no reset block":       {with(hash), ErrFirmware, "reset block"},
		"no metadata":          {with(hash, reset), ErrFirmware, "no SEV metadata"},
		"entry twice":          {with(hash, hash, reset), ErrFirmware, "twice"},
		"rest of an entry":     {with([]byte{1, 2, 3}, reset), ErrFirmware, "3 bytes"},
		"entry too long":       {with(appendGUID([]byte{0xff, 0xff}, guidResetBlock)), ErrFirmware, "65535"},
		"entry too short":      {with(appendGUID([]byte{1, 0}, guidResetBlock)), ErrFirmware, "1 bytes"},
		"metadata too early":   {with(entry(guidSEVMetadata, 1, 0x10, 0, 0), hash, reset), ErrFirmware, "before its end"},
		"metadata at the end":  {with(entry(guidSEVMetadata, 15, 0, 0, 0), hash, reset), ErrFirmware, "before its end"},
		"metadata signature":   {patched(0, 0), ErrFirmware, "SEV metadata"},
		"metadata length":      {patched(4, 0xffff_ffff), ErrFirmware, "4294967295 bytes"},
		"metadata too short":   {patched(4, 17), ErrFirmware, "17 bytes"},
		"metadata version":     {spec(func(s *imageSpec) { s.version = 2 }), ErrFirmware, "version 2"},
		"many sections":        {patched(12, 0xffff_ffff), ErrFirmware, "sections"},
		"section of no size":   {spec(func(s *imageSpec) { s.sections[0].size = 0 }), ErrFirmware, "0x0 bytes"},
		"section of all":       {spec(func(s *imageSpec) { s.sections[0].size = 0xffff_f000 }), ErrFirmware, "0xfffff000"},
		"section off a page":   {spec(func(s *imageSpec) { s.sections[0].address++ }), ErrFirmware, "0x800001"},
		"section of half page": {spec(func(s *imageSpec) { s.sections[0].size = 0x800 }), ErrFirmware, "0x800 bytes"},
		"two secrets pages":    {spec(func(s *imageSpec) { s.sections[2].size = 0x2000 }), ErrFirmware, "kind 0x2"},
		"unknown section":      {spec(func(s *imageSpec) { s.sections[0].kind = 9 }), ErrFirmware, "kind 0x9"},
		"two hash pages":       {spec(func(s *imageSpec) { s.sections[6] = s.sections[5] }), ErrFirmware, "2 pages"},
		"hash table outside":   {spec(func(s *imageSpec) { s.hashTable.size = 0x401 }), ErrFirmware, "not in its page"},
		"no hash table":        {spec(func(s *imageSpec) { s.hashTable = area{} }), ErrNoHashTable, "ovmf-amdsev"},
		"no page for hashes":   {spec(func(s *imageSpec) { s.sections = s.sections[:5] }), ErrNoHashTable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseFirmware(tt.image)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("parseFirmware: %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func FuzzParseFirmware(f *testing.F) {
	f.Add(amdSev().image())
	f.Add(make([]byte, pageSize))
	f.Add(placeTable(make([]byte, pageSize), nil))
	f.Fuzz(func(t *testing.T, image []byte) {
		fw, err := parseFirmware(image)
		if err != nil {
			return
		}
		s := SNP{Firmware: image, Kernel: []byte("k"), VCPUs: 2, CPUModel: "EPYC-v4"}
		hashes, err := s.hashesPage(fw)
		if err != nil {
			return
		}
		if len(hashes) != pageSize {
			t.Errorf("page of hashes has %d bytes", len(hashes))
		}
		total := uint64(0)
		for _, section := range fw.sections {
			total += section.size
		}
		if total > 1<<20 {
			return // correct, but slow to measure
		}
		if _, err := s.LaunchDigest(); err != nil {
			t.Errorf("parsed, but not measured: %v", err)
		}
	})
}
