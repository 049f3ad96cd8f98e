// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package frozen keeps copies of boot artifacts that nobody can change any more.
//
// A launch measurement is worth something only if the bytes that were hashed are the bytes that boot. Holding a file open is
// not enough: who may write to it can change it in place. So an artifact is read once into a memory file that the kernel seals
// against writing, growing and shrinking; the measurement hashes that memory, and the hypervisor gets its descriptor.
//
// The package trusts the kernel's seals. It does not judge the content.
package frozen

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is an immutable file in memory.
type File struct {
	file *os.File
	data []byte
}

// Open freezes the content of a regular file of at most limit bytes.
func Open(path string, limit int64) (*File, error) {
	source, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening a boot artifact: %w", err)
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening a boot artifact: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("boot artifact %s: not a regular file", path)
	}
	return freeze(path, source, limit)
}

// New freezes bytes, e.g. of a device image that exists nowhere else.
func New(name string, content io.Reader, limit int64) (*File, error) {
	return freeze(name, content, limit)
}

func freeze(name string, content io.Reader, limit int64) (*File, error) {
	fd, err := unix.MemfdCreate("nacre", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("freezing %s: %w", name, err)
	}
	f := &File{file: os.NewFile(uintptr(fd), name)}
	if err := f.fill(content, limit); err != nil {
		_ = f.Close() // nothing was mapped, or nothing depends on it
		return nil, fmt.Errorf("freezing %s: %w", name, err)
	}
	return f, nil
}

func (f *File) fill(content io.Reader, limit int64) error {
	size, err := io.Copy(f.file, io.LimitReader(content, limit+1))
	switch {
	case err != nil:
		return err
	case size > limit:
		return fmt.Errorf("it has more than %d bytes", limit)
	case size == 0:
		return io.ErrUnexpectedEOF
	}
	seals := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("sealing: %w", err)
	}
	// QEMU takes a descriptor for what it was opened for, and a reader shall have one for reading only.
	reader, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.file.Fd()))
	if err != nil {
		return fmt.Errorf("opening it for reading: %w", err)
	}
	f.file.Close()
	f.file = reader
	f.data, err = unix.Mmap(int(f.file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping: %w", err)
	}
	return nil
}

// Bytes returns the content. It is mapped memory: writing to it faults, and so does reading it after Close.
func (f *File) Bytes() []byte { return f.data }

// OS returns the sealed descriptor, to be passed to another process. It belongs to f.
func (f *File) OS() *os.File { return f.file }

// Close gives up this process's hold; processes that got the descriptor keep theirs.
func (f *File) Close() error {
	if f.data != nil {
		if err := unix.Munmap(f.data); err != nil {
			return fmt.Errorf("unmapping: %w", err)
		}
		f.data = nil
	}
	return f.file.Close()
}
