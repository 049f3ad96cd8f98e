// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/guestos/cpio"
	"github.com/nacre-project/nacre/test/soak/disk"
)

// The virtual machine.
const (
	diskSize    = 64 << 20 // bytes
	memory      = "384"    // MiB
	processors  = "2"
	guestPort   = "8443"
	guestFiles  = "/soak"
	bootTimeout = 3 * time.Minute
)

// power takes the power of a virtual machine away.
func (r run) power(ctx context.Context, dir string, lying bool) error {
	imageDir := os.Getenv("NACRE_IMAGE_DIR")
	if imageDir == "" {
		imageDir = "build/image"
	}
	image, err := guestos.Load(imageDir)
	if err != nil {
		return fmt.Errorf("%w; `make image` builds the kernel that is needed, NACRE_IMAGE_DIR names it", err)
	}
	program, err := r.trustee(ctx, dir)
	if err != nil {
		return err
	}
	init, err := r.build(ctx, dir, "test/soak/init")
	if err != nil {
		return err
	}
	platform, i, err := r.prepare(dir)
	if err != nil {
		return err
	}
	m := &vm{dir: dir, kernel: image.Kernel, random: rand.New(rand.NewPCG(r.seed, 1))}
	if err := m.archive(image.Initrd, init, program, i); err != nil {
		return err
	}
	empty, err := format(ctx, dir)
	if err != nil {
		return err
	}
	m.disk = disk.New(empty, lying)
	err = r.soak(ctx, m, i, platform, pace{load: 6 * time.Second, strike: 3})
	switch {
	case lying && err == nil:
		return errors.New("the disk lost what it said it had flushed, and nobody noticed")
	case lying && ctx.Err() == nil:
		fmt.Fprintf(r.out, "noticed, as it must be: %v\n", err)
		return nil
	case err != nil:
		path := filepath.Join(dir, "disk.img")
		err = fmt.Errorf("%w\nthe disk after the last loss of power is %s", errors.Join(err, os.WriteFile(path, m.disk.Image(), 0o600)), path)
	}
	return err
}

// format makes an empty ext4 file system.
func format(ctx context.Context, dir string) ([]byte, error) {
	path := filepath.Join(dir, "empty.img")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, diskSize)); err != nil {
		return nil, err
	}
	defer os.Remove(path)
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/sbin/mkfs.ext4" // which is not in everybody's PATH
	}
	// Blocks as large disks have them; a small one would get 1 KiB.
	if out, err := exec.CommandContext(ctx, mkfs, "-q", "-b", "4096", path).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a file system: %w: %s; install e2fsprogs", err, out)
	}
	return os.ReadFile(path)
}

// vm is a trustee in a virtual machine, on a disk that loses what was not flushed.
type vm struct {
	dir            string
	kernel, initrd string
	disk           *disk.Disk
	random         *rand.Rand

	running    *child
	complaints bytes.Buffer // QEMU's; to be read when it is gone
	served     chan error   // that the disk's client is gone
}

// archive makes the machine's initial RAM file system: that of the guest image, whose modules fit the kernel, and behind
// it another with another /init. The kernel unpacks one after the other.
func (m *vm) archive(base, init, trustee string, i identity) error {
	first, err := os.ReadFile(base)
	if err != nil {
		return err
	}
	archive := bytes.NewBuffer(first)
	for archive.Len()%4 != 0 { // where an archive that is not compressed must begin
		archive.WriteByte(0)
	}
	arguments, err := json.Marshal(append([]string{guestFiles + "/nacre-trustee"}, i.arguments("0.0.0.0:"+guestPort, guestFiles,
		"/disk/data", "/disk/key/store.key")...))
	if err != nil {
		return err
	}
	w := cpio.NewWriter(archive)
	err = w.Dir(guestFiles[1:], 0o700)
	add := func(name string, perm uint32, text []byte, readErr error) {
		if err = errors.Join(err, readErr); err == nil {
			err = w.File(name, perm, text)
		}
	}
	for name, path := range map[string]string{"init": init, guestFiles[1:] + "/nacre-trustee": trustee} {
		text, readErr := os.ReadFile(path)
		add(name, 0o755, text, readErr)
	}
	for _, name := range identityFiles {
		text, readErr := os.ReadFile(filepath.Join(i.dir, name))
		add(guestFiles[1:]+"/"+name, 0o600, text, readErr)
	}
	add(guestFiles[1:]+"/arguments", 0o600, arguments, nil)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	m.initrd = filepath.Join(m.dir, "initrd")
	return os.WriteFile(m.initrd, archive.Bytes(), 0o600)
}

