// SPDX-License-Identifier: Apache-2.0

// Package cpio writes the "newc" archives that the Linux kernel unpacks into its initial RAM file system
// (Documentation/driver-api/early-userspace/buffer-format.rst).
//
// It only writes, and always the same bytes for the same entries: every time stamp is zero, owner and group are
// root, and inode numbers count up. It does not compress.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// File type bits of the mode field, as in stat(2).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeReg  = 0o100000
	typeLink = 0o120000

	trailer = "TRAILER!!!"
	maxName = 4096
	maxSize = 1<<32 - 1 // the size field has eight hexadecimal digits
)

// Writer writes one archive. Parents must be written before what is in them.
type Writer struct {
	w     io.Writer
	inode uint32
	err   error
}

// NewWriter returns a Writer to w. The caller must call Close.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Dir adds a directory. Paths are relative to the root and do not begin with a slash.
func (c *Writer) Dir(path string, perm uint32) error {
	return c.entry(path, typeDir|perm&0o7777, 2, 0, 0, nil)
}

// File adds a regular file.
func (c *Writer) File(path string, perm uint32, data []byte) error {
	return c.entry(path, typeReg|perm&0o7777, 1, 0, 0, data)
}

// Symlink adds a symbolic link to target.
func (c *Writer) Symlink(path, target string) error {
	return c.entry(path, typeLink|0o777, 1, 0, 0, []byte(target))
}

// CharDevice adds a character device node.
func (c *Writer) CharDevice(path string, perm, major, minor uint32) error {
	return c.entry(path, typeChar|perm&0o7777, 1, major, minor, nil)
}

// Close writes the trailer. It does not close the underlying writer.
func (c *Writer) Close() error {
	if c.err != nil {
		return c.err
	}
	c.put(header(0, 0, 1, 0, 0, 0, len(trailer)+1), trailer) // by convention the trailer has inode 0
	return c.err
}

func (c *Writer) entry(path string, mode, links, major, minor uint32, data []byte) error {
	if path == "" || path[0] == '/' || len(path) > maxName || strings.ContainsRune(path, 0) {
		return fmt.Errorf("cpio: entry name %q", path)
	}
	if len(data) > maxSize {
		return fmt.Errorf("cpio: %s: %d bytes do not fit in one entry", path, len(data))
	}
	if c.err != nil {
		return c.err
	}
	c.inode++
	c.put(header(c.inode, mode, links, len(data), major, minor, len(path)+1), path)
	c.write(data)
	c.write(zeros[:pad4(len(data))])
	return c.err
}

func (c *Writer) put(header, name string) {
	c.write([]byte(header))
	c.write([]byte(name))
	c.write(zeros[:1+pad4(len(header)+len(name)+1)]) // name's NUL and padding
}

func (c *Writer) write(p []byte) {
	if c.err != nil || len(p) == 0 {
		return
	}
	n, err := c.w.Write(p)
	if err == nil && n != len(p) {
		err = errors.New("cpio: short write")
	}
	c.err = err
}

// header formats the 110 bytes before an entry's name: a magic number and thirteen 8-digit hexadecimal fields.
func header(inode, mode, links uint32, size int, major, minor uint32, nameLen int) string {
	return fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, nameLen, 0)
}

var zeros [8]byte

func pad4(n int) int { return -n & 3 }
