// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

// object makes an ELF file that has nothing but a .modinfo section.
func object(modinfo string) []byte {
	const headerSize, sectionSize = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	data := modinfo + names
	var b bytes.Buffer
	write := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	write(elf.Header64{
		Ident: [16]byte{
			0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT),
		},
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: headerSize,
		Shoff: uint64(headerSize + len(data)), Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	})
	b.WriteString(data)
	write(elf.Section64{})
	write(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headerSize, Size: uint64(len(modinfo))})
	write(elf.Section64{
		Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(headerSize + len(modinfo)), Size: uint64(len(names)),
	})
	return b.Bytes()
}

func module(depends string) []byte {
	return object("license=GPL\x00depends=" + depends + "\x00name=x\x00")
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(modules []Module) string {
	var list []string
	for _, m := range modules {
		list = append(list, m.Name)
	}
	return strings.Join(list, " ")
}

func TestClosure(t *testing.T) {
	tree := NewTree([]byte("kernel/lib/crc.ko\nkernel/drivers/virtio/virtio-pci.ko\n"))
	tree.Add("kernel/a/dm-verity.ko.xz", compressed(t, module("dm-mod,dm-bufio,crc")))
	tree.Add("kernel/a/dm-bufio.ko", module("dm-mod"))
	tree.Add("kernel/a/dm-mod.ko", module(""))
	tree.Add("kernel/a/alone.ko", module(""))
	tree.Add("kernel/modules.order", nil)
	if tree.Len() != 4 {
		t.Errorf("the tree has %d modules, want 4", tree.Len())
	}
	got, err := tree.Closure([]string{"dm_verity", "virtio_pci", "alone", "dm-mod"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "dm_mod dm_bufio dm_verity alone"; names(got) != want {
		t.Errorf("order %q, want %q", names(got), want)
	}
	if !bytes.Equal(got[2].Data, module("dm-mod,dm-bufio,crc")) {
		t.Error("the compressed module is not uncompressed")
	}
}

func TestClosureRefuses(t *testing.T) {
	tree := NewTree(nil)
	tree.Add("needs.ko", module("absent"))
	tree.Add("one.ko", module("two"))
	tree.Add("two.ko", module("one"))
	tree.Add("text.ko", []byte("not ELF"))
	tree.Add("packed.ko.xz", []byte("not xz"))
	tree.Add("bare.ko", bytes.Replace(module(""), []byte(".modinfo"), []byte(".comment"), 1))
	for _, name := range []string{"absent", "needs"} {
		if _, err := tree.Closure([]string{name}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	for _, name := range []string{"one", "text", "packed", "bare"} {
		if _, err := tree.Closure([]string{name}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestUnsigned(t *testing.T) {
	body := []byte("the module itself")
	signed := func(length uint32) []byte {
		b := append(bytes.Clone(body), "signature"...)
		b = append(b, make([]byte, signatureInfo-4)...)
		b = binary.BigEndian.AppendUint32(b, length)
		return append(b, signatureMarker...)
	}
	if got := Unsigned(signed(uint32(len("signature")))); !bytes.Equal(got, body) {
		t.Errorf("without signature: %q", got)
	}
	for name, data := range map[string][]byte{
		"no signature": body, "empty": nil, "marker alone": []byte(signatureMarker), "too long": signed(0xffff_ffff),
	} {
		if got := Unsigned(data); !bytes.Equal(got, data) {
			t.Errorf("%s: %q became %q", name, data, got)
		}
	}
}

func FuzzDependencies(f *testing.F) {
	f.Add(module("a,b"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = dependencies(data)
		_ = Unsigned(data)
	})
}
