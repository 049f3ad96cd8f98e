// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package accel finds out what can execute a guest on this machine: KVM, or only QEMU's translator.
//
// That /dev/kvm can be opened says little: on some machines (nested virtualisation above all) it opens, small test programs
// run, and every real kernel dies early. So the question is put for real: a kernel is booted until it looks for its root file
// system. The answer is remembered until the machine, the kernel or QEMU changes.
//
// The result decides about speed only, never about trust.
package accel

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/sandbox/frozen"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
	"github.com/nacre-project/nacre/internal/sandbox/vmm"
)

// Device is the kernel's hypervisor.
const Device = "/dev/kvm"

// probeTime is how long the kernel may take. With working KVM it needs about a second.
const probeTime = 15 * time.Second

// What a kernel says that was started without a root file system, once everything else works.
const reached = "VFS: Unable to mount root fs"

const maxKernel = 64 << 20

// Prober asks the question.
type Prober struct {
	// QEMU is the program; empty means vmm.Binary.
	QEMU string
	// Kernel is the path of the kernel that is to run; the guest image's.
	Kernel string
	// CacheDir keeps answers; empty means that nothing is kept.
	CacheDir string
	Log      *slog.Logger
}

// Answer is what can execute a guest, and why.
type Answer struct {
	Accel  qemu.Accel `json:"accel"`
	Reason string     `json:"reason"` // one sentence for people
	// Until is when the answer is to be asked for again; zero means when the machine changes.
	Until time.Time `json:"until,omitzero"`
	// Remembered is set if the answer is an earlier one's.
	Remembered bool `json:"-"`
}

// errHung is no proof: the machine may only have been busy.
var errHung = fmt.Errorf("it hung for %v", probeTime)

// hungFor is how long a kernel that hung is held against KVM.
const hungFor = time.Hour

// Probe answers. It fails only if ctx ends; whatever keeps KVM from working is an answer.
func (p Prober) Probe(ctx context.Context) (Answer, error) {
	device, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		return Answer{Accel: qemu.TCG, Reason: fmt.Sprintf("KVM cannot be used: %v", err)}, nil
	}
	defer device.Close()
	remembered := p.cacheFile()
	if a, ok := recall(remembered); ok {
		return a, nil
	}
	a := Answer{Accel: qemu.KVM, Reason: "a kernel booted with KVM"}
	if err := p.boot(ctx, device); err != nil {
		if ctx.Err() != nil {
			return Answer{}, fmt.Errorf("probing KVM: %w", context.Cause(ctx))
		}
		a = Answer{Accel: qemu.TCG, Reason: fmt.Sprintf("%s opens, but a kernel does not boot with it: %v", Device, err)}
		if errors.Is(err, errHung) {
			a.Until = time.Now().Add(hungFor)
		}
	}
	if err := remember(remembered, a); err != nil {
		p.Log.Warn("the next start will probe KVM again", "error", err)
	}
	return a, nil
}

func (p Prober) boot(ctx context.Context, device *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, errHung)
	defer cancel()
	kernel, err := frozen.Open(p.Kernel, maxKernel)
	if err != nil {
		return err
	}
	defer func() { _ = kernel.Close() }()
	files := &vmm.Files{}
	m := qemu.Machine{
		Name: "nacre-probe", Accel: qemu.KVM, VCPUs: 1, MemoryMiB: 256,
		KVMDevice: files.Lend(device), Kernel: files.Lend(kernel.OS()),
		// panic=-1: the kernel resets at once when it finds no root, and a reset ends QEMU.
		Cmdline: "console=ttyS0 loglevel=3 panic=-1 reboot=k",
	}
	console, fd, err := files.Pipe("console")
	if err != nil {
		return err
	}
	defer console.Close()
	m.Console = fd
	machine, err := vmm.Start(ctx, p.QEMU, m, files, p.Log)
	if err != nil {
		return err
	}
	defer machine.Stop()

	var result error
	scanned := make(chan struct{})
	go func() {
		defer close(scanned)
		result = scan(console)
	}()
	defer func() {
		console.Close()
		<-scanned
	}()
	select {
	case <-scanned:
		return result
	case <-machine.Halted():
		return errors.New("the virtual processor met an internal error of KVM")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// scan returns nil if the kernel came as far as it can.
func scan(console io.Reader) error {
	lines := bufio.NewScanner(io.LimitReader(console, 1<<20))
	for lines.Scan() {
		if strings.Contains(lines.Text(), reached) {
			return nil
		}
	}
	return errors.New("the machine ended before the kernel was up")
}

// cacheFile is named after everything that the answer depends on: the running host kernel, QEMU and the guest kernel.
func (p Prober) cacheFile() string {
	if p.CacheDir == "" {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	h := sha256.New()
	h.Write(boot)
	binary := p.QEMU
	if binary == "" {
		binary = vmm.Binary
	}
	if binary, err = exec.LookPath(binary); err != nil {
		return ""
	}
	info, err := os.Stat(binary)
	if err != nil {
		return ""
	}
	fmt.Fprintf(h, "%s %d %d\n", binary, info.Size(), info.ModTime().UnixNano())
	// The kernel by its content: images are built again more often than their kernel changes.
	kernel, err := os.Open(p.Kernel)
	if err != nil {
		return ""
	}
	defer kernel.Close()
	if _, err := io.Copy(h, io.LimitReader(kernel, maxKernel)); err != nil {
		return ""
	}
	return filepath.Join(p.CacheDir, "kvm-"+hex.EncodeToString(h.Sum(nil)[:8])+".json")
}

func recall(file string) (Answer, bool) {
	if file == "" {
		return Answer{}, false
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Answer{}, false
	}
	var a Answer
	if json.Unmarshal(text, &a) != nil || a.Accel != qemu.KVM && a.Accel != qemu.TCG {
		return Answer{}, false
	}
	if !a.Until.IsZero() && time.Now().After(a.Until) {
		return Answer{}, false
	}
	a.Remembered = true
	return a, true
}

func remember(file string, a Answer) error {
	if file == "" {
		return nil
	}
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("remembering what KVM can do: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("remembering what KVM can do: %w", err)
	}
	// A name of its own, then renamed: two probes at the same time leave one whole answer.
	temp, err := os.CreateTemp(filepath.Dir(file), ".kvm-*")
	if err != nil {
		return fmt.Errorf("remembering what KVM can do: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("remembering what KVM can do: %w", err)
	}
	return nil
}
