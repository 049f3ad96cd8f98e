// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/nacre-project/nacre/attest/measure"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/sandbox/frozen"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
)

// Caps on what is read into memory for a boot, in bytes: several times what an image needs.
const (
	maxKernel   = 64 << 20
	maxInitrd   = 512 << 20
	maxFirmware = 16 << 20
	maxDevice   = 64 << 20
)

// Launch is what a guest's platform reports about its start, and what an owner therefore registers beforehand.
type Launch struct {
	// Measurement is the SEV-SNP launch digest (SHA-384).
	Measurement [48]byte
	// HostData is the init-data digest, cut or zero-padded to 32 bytes; zero without init-data.
	HostData [32]byte
	// Cmdline is the kernel command line that is measured.
	Cmdline string
	// VCPUs is the number of virtual processors; each has a measured start state.
	VCPUs int
}

// Predict computes from an image what a guest will report, without starting one. vcpus 0 means DefaultVCPUs.
func Predict(image *guestos.Image, vcpus int, initData []byte) (Launch, error) {
	if vcpus == 0 {
		vcpus = DefaultVCPUs
	}
	a, err := openArtifacts(image)
	if err != nil {
		return Launch{}, err
	}
	defer func() { _ = a.Close() }()
	return a.launch(simulatedCmdline(image, Tamper{}), vcpus, initData)
}

func simulatedCmdline(image *guestos.Image, tamper Tamper) string {
	cmdline := image.Cmdline(guestos.Cmdline{TEE: guestos.SimulatedSNP})
	if tamper.ExtraCmdline != "" {
		cmdline += " " + tamper.ExtraCmdline
	}
	return cmdline
}

// artifacts are the measured files of one boot, frozen: what is hashed is what QEMU gets.
type artifacts struct {
	firmware, kernel, initrd *frozen.File
}

func openArtifacts(image *guestos.Image) (a *artifacts, err error) {
	a = &artifacts{}
	defer func() {
		if err != nil {
			_ = a.Close()
		}
	}()
	if a.firmware, err = frozen.Open(image.Firmware, maxFirmware); err != nil {
		return nil, err
	}
	if a.kernel, err = frozen.Open(image.Kernel, maxKernel); err != nil {
		return nil, err
	}
	if a.initrd, err = frozen.Open(image.Initrd, maxInitrd); err != nil {
		return nil, err
	}
	return a, nil
}

// Close implements io.Closer.
func (a *artifacts) Close() error {
	var errs []error
	for _, f := range []*frozen.File{a.firmware, a.kernel, a.initrd} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (a *artifacts) launch(cmdline string, vcpus int, initData []byte) (Launch, error) {
	l := Launch{Cmdline: cmdline, VCPUs: vcpus}
	var err error
	l.Measurement, err = measure.SNP{
		Firmware: a.firmware.Bytes(), Kernel: a.kernel.Bytes(), Initrd: a.initrd.Bytes(), Cmdline: cmdline,
		VCPUs: vcpus, CPUModel: qemu.MeasuredCPU,
	}.LaunchDigest()
	if err != nil {
		return Launch{}, fmt.Errorf("measuring what boots: %w", err)
	}
	if initData != nil {
		digest, err := initdata.Digest(initData)
		if err != nil {
			return Launch{}, fmt.Errorf("binding init-data to the launch: %w", err)
		}
		copy(l.HostData[:], digest)
	}
	return l, nil
}

// initDataDisk is the disk that carries init-data into the guest.
func initDataDisk(initData []byte) (*frozen.File, error) {
	content, err := initdata.EncodeDevice(initData)
	if err != nil {
		return nil, err
	}
	return frozen.New("init-data", bytes.NewReader(content), maxDevice)
}
