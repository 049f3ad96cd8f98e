// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/attest/measure"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
)

// What is measured must be what QEMU gets. So this test takes QEMU's argument list, reads what the descriptors in it really are, and
// measures that.
func TestMeasuredIsWhatQEMUGets(t *testing.T) {
	dir := os.Getenv("NACRE_IMAGE_DIR")
	if dir == "" {
		t.Skip("NACRE_IMAGE_DIR names no guest image; `make test` builds one and sets it")
	}
	image, err := guestos.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	platform, err := signer.Open(t.TempDir() + "/simtee")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Image: image, Platform: platform, VCPUs: 3, Tamper: Tamper{ExtraCmdline: "with=a,comma and blanks"}}
	if err := cfg.fill(); err != nil {
		t.Fatal(err)
	}
	vm := &VM{accel: qemu.TCG}
	b, err := vm.prepare(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	defer b.closeStreams()
	args, err := b.machine.Args()
	if err != nil {
		t.Fatal(err)
	}

	argument := func(option string) string {
		for i, a := range args[:len(args)-1] {
			if a == option {
				return args[i+1]
			}
		}
		t.Fatalf("no %s in %q", option, args)
		return ""
	}
	content := func(option string) []byte {
		number, ok := strings.CutPrefix(argument(option), "/dev/fd/")
		fd, err := strconv.Atoi(number)
		if !ok || err != nil {
			t.Fatalf("%s is %q", option, argument(option))
		}
		// As QEMU does: by name, anew.
		f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", b.files.At(qemu.FD(fd)).Fd()))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	firmware, err := os.ReadFile(image.Firmware)
	if err != nil {
		t.Fatal(err)
	}
	vcpus, err := strconv.Atoi(argument("-smp"))
	if err != nil {
		t.Fatal(err)
	}
	model, _, _ := strings.Cut(argument("-cpu"), ",")
	got, err := measure.SNP{
		Firmware: firmware, Kernel: content("-kernel"), Initrd: content("-initrd"), Cmdline: argument("-append"),
		VCPUs: vcpus, CPUModel: model,
	}.LaunchDigest()
	if err != nil {
		t.Fatal(err)
	}
	if got != vm.launch.Measurement {
		t.Errorf("the argument list measures as %x, the launch says %x", got, vm.launch.Measurement)
	}
	// The command line was tampered with, so this is not what an owner registered.
	honest, err := Predict(image, cfg.VCPUs, nil)
	if err != nil {
		t.Fatal(err)
	}
	if honest.Measurement == got {
		t.Error("another command line measures as the honest one")
	}
}