// start boots the machine.
func (m *vm) start(ctx context.Context) (string, error) {
	url, err := m.boot(ctx)
	if err != nil {
		return "", err
	}
	booting, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	_, said, err := m.running.listening(booting)
	if err != nil {
		_, killErr := m.off()
		return "", fmt.Errorf("%w; the console said:\n%s%s", errors.Join(err, killErr), said, strings.TrimSpace(m.complaints.String()))
	}
	return url, nil
}

// boot starts the machine and does not wait for it.
func (m *vm) boot(ctx context.Context) (string, error) {
	socket := filepath.Join(m.dir, "disk.sock")
	if err := os.RemoveAll(socket); err != nil {
		return "", err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	m.served = make(chan error, 1)
	go func() {
		client, err := listener.Accept()
		listener.Close()
		if err == nil {
			err = m.disk.Serve(client)
			client.Close()
		}
		m.served <- err
	}()
	address, err := freeAddress(ctx)
	if err != nil {
		return "", err
	}
	//nolint:noctx // a context would kill it by a timer of its own
	cmd := exec.Command("qemu-system-x86_64",
		"-machine", "q35,accel=tcg", "-cpu", "max", "-m", memory, "-smp", processors, "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-sandbox", "on", "-serial", "stdio",
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", "console=ttyS0 quiet panic=-1",
		"-drive", "if=none,id=data,format=raw,cache=writeback,file=nbd+unix:///?socket="+socket,
		"-device", "virtio-blk-pci,drive=data",
		"-netdev", "user,id=net,restrict=on,hostfwd=tcp:"+address+"-:"+guestPort,
		"-device", "virtio-net-pci,netdev=net,romfile=")
	m.complaints.Reset()
	cmd.Stderr = &m.complaints
	if m.running, err = spawn(cmd); err != nil {
		listener.Close()
		return "", errors.Join(err, <-m.served)
	}
	return "https://" + address, nil
}

// freeAddress is one on loopback where nobody listened just now.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// How many writes and flushes may come before the power fails, and how long is waited for them: a trustee that has
// nothing to write loses power too.
const (
	fuse       = 60
	startFuse  = 40
	fuseTime   = time.Second
	startLimit = 30 * time.Second
)

// kill takes the power away, at one of the next writes or flushes: a moment by the clock would seldom come between a
// write and its flush.
func (m *vm) kill() (string, error) {
	select {
	case <-m.disk.FailAfter(1 + m.random.IntN(fuse)):
	case <-time.After(fuseTime):
	case <-m.running.done:
		return "", fmt.Errorf("the machine ended by itself: %w: %s", m.running.err, &m.complaints)
	}
	return m.off()
}

// strike takes the power away from a machine that starts: while file system and store recover from the last time.
func (m *vm) strike(ctx context.Context) (string, error) {
	failed := m.disk.FailAfter(1 + m.random.IntN(startFuse))
	if _, err := m.boot(ctx); err != nil {
		return "", err
	}
	select {
	case <-failed:
	case <-time.After(startLimit):
	case <-ctx.Done():
	}
	return m.off()
}

// off takes the power away now.
func (m *vm) off() (string, error) {
	m.running.kill()
	if err := <-m.served; err != nil {
		return "", fmt.Errorf("serving the disk: %w", err)
	}
	return m.disk.PowerLoss(m.random).String(), nil
}

// end takes the power away too: there is nothing more to see.
func (m *vm) end() error {
	_, err := m.off()
	return err
}
