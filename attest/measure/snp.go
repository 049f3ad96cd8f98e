// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// MaxVCPUs is the largest number of virtual processors that can be measured.
const MaxVCPUs = 4096

// SNP is what an SEV-SNP guest under QEMU and KVM is started with: machine q35, kernel-hashes=on, direct boot.
type SNP struct {
	Firmware []byte // OVMF built for AmdSev, as given to -bios
	Kernel   []byte // as given to -kernel
	Initrd   []byte // as given to -initrd; empty without one
	Cmdline  string // as given to -append, without a trailing zero byte
	VCPUs    int    // as given to -smp
	// CPUModel is the name of QEMU's processor model, as given to -cpu. See CPUModels.
	CPUModel string
	// GuestFeatures is SEV_FEATURES of the save area; 0 means 0x1, SNP active and nothing else.
	GuestFeatures uint64
}

// LaunchDigest returns the value that the report of such a guest has as MEASUREMENT. Firmware that does not check the
// hashes of kernel, initrd and command line is refused with ErrNoHashTable.
func (s SNP) LaunchDigest() ([48]byte, error) {
	fw, err := parseFirmware(s.Firmware)
	if err != nil {
		return [48]byte{}, fmt.Errorf("measure firmware: %w", err)
	}
	if len(s.Kernel) == 0 {
		return [48]byte{}, errors.New("measure a guest without a kernel: only direct boot is measured")
	}
	if strings.ContainsRune(s.Cmdline, 0) {
		return [48]byte{}, errors.New("measure the kernel command line: it has a zero byte in it")
	}
	hashes, err := s.hashesPage(fw)
	if err != nil {
		return [48]byte{}, err
	}
	var d digest
	d.normal(fw.base(), s.Firmware)
	return s.continueFrom(d, fw, hashes)
}

// continueFrom measures all that comes after the pages of the firmware. Without hashes, their page is zero.
func (s SNP) continueFrom(d digest, fw *firmware, hashes []byte) ([48]byte, error) {
	if s.VCPUs < 1 || s.VCPUs > MaxVCPUs {
		return [48]byte{}, fmt.Errorf("measure %d virtual processors: want 1 to %d", s.VCPUs, MaxVCPUs)
	}
	signature, err := CPUSignature(s.CPUModel)
	if err != nil {
		return [48]byte{}, err
	}
	for _, section := range fw.sections {
		switch section.kind {
		case sectionMemory, sectionSVSMCallingArea:
			d.fixed(pageZero, section.address, section.size)
		case sectionSecrets:
			d.fixed(pageSecrets, section.address, section.size)
		case sectionCPUID:
			d.fixed(pageCPUID, section.address, section.size)
		case sectionKernelHashes:
			if hashes == nil {
				d.fixed(pageZero, section.address, section.size)
				continue
			}
			d.normal(section.address, hashes)
		}
	}
	features := s.GuestFeatures
	if features == 0 {
		features = featureSNPActive
	}
	d.saveArea(saveArea(resetVector, signature, features))
	if s.VCPUs > 1 {
		// The first processor starts at the architectural reset vector, the others where the firmware says.
		ap := saveArea(fw.apReset, signature, features)
		for range s.VCPUs - 1 {
			d.saveArea(ap)
		}
	}
	return d.value, nil
}

// SNPFiles is SNP with files in place of their contents.
type SNPFiles struct {
	Firmware, Kernel, Initrd string // paths; Initrd may be empty
	Cmdline                  string
	VCPUs                    int
	CPUModel                 string
	GuestFeatures            uint64
}

// maxArtifact is the largest file that SNPFiles reads, in bytes.
const maxArtifact = 512 << 20

// Read reads the files.
func (f SNPFiles) Read() (SNP, error) {
	s := SNP{Cmdline: f.Cmdline, VCPUs: f.VCPUs, CPUModel: f.CPUModel, GuestFeatures: f.GuestFeatures}
	for _, a := range []struct {
		what, path string
		to         *[]byte
	}{
		{"firmware", f.Firmware, &s.Firmware}, {"kernel", f.Kernel, &s.Kernel}, {"initrd", f.Initrd, &s.Initrd},
	} {
		if a.path == "" && a.what == "initrd" {
			continue
		}
		info, err := os.Stat(a.path)
		if err != nil {
			return SNP{}, fmt.Errorf("measure %s: %w", a.what, err)
		}
		if info.Size() > maxArtifact {
			return SNP{}, fmt.Errorf("measure %s: %s has %d bytes, at most %d are read",
				a.what, a.path, info.Size(), maxArtifact)
		}
		if *a.to, err = os.ReadFile(a.path); err != nil {
			return SNP{}, fmt.Errorf("measure %s: %w", a.what, err)
		}
	}
	return s, nil
}

