// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/sandbox/accel"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
	"github.com/nacre-project/nacre/internal/sandbox/vmm"
)

// boot is what is open while a machine is being started.
type boot struct {
	files   vmm.Files
	machine qemu.Machine
	closers []io.Closer
	// The host's ends of the machine's streams.
	console, agent, simtee net.Conn
}

// prepare opens and measures everything and describes the machine.
func (vm *VM) prepare(cfg *Config) (b *boot, err error) {
	b = &boot{}
	defer func() {
		if err != nil {
			b.closeStreams()
			b.close()
		}
	}()
	measured, err := openArtifacts(cfg.Image)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, measured)
	vm.launch, err = measured.launch(simulatedCmdline(cfg.Image, cfg.Tamper), cfg.VCPUs, cfg.InitData)
	if err != nil {
		return nil, err
	}
	vm.processor = cfg.Platform.Launch(signer.Launch{Measurement: vm.launch.Measurement, HostData: vm.launch.HostData})

	// The firmware is measured but not among the machine's files: without a TEE it refuses to load a kernel, so QEMU's
	// built-in one boots.
	b.machine = qemu.Machine{
		Name: "nacre-pod", Accel: vm.accel, VCPUs: cfg.VCPUs, MemoryMiB: cfg.MemoryMiB,
		Kernel: b.files.Lend(measured.kernel.OS()), Initrd: b.files.Lend(measured.initrd.OS()), Cmdline: vm.launch.Cmdline,
		Network: true, Clock: cfg.Tamper.Clock,
	}
	if err := b.accelerate(); err != nil {
		return nil, err
	}
	if err := b.drives(cfg); err != nil {
		return nil, err
	}
	return b, b.streams()
}

// accelerate opens KVM, so that a QEMU without rights of its own can use it.
func (b *boot) accelerate() error {
	if b.machine.Accel != qemu.KVM {
		return nil
	}
	kvm, err := os.OpenFile(accel.Device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening KVM: %w", err)
	}
	b.closers = append(b.closers, kvm)
	b.machine.KVMDevice = b.files.Lend(kvm)
	return nil
}

// drives opens the root image, which needs no freezing because its hash is on the measured command line, and makes the
// init-data disk.
func (b *boot) drives(cfg *Config) error {
	path := cfg.Image.Rootfs
	if cfg.Tamper.Rootfs != "" {
		path = cfg.Tamper.Rootfs
	}
	root, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the root image: %w", err)
	}
	b.closers = append(b.closers, root)
	b.machine.Drives = append(b.machine.Drives, qemu.Drive{Serial: rootSerial, File: b.files.Lend(root)})

	content := cfg.InitData
	if cfg.Tamper.InitDataOnDevice != nil {
		content = cfg.Tamper.InitDataOnDevice
	}
	if content == nil || cfg.Tamper.WithholdInitData {
		return nil
	}
	disk, err := initDataDisk(content)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, disk)
	b.machine.Drives = append(b.machine.Drives, qemu.Drive{Serial: initDataSerial, File: b.files.Lend(disk.OS())})
	return nil
}

// streams connects console, agent and simulated processor.
func (b *boot) streams() (err error) {
	if b.console, b.machine.Console, err = b.files.Pipe("console"); err != nil {
		return err
	}
	var fd qemu.FD
	if b.agent, fd, err = b.files.Pipe("agent"); err != nil {
		return err
	}
	b.machine.Ports = append(b.machine.Ports, qemu.Port{Name: agentPort, Socket: fd})
	if b.simtee, fd, err = b.files.Pipe("simulated processor"); err != nil {
		return err
	}
	b.machine.Ports = append(b.machine.Ports, qemu.Port{Name: simteePort, Socket: fd})
	return nil
}

// close gives up what only the start needed.
func (b *boot) close() {
	b.files.Close()
	for _, c := range b.closers {
		c.Close()
	}
}

// closeStreams cuts the host's ends.
func (b *boot) closeStreams() {
	for _, c := range []net.Conn{b.console, b.agent, b.simtee} {
		if c != nil {
			c.Close()
		}
	}
}
