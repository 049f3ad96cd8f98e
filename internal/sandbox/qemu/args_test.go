// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func plain() Machine {
	return Machine{
		Name: "nacre-pod", Accel: TCG, VCPUs: 2, MemoryMiB: 512,
		Kernel: 3, Initrd: 4, Cmdline: "console=ttyS0 quiet, with=a,comma",
		Drives:  []Drive{{Serial: "nacre-root", File: 5}, {Serial: "nacre-initdata", File: 6}},
		Ports:   []Port{{Name: "org.nacre.agent.0", Socket: 7}, {Name: "org.nacre.simtee.0", Socket: 8}},
		Console: 9, Control: 10, Network: true,
	}
}

func hardware(p Platform) Machine {
	m := plain()
	m.Platform, m.Accel, m.KVMDevice, m.Firmware = p, KVM, 11, 12
	m.Ports = m.Ports[:1]
	switch p {
	case SNP:
		m.SNP = &SNPGuest{HostData: [32]byte{0xde, 0xad}}
	case TDX:
		m.TDX = &TDXGuest{MRConfigID: [48]byte{0xde, 0xad}}
	}
	return m
}

// TestGolden shows the whole line of each platform. What changes here changes what is started: read the diff.
func TestGolden(t *testing.T) {
	kvm := plain()
	kvm.Accel, kvm.KVMDevice = KVM, 11
	for name, m := range map[string]Machine{
		"plain-tcg": plain(), "plain-kvm": kvm, "snp": hardware(SNP), "tdx": hardware(TDX),
	} {
		t.Run(name, func(t *testing.T) {
			args, err := m.Args()
			if err != nil {
				t.Fatal(err)
			}
			again, err := m.Args()
			if err != nil || strings.Join(again, "\n") != strings.Join(args, "\n") {
				t.Fatalf("the same machine gave two lines (%v)", err)
			}
			got := strings.Join(args, "\n") + "\n"
			file := filepath.Join("testdata", name+".args")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Machine)
		want   string
	}{
		"zero":              {func(m *Machine) { *m = Machine{} }, "name"},
		"name with option":  {func(m *Machine) { m.Name = "a,process=b" }, "name"},
		"no vCPU":           {func(m *Machine) { m.VCPUs = 0 }, "vCPUs"},
		"too little memory": {func(m *Machine) { m.MemoryMiB = 1 }, "memory"},
		"too much memory":   {func(m *Machine) { m.MemoryMiB = 1 << 30 }, "memory"},
		"no kernel":         {func(m *Machine) { m.Kernel = 0 }, "kernel"},
		"NUL in cmdline":    {func(m *Machine) { m.Cmdline = "a\x00b" }, "NUL"},
		"endless cmdline":   {func(m *Machine) { m.Cmdline = strings.Repeat("a", 2048) }, "2048 bytes"},
		"unknown accel":     {func(m *Machine) { m.Accel = "hvf" }, "accelerator"},
		"no accel":          {func(m *Machine) { m.Accel = "" }, "accelerator"},
		"kvm unopened":      {func(m *Machine) { m.Accel = KVM }, "KVM"},
		"unknown platform":  {func(m *Machine) { m.Platform = "sgx" }, "platform"},
		"snp unbound":       {func(m *Machine) { *m = hardware(SNP); m.SNP = nil }, "do not go together"},
		"plain with snp":    {func(m *Machine) { m.SNP = &SNPGuest{} }, "do not go together"},
		"snp by TCG":        {func(m *Machine) { *m = hardware(SNP); m.Accel, m.KVMDevice = TCG, 0 }, "needs KVM"},
		"snp on SeaBIOS":    {func(m *Machine) { *m = hardware(SNP); m.Firmware = 0 }, "firmware"},
		"serial injection":  {func(m *Machine) { m.Drives[0].Serial = "a,write-cache=on" }, "serial"},
		"serial too long":   {func(m *Machine) { m.Drives[0].Serial = strings.Repeat("a", 21) }, "serial"},
		"serial twice":      {func(m *Machine) { m.Drives[1].Serial = m.Drives[0].Serial }, "serial"},
		"port injection":    {func(m *Machine) { m.Ports[0].Name = "a,id=x" }, "port name"},
		"port twice":        {func(m *Machine) { m.Ports[1].Name = m.Ports[0].Name }, "port name"},
		"port without fd":   {func(m *Machine) { m.Ports[0].Socket = 0 }, "standard stream"},
		"drive is stdout":   {func(m *Machine) { m.Drives[0].File = 1 }, "standard stream"},
		"descriptor twice":  {func(m *Machine) { m.Console = m.Control }, "already used"},
	} {
		t.Run(name, func(t *testing.T) {
			m := plain()
			c.change(&m)
			args, err := m.Args()
			if err == nil {
				t.Fatalf("accepted: %q", args)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not mention %q", err, c.want)
			}
		})
	}
}
