// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Args returns QEMU's arguments, without the program's name. It fails if the description is incomplete or contradicts itself;
// it never guesses.
func (m Machine) Args() ([]string, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("describing machine %q: %w", m.Name, err)
	}
	var a args
	a.add("-name", m.Name)
	// Nothing that was not asked for: no default devices, no configuration files of the host, no display.
	a.add("-no-user-config", "-nodefaults", "-display", "none", "-vga", "none", "-no-reboot")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	if err := m.boardArgs(&a); err != nil {
		return nil, fmt.Errorf("describing machine %q: %w", m.Name, err)
	}
	m.bootArgs(&a)
	for i, d := range m.Drives {
		a.drive(i, d)
	}
	m.streamArgs(&a)
	if !m.Clock.IsZero() {
		a.add("-rtc", "base="+m.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	if m.Network {
		// IPv6 off: one address family to reason about. No option ROM: nothing boots from the network.
		a.add("-netdev", "user,id=net0,ipv6=off")
		a.device("virtio-net-pci", "netdev=net0", "mac="+MACAddress, "romfile=")
	}
	return a.list, nil
}

func (m Machine) boardArgs(a *args) error {
	// No SMM, no VMware port, no SATA, USB or HPET: less emulated hardware for a guest to attack, and less for it to probe.
	machine := "q35,smm=off,vmport=off,sata=off,usb=off,hpet=off,dump-guest-core=off"
	size := strconv.Itoa(m.MemoryMiB) + "M"
	switch m.Platform {
	case Plain:
		a.add("-machine", machine)
	case SNP:
		a.add("-machine", machine+",kernel_irqchip=split,confidential-guest-support=snp,memory-backend=ram")
		a.add("-object", "memory-backend-memfd,id=ram,size="+size+",share=on")
		a.add("-object", m.SNP.object())
	case TDX:
		a.add("-machine", machine+",kernel_irqchip=split,confidential-guest-support=tdx,memory-backend=ram")
		a.add("-object", "memory-backend-memfd,id=ram,size="+size+",share=on")
		object, err := m.TDX.object()
		if err != nil {
			return err
		}
		a.add("-object", object)
	}
	switch m.Accel {
	case KVM:
		a.add("-accel", "kvm,device="+a.fdset(m.KVMDevice))
	case TCG:
		a.add("-accel", "tcg,thread=multi")
	}
	switch {
	case m.Platform == TDX:
		// TDX virtualises CPUID itself; a named model cannot be promised.
		a.add("-cpu", "host")
	case m.Accel == TCG:
		// check=off: no warning for each feature that the translator lacks.
		a.add("-cpu", MeasuredCPU+",check=off")
	default:
		a.add("-cpu", MeasuredCPU)
	}
	a.add("-smp", strconv.Itoa(m.VCPUs), "-m", size)
	return nil
}

func (m Machine) bootArgs(a *args) {
	if m.Firmware != 0 {
		a.add("-bios", path(m.Firmware))
	}
	a.add("-kernel", path(m.Kernel))
	if m.Initrd != 0 {
		a.add("-initrd", path(m.Initrd))
	}
	a.add("-append", m.Cmdline)
}

func (m Machine) streamArgs(a *args) {
	if m.Control != 0 {
		a.socket("control", m.Control)
		a.add("-mon", "chardev=control,mode=control")
	}
	if m.Console != 0 {
		a.socket("console", m.Console)
		a.add("-serial", "chardev:console")
	}
	if len(m.Ports) == 0 {
		return
	}
	a.device("virtio-serial-pci", "id=serial", "max_ports="+strconv.Itoa(len(m.Ports)+1))
	for i, p := range m.Ports {
		id := "port" + strconv.Itoa(i+1)
		a.socket(id, p.Socket)
		// Port 0 is reserved for a console; numbers are given so that they do not depend on the order of options.
		a.add("-device", fmt.Sprintf("virtserialport,bus=serial.0,nr=%d,chardev=%s,name=%s", i+1, id, p.Name))
	}
}

// object is what makes a guest an SNP guest. kernel-hashes puts the hashes of kernel, initrd and command line into a measured
// page; without it they would not be measured at all.
func (g *SNPGuest) object() string {
	policy, cbit := g.Policy, g.CBitPosition
	if policy == 0 {
		policy = DefaultSNPPolicy
	}
	if cbit == 0 {
		cbit = defaultCBitPosition
	}
	return fmt.Sprintf("sev-snp-guest,id=snp,cbitpos=%d,reduced-phys-bits=1,kernel-hashes=on,policy=%#x,host-data=%s",
		cbit, policy, base64.StdEncoding.EncodeToString(g.HostData[:]))
}

// object is JSON because the quote socket is a nested value, which QEMU's comma syntax cannot express for this object.
func (g *TDXGuest) object() (string, error) {
	socket := g.QuoteSocket
	if socket == "" {
		socket = defaultQuoteSocket
	}
	type address struct {
		Type string `json:"type"`
		Path string `json:"path"`
	}
	text, err := json.Marshal(struct {
		QOMType    string  `json:"qom-type"`
		ID         string  `json:"id"`
		SeptVE     bool    `json:"sept-ve-disable"`
		MRConfigID string  `json:"mrconfigid"`
		Quote      address `json:"quote-generation-socket"`
	}{
		QOMType: "tdx-guest", ID: "tdx",
		// The guest kernel refuses to run when a page that it accepted can fault to the host's liking.
		SeptVE:     true,
		MRConfigID: base64.StdEncoding.EncodeToString(g.MRConfigID[:]),
		Quote:      address{Type: "unix", Path: socket},
	})
	if err != nil {
		return "", fmt.Errorf("composing the TDX object: %w", err)
	}
	return string(text), nil
}

// args collects the list. Descriptor sets are numbered in the order of their first use.
type args struct {
	list []string
	sets int
}

func (a *args) add(s ...string) { a.list = append(a.list, s...) }

// fdset announces a descriptor that QEMU opens by duplicating it, and returns its name.
func (a *args) fdset(fd FD) string {
	a.sets++
	a.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, a.sets))
	return "/dev/fdset/" + strconv.Itoa(a.sets)
}

