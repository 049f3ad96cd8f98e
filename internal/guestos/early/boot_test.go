// SPDX-License-Identifier: Apache-2.0

package early_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/erofs/go-erofs"

	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/guestos/early"
	"github.com/nacre-project/nacre/internal/guestos/verity"
)

// bootTimeout is far more than a boot takes on an emulated and busy processor; a guest that hangs fails the test.
const bootTimeout = 3 * time.Minute

// machine is what the host may choose: the drive and the command line.
type machine struct {
	root    []byte
	serial  string
	cmdline string
}

// The host's attempts at the root image, with real machines. The first is the positive twin of the others: nothing is
// changed but a parameter that only the guest program refuses, so the boot came as far as that.
func TestBoot(t *testing.T) {
	dir := os.Getenv("NACRE_IMAGE_DIR")
	if dir == "" {
		t.Skip("NACRE_IMAGE_DIR names no guest image; `make test` builds one and sets it")
	}
	if testing.Short() {
		t.Skip("boots machines")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	img, err := guestos.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(img.Rootfs)
	if err != nil {
		t.Fatal(err)
	}
	data := int(img.Manifest.Verity.DataBlocks) * verity.BlockSize
	changed := func(offset int) []byte {
		b := bytes.Clone(root)
		b[offset] ^= 1
		return b
	}
	cmdline := img.Cmdline(guestos.Cmdline{})
	parameter := verity.Parameter + "="
	for _, tt := range []struct {
		name    string
		machine machine
		want    string // code of the refusal
	}{
		{"nothing is changed", machine{root, early.DriveName, cmdline + " nacre.unknown=1"}, "cmdline_invalid"},
		{"the file system's first block", machine{changed(1100), early.DriveName, cmdline}, "root_verity"},
		{"the guest program", machine{changed(inGuest(t, root[:data])), early.DriveName, cmdline}, "root_verity"},
		{"the hash tree", machine{changed(data), early.DriveName, cmdline}, "root_verity"},
		{"a shorter drive", machine{root[:data/2], early.DriveName, cmdline}, "root_verity"},
		{"no root hash", machine{root, early.DriveName, strings.Replace(cmdline, parameter, "x=", 1)}, "boot_failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			console := boot(t, qemu, img, tt.machine)
			refused := regexp.MustCompile(`(?m)^nacre: refused code=([a-z_]+) (.*)$`).FindStringSubmatch(console)
			if refused == nil || refused[1] != tt.want {
				t.Errorf("refusal %q, want code %s; the console said:\n%s", refused, tt.want, console)
				return
			}
			t.Log(refused[0])
		})
	}
}

// inGuest returns the offset of a byte in the middle of the guest program.
func inGuest(t *testing.T, data []byte) int {
	t.Helper()
	root, err := erofs.Open(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	program, err := fs.ReadFile(root, "usr/sbin/nacre-guest")
	if err != nil {
		t.Fatal(err)
	}
	middle := program[len(program)/2:]
	at := bytes.Index(data, middle[:4*verity.BlockSize])
	if at < 0 {
		t.Fatal("the guest program is not found in the root image")
	}
	return at
}

// boot runs a machine to its end and returns what it wrote on its console.
func boot(t *testing.T, qemu string, img *guestos.Image, m machine) string {
	t.Helper()
	drive := filepath.Join(t.TempDir(), "root.img")
	if err := os.WriteFile(drive, m.root, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu,
		"-machine", "q35,accel=tcg", "-cpu", "EPYC-v4", "-m", "512", "-smp", "2", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", img.Kernel, "-initrd", img.Initrd, "-append", m.cmdline,
		"-drive", "if=none,id=root,format=raw,readonly=on,file="+drive,
		"-device", "virtio-blk-pci,drive=root,serial="+m.serial,
	)
	cmd.Stderr = io.Discard // warnings about features that the emulated processor does not have
	console, err := cmd.Output()
	if err != nil {
		t.Errorf("the machine did not power off: %v", err)
	}
	return strings.ReplaceAll(string(console), "\r", "")
}
