// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The vectors are those that virtee/sev-snp-measure publishes (version 0.0.13, tests/test_guest.py, QEMU ones). Its
// fixtures are the last page of two OVMF builds. What the digest depends on is given here: the digest after that page,
// and the metadata in it.
const (
	// The digest after the page of the AmdSev build is published; that of the OvmfX64 build was computed from it.
	afterAmdSev  = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"
	afterOvmfX64 = "b91e6fec73d2bcc57ad5fd400a426ce02731c22ea92bc894ce675e7c9921a822977d6cf025b85f8ef4f264bff8839d20"
)

func amdSev() imageSpec {
	return imageSpec{
		reset: 0x80b004, hashTable: area{0x810c00, 0x400},
		sections: []section{
			{area{0x800000, 0x9000}, sectionMemory},
			{area{0x80a000, 0x3000}, sectionMemory},
			{area{0x80d000, 0x1000}, sectionSecrets},
			{area{0x80e000, 0x1000}, sectionCPUID},
			{area{0x80f000, 0x1000}, sectionSVSMCallingArea},
			{area{0x810000, 0x1000}, sectionKernelHashes},
			{area{0x811000, 0xf000}, sectionMemory},
		},
	}
}

func ovmfX64() *firmware {
	return &firmware{size: pageSize, apReset: 0x80b004, sections: []section{
		{area{0x800000, 0x9000}, sectionMemory},
		{area{0x80a000, 0x3000}, sectionMemory},
		{area{0x80d000, 0x1000}, sectionSecrets},
		{area{0x80e000, 0x1000}, sectionCPUID},
		{area{0x80f000, 0x1000}, sectionSVSMCallingArea},
		{area{0x810000, 0x10000}, sectionMemory},
	}}
}

func TestPublishedVectors(t *testing.T) {
	amd, err := parseFirmware(amdSev().image())
	if err != nil {
		t.Fatal(err)
	}
	const fromHashGen = "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5"
	for _, tt := range []struct {
		name     string
		firmware *firmware
		after    string
		kernel   bool // /dev/null as kernel and initrd
		cmdline  string
		vcpus    int
		features uint64
		want     string
	}{
		{"ovmf_hash_gen_default", amd, afterAmdSev, true, "", 1, 0x21,
			"329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198"},
		{"ovmf_hash_gen_feature_snp_only", amd, afterAmdSev, true, "", 1, 0x1, fromHashGen},
		{"features default to SNP only", amd, afterAmdSev, true, "", 1, 0, fromHashGen},
		{"snp_default", amd, afterAmdSev, true, "console=ttyS0 loglevel=7", 1, 0x21,
			"803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977"},
		{"snp_guest_feature_snp_only", amd, afterAmdSev, true, "console=ttyS0 loglevel=7", 1, 0x1,
			"6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"},
		{"snp_without_kernel_default", amd, afterAmdSev, false, "", 1, 0x21,
			"e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b"},
		{"snp_without_kernel_feature_snp_only", amd, afterAmdSev, false, "", 1, 0x1,
			"19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d"},
		{"snp_with_multiple_vcpus_default", amd, afterAmdSev, true, "", 4, 0x21,
			"4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942"},
		{"snp_with_multiple_vcpus_feature_snp_only", amd, afterAmdSev, true, "", 4, 0x1,
			"5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a92441310ba6c4933de877c36e23046ad5"},
		{"snp_with_ovmfx64_without_default", ovmfX64(), afterOvmfX64, false, "", 1, 0x21,
			"28797ae0afaba4005a81e629acebfb59e6687949d6be44007cd5506823b0dd66f146aaae26ff291eed7b493d8a64c385"},
		{"snp_with_ovmfx64_without_kernel_feature_snp_only", ovmfX64(), afterOvmfX64, false, "", 1, 0x1,
			"da0296de8193586a5512078dcd719eccecbd87e2b825ad4148c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := SNP{Cmdline: tt.cmdline, VCPUs: tt.vcpus, CPUModel: "EPYC-v4", GuestFeatures: tt.features}
			var hashes []byte
			if tt.kernel {
				var err error
				if hashes, err = s.hashesPage(tt.firmware); err != nil {
					t.Fatal(err)
				}
			}
			var d digest
			hexCopy(t, d.value[:], tt.after)
			got, err := s.continueFrom(d, tt.firmware, hashes)
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(got[:]) != tt.want {
				t.Errorf("launch digest %x, want %s", got, tt.want)
			}
		})
	}
}