func (a *args) socket(id string, fd FD) {
	a.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, fd))
}

func (a *args) drive(index int, d Drive) {
	id := "drive" + strconv.Itoa(index)
	name := a.fdset(d.File)
	// Opened for reading only on the host, so that even a QEMU taken over cannot write; the image lock is pointless then.
	a.add("-blockdev", fmt.Sprintf("driver=raw,node-name=%s,read-only=on,file.driver=file,file.filename=%s,"+
		"file.read-only=on,file.locking=off", id, name))
	a.device("virtio-blk-pci", "drive="+id, "serial="+d.Serial)
}

// device adds a virtio PCI device in the form that a confidential guest needs: modern only, and all memory that the device
// touches goes through the DMA API (a confidential guest shares only its bounce buffers). Plain guests get the same devices,
// so that what is developed against is what runs on hardware.
func (a *args) device(driver string, properties ...string) {
	properties = append([]string{driver}, properties...)
	properties = append(properties, "disable-legacy=on", "iommu_platform=on")
	a.add("-device", strings.Join(properties, ","))
}

// path names a descriptor for the loaders, which open by name only. It must be something that may be opened again, such as a
// sealed memory file; opening gives a file offset of its own.
func path(fd FD) string { return "/dev/fd/" + strconv.Itoa(int(fd)) }

