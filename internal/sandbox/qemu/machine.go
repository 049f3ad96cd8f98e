// SPDX-License-Identifier: Apache-2.0

package qemu

import "time"

// Platform is what protects the guest's memory from the host.
type Platform string

const (
	// Plain protects nothing: an ordinary guest. It carries the simulated secure processor's guests.
	Plain Platform = ""
	// SNP is AMD SEV-SNP. It needs KVM on such a processor and QEMU 9.1 or newer.
	SNP Platform = "snp"
	// TDX is Intel TDX. It needs KVM on such a processor and QEMU 10.1 or newer.
	TDX Platform = "tdx"
)

// Accel is what executes the guest's instructions.
type Accel string

const (
	// TCG is QEMU's own translator: works everywhere, several times slower than hardware.
	TCG Accel = "tcg"
	// KVM is the kernel's hypervisor.
	KVM Accel = "kvm"
)

// MeasuredCPU is the processor model whose reset state the SNP launch measurement covers. The confidential containers
// ecosystem computes its reference values with it, and so do we, whatever executes the guest: under TCG the model's features
// that the translator lacks are left out, which the (then simulated) measurement does not see.
const MeasuredCPU = "EPYC-v4"

// MACAddress is the address of a guest's network link, by which the guest can be told which one is meant. Every guest has a
// network of its own, so that all can have the same.
const MACAddress = "52:54:00:12:34:56"

// FD is a file descriptor as the QEMU process will see it. 0 to 2 are its standard streams, so 0 means "none".
type FD int

// Machine is one virtual machine. The zero value is incomplete and refused by Args.
type Machine struct {
	// Name is shown in process lists; letters, digits, '-' and '.'.
	Name string
	// Platform decides which of SNP and TDX must be set.
	Platform Platform
	Accel    Accel
	// KVMDevice is an open /dev/kvm, so that an unprivileged QEMU needs no right to open it. Only with KVM.
	KVMDevice FD
	VCPUs     int
	// MemoryMiB is the guest's RAM in MiB.
	MemoryMiB int

	// Firmware is what the virtual processor executes first. None means QEMU's built-in SeaBIOS, which only Plain may use.
	Firmware FD
	Kernel   FD
	Initrd   FD
	// Cmdline is the kernel command line, without a trailing NUL.
	Cmdline string

	// Drives are read-only raw disks in the order of their PCI slots.
	Drives []Drive
	// Ports are byte streams between host and guest, in the order of their port numbers from 1.
	Ports []Port
	// Console is a connected stream socket that carries the first serial port (ttyS0).
	Console FD
	// Control is a connected stream socket that speaks QMP.
	Control FD
	// Clock is the time at which the machine's clock starts; zero means the host's.
	Clock time.Time
	// Network attaches a user-mode network: the guest is 10.0.2.15/24, the gateway 10.0.2.2 is the host's loopback.
	Network bool

	SNP *SNPGuest
	TDX *TDXGuest
}

// Drive is a read-only virtio-blk disk with the bytes of a file as its sectors.
type Drive struct {
	// Serial is what the guest finds the drive by: 1 to 20 of a-z, 0-9 and '-' (20 is virtio-blk's limit).
	Serial string
	// File holds the content; its size must be a multiple of 512.
	File FD
}

// Port is a virtio-serial port.
type Port struct {
	// Name is what the guest finds the port by, e.g. "org.nacre.agent.0": a-z, 0-9 and '.'.
	Name string
	// Socket is the host's end: a connected stream socket.
	Socket FD
}

// SNPGuest is what an SEV-SNP launch binds beside the measured pages.
type SNPGuest struct {
	// Policy is the guest policy (SEV-SNP firmware ABI, table "Guest Policy"); 0 means 0x30000: SMT allowed, debug refused.
	Policy uint64
	// HostData is reported as HOST_DATA: the init-data digest, or zero.
	HostData [32]byte
	// CBitPosition is the page-table bit that marks encrypted pages. 0 means 51, true of every processor with SNP.
	CBitPosition int
}

// TDXGuest is what a TDX launch binds beside the measured pages.
type TDXGuest struct {
	// MRConfigID is reported as MRCONFIGID: the init-data digest padded with zeros, or zero.
	MRConfigID [48]byte
	// QuoteSocket is the path of the quote generation service; empty means /var/run/tdx-qgs/qgs.socket.
	QuoteSocket string
}

// DefaultSNPPolicy allows SMT, sets the bit that must be one, and refuses debugging and migration.
const DefaultSNPPolicy = 0x30000

const (
	defaultCBitPosition = 51
	defaultQuoteSocket  = "/var/run/tdx-qgs/qgs.socket"
	// maxCmdline is COMMAND_LINE_SIZE of x86 Linux, less its NUL: what is longer would be cut silently by the guest.
	maxCmdline = 2047
	maxVCPUs   = 255
	// maxMemoryMiB is one TiB, more than any pod; it keeps an absurd request from becoming an absurd error.
	maxMemoryMiB = 1 << 20
	// minMemoryMiB is the least in which kernel, initramfs and guest start.
	minMemoryMiB = 128
)