// Everything that a guest is started with is in the digest: each deviation gives another one.
func TestEveryInputCounts(t *testing.T) {
	base := func() SNP {
		return SNP{
			Firmware: amdSev().image(), Kernel: []byte("kernel"), Initrd: []byte("initrd"), Cmdline: "quiet",
			VCPUs: 2, CPUModel: "EPYC-v4",
		}
	}
	seen := make(map[[48]byte]string)
	for name, change := range map[string]func(*SNP){
		"nothing":          func(*SNP) {},
		"firmware":         func(s *SNP) { s.Firmware[0] ^= 1 },
		"kernel":           func(s *SNP) { s.Kernel = []byte("kernel2") },
		"initrd":           func(s *SNP) { s.Initrd = nil },
		"command line":     func(s *SNP) { s.Cmdline += " init=/bin/sh" },
		"processors":       func(s *SNP) { s.VCPUs = 1 },
		"processor model":  func(s *SNP) { s.CPUModel = "EPYC-Genoa" },
		"guest features":   func(s *SNP) { s.GuestFeatures = 0x21 },
		"reset address":    changed(func(i *imageSpec) { i.reset++ }),
		"order of regions": changed(func(i *imageSpec) { slices.Reverse(i.sections) }),
	} {
		s := base()
		change(&s)
		got, err := s.LaunchDigest()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("changing %q gives the same digest as changing %q", name, other)
		}
		seen[got] = name
	}
}

// changed returns a change of the firmware alone.
func changed(change func(*imageSpec)) func(*SNP) {
	return func(s *SNP) {
		spec := amdSev()
		change(&spec)
		s.Firmware = spec.image()
	}
}

func TestLaunchDigestRefuses(t *testing.T) {
	good := SNP{Firmware: amdSev().image(), Kernel: []byte("k"), VCPUs: 1, CPUModel: "EPYC-v4"}
	for name, tt := range map[string]struct {
		change func(*SNP)
		want   string
	}{
		"no kernel":         {func(s *SNP) { s.Kernel = nil }, "without a kernel"},
		"no processor":      {func(s *SNP) { s.VCPUs = 0 }, "0 virtual processors"},
		"many processors":   {func(s *SNP) { s.VCPUs = MaxVCPUs + 1 }, "virtual processors"},
		"unknown model":     {func(s *SNP) { s.CPUModel = "host" }, `"host"`},
		"zero byte":         {func(s *SNP) { s.Cmdline = "a\x00b" }, "zero byte"},
		"no firmware":       {func(s *SNP) { s.Firmware = nil }, "0 bytes"},
		"no hash table":     {changed(func(i *imageSpec) { i.hashTable = area{} }), "no SEV hash table"},
		"small hash table":  {changed(func(i *imageSpec) { i.hashTable.size = 64 }), "64 bytes"},
		"no hash page":      {changed(func(i *imageSpec) { i.sections = i.sections[:5] }), "no SEV hash table"},
		"trailing firmware": {func(s *SNP) { s.Firmware = append(s.Firmware, 0) }, "full pages"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			tt.change(&s)
			if _, err := s.LaunchDigest(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("LaunchDigest: %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := (SNP{Firmware: make([]byte, pageSize)}).LaunchDigest(); !errors.Is(err, ErrFirmware) {
		t.Errorf("firmware of zeros: %v, want ErrFirmware", err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	fw := amdSev().image()
	files := SNPFiles{
		Firmware: write("fw", string(fw)), Kernel: write("kernel", "k"), Initrd: write("initrd", "i"),
		Cmdline: "quiet", VCPUs: 2, CPUModel: "EPYC-v4",
	}
	read, err := files.Read()
	if err != nil {
		t.Fatal(err)
	}
	got, err := read.LaunchDigest()
	if err != nil {
		t.Fatal(err)
	}
	want, err := SNP{
		Firmware: fw, Kernel: []byte("k"), Initrd: []byte("i"), Cmdline: "quiet", VCPUs: 2, CPUModel: "EPYC-v4",
	}.LaunchDigest()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("from files %x, from bytes %x", got, want)
	}
	files.Kernel = filepath.Join(dir, "absent")
	if _, err := files.Read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent kernel: %v", err)
	}
}

func hexCopy(t *testing.T, to []byte, s string) {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || copy(to, b) != len(to) {
		t.Fatalf("%q is not %d bytes in hexadecimal", s, len(to))
	}
}

func BenchmarkLaunchDigest(b *testing.B) {
	spec := amdSev()
	firmware := append(make([]byte, 4<<20-pageSize), spec.image()...)
	s := SNP{Firmware: firmware, Kernel: make([]byte, 12<<20), Initrd: make([]byte, 2<<20), VCPUs: 2, CPUModel: "EPYC-v4"}
	for b.Loop() {
		if _, err := s.LaunchDigest(); err != nil {
			b.Fatal(err)
		}
	}
}