func (m Machine) validate() error {
	switch {
	case !only(m.Name, "-.") || m.Name == "":
		return errors.New("its name must be made of letters, digits, '-' and '.'")
	case m.VCPUs < 1 || m.VCPUs > maxVCPUs:
		return fmt.Errorf("%d vCPUs: must be 1 to %d", m.VCPUs, maxVCPUs)
	case m.MemoryMiB < minMemoryMiB || m.MemoryMiB > maxMemoryMiB:
		return fmt.Errorf("%d MiB of memory: must be %d to %d", m.MemoryMiB, minMemoryMiB, maxMemoryMiB)
	case m.Kernel == 0:
		return errors.New("no kernel")
	case strings.ContainsRune(m.Cmdline, 0):
		return errors.New("the kernel command line contains a NUL")
	case len(m.Cmdline) > maxCmdline:
		return fmt.Errorf("the kernel command line has %d bytes; the kernel reads %d", len(m.Cmdline), maxCmdline)
	}
	if err := m.validatePlatform(); err != nil {
		return err
	}
	if err := m.validateDevices(); err != nil {
		return err
	}
	return m.validateFDs()
}

func (m Machine) validatePlatform() error {
	switch m.Accel {
	case TCG:
		if m.KVMDevice != 0 {
			return errors.New("a KVM device without KVM")
		}
	case KVM:
		if m.KVMDevice == 0 {
			return errors.New("KVM without an open KVM device")
		}
	default:
		return fmt.Errorf("unknown accelerator %q", m.Accel)
	}
	switch m.Platform {
	case Plain, SNP, TDX:
	default:
		return fmt.Errorf("unknown platform %q", m.Platform)
	}
	if (m.Platform == SNP) != (m.SNP != nil) || (m.Platform == TDX) != (m.TDX != nil) {
		return fmt.Errorf("platform %q and what is to be bound for it do not go together", m.Platform)
	}
	if m.Platform == Plain {
		return nil
	}
	if m.Accel != KVM {
		return fmt.Errorf("platform %s needs KVM", m.Platform)
	}
	if m.Firmware == 0 {
		return fmt.Errorf("platform %s needs its own firmware: what QEMU has built in is not measured", m.Platform)
	}
	return nil
}

func (m Machine) validateDevices() error {
	serials := map[string]bool{}
	for _, d := range m.Drives {
		if d.Serial == "" || len(d.Serial) > 20 || !only(d.Serial, "-") || serials[d.Serial] {
			return fmt.Errorf("drive serial %q: must be 1 to 20 letters, digits or '-', and the only one of its name", d.Serial)
		}
		serials[d.Serial] = true
	}
	names := map[string]bool{}
	for _, p := range m.Ports {
		if p.Name == "" || !only(p.Name, ".") || names[p.Name] {
			return fmt.Errorf("port name %q: must be letters, digits and '.', and the only one of its name", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// validateFDs makes sure that no descriptor is one of the standard streams or used twice.
func (m Machine) validateFDs() error {
	used := map[FD]string{}
	use := func(what string, fd FD, must bool) error {
		if fd == 0 && !must {
			return nil
		}
		if fd <= 2 {
			return fmt.Errorf("%s: file descriptor %d is a standard stream", what, fd)
		}
		if other, twice := used[fd]; twice {
			return fmt.Errorf("%s: file descriptor %d is already used for %s", what, fd, other)
		}
		used[fd] = what
		return nil
	}
	errs := []error{
		use("kernel", m.Kernel, true),
		use("initrd", m.Initrd, false),
		use("firmware", m.Firmware, false),
		use("console", m.Console, false),
		use("control", m.Control, false),
		use("kvm device", m.KVMDevice, false),
	}
	for _, d := range m.Drives {
		errs = append(errs, use("drive "+d.Serial, d.File, true))
	}
	for _, p := range m.Ports {
		errs = append(errs, use("port "+p.Name, p.Socket, true))
	}
	return errors.Join(errs...)
}

// only says whether s consists of ASCII letters, digits and the characters in extra.
func only(s, extra string) bool {
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(extra, r) {
			return false
		}
	}
	return true
}