const (
	pageSize    = 4096
	resetVector = 0xffff_fff0 // AMD64 APM volume 2 §14.1.5

	featureSNPActive = 1 << 0 // APM volume 2 §15.34.10
)

// Page types of SNP_LAUNCH_UPDATE (SNP ABI table 58).
const (
	pageNormal   = 1
	pageSaveArea = 2
	pageZero     = 3
	pageSecrets  = 5
	pageCPUID    = 6
)

// saveAreaAddress is where save areas are in the digest, whatever their address: the RMP holds the highest page-aligned
// guest physical address for them.
const saveAreaAddress = 0xffff_ffff_f000

// digest is the chain of SNP ABI §8.17.2: the digest of each page is the hash of a structure that begins with the
// digest before it.
type digest struct{ value [sha512.Size384]byte }

// pageInfoLen is the length of PAGE_INFO in bytes (SNP ABI table 67).
const pageInfoLen = 0x70

func (d *digest) page(kind byte, address uint64, content [sha512.Size384]byte) {
	var info [pageInfoLen]byte
	copy(info[0:], d.value[:])
	copy(info[48:], content[:])
	binary.LittleEndian.PutUint16(info[96:], pageInfoLen)
	info[98] = kind
	// Bytes 99 to 103: not an initial migration image, and no permissions for VMPL 3, 2 and 1.
	binary.LittleEndian.PutUint64(info[104:], address)
	d.value = sha512.Sum384(info[:])
}

// normal measures pages with their content. len(data) is a multiple of the page size.
func (d *digest) normal(address uint64, data []byte) {
	for i := 0; i < len(data); i += pageSize {
		d.page(pageNormal, address+uint64(i), sha512.Sum384(data[i:i+pageSize]))
	}
}

// fixed measures pages whose content does not count, because the processor or its firmware fills them.
func (d *digest) fixed(kind byte, address, size uint64) {
	for i := uint64(0); i < size; i += pageSize {
		d.page(kind, address+i, [sha512.Size384]byte{})
	}
}

func (d *digest) saveArea(page [pageSize]byte) {
	d.page(pageSaveArea, saveAreaAddress, sha512.Sum384(page[:]))
}

// GUIDs of the table of hashes that QEMU puts into the guest and the firmware checks the artifacts with (QEMU
// target/i386/sev.c; edk2 OvmfPkg/AmdSev/BlobVerifierLibSevHashes).
const (
	guidHashTable    = "9438d606-4f22-4cc9-b479-a793d411fd21"
	guidHashCmdline  = "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"
	guidHashInitrd   = "44baf731-3a2f-4bd7-9af1-41e29169781d"
	guidHashKernel   = "4de79437-abd2-427f-b835-d5b172d2045b"
	hashEntryLen     = guidLen + 2 + sha256.Size
	hashTableLen     = guidLen + 2 + 3*hashEntryLen
	hashTableAligned = (hashTableLen + 15) &^ 15
)

// hashesPage returns the page with the table of hashes at the place that the firmware reserves for it.
func (s SNP) hashesPage(fw *firmware) ([]byte, error) {
	offset := fw.hashTable.address % pageSize
	if fw.hashTable.size < hashTableAligned {
		return nil, fmt.Errorf("measure the kernel hashes: the firmware has %d bytes for them, they need %d",
			fw.hashTable.size, hashTableAligned)
	}
	page := make([]byte, pageSize)
	table := appendGUID(page[offset:offset], guidHashTable)
	table = binary.LittleEndian.AppendUint16(table, hashTableLen)
	for _, e := range []struct {
		guid string
		hash [sha256.Size]byte
	}{
		{guidHashCmdline, sha256.Sum256(append([]byte(s.Cmdline), 0))}, // QEMU hashes the terminating zero byte, too
		{guidHashInitrd, sha256.Sum256(s.Initrd)},
		{guidHashKernel, sha256.Sum256(s.Kernel)},
	} {
		table = appendGUID(table, e.guid)
		table = binary.LittleEndian.AppendUint16(table, hashEntryLen)
		table = append(table, e.hash[:]...)
	}
	return page, nil
}
