// SPDX-License-Identifier: Apache-2.0

// Package deb reads the files out of a Debian binary package (deb(5)): an ar archive that holds a compressed tar
// archive named data.tar.
//
// It trusts nothing about the bytes but what its caller checked before (the image builder compares the package's
// SHA-256 with the signed archive index first). It reads files and links only; it runs no maintainer script, reads
// no control data and writes nothing to disk.
package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Limits of what Walk accepts from one package. The largest package of the guest image, the kernel, has about 1,200
// entries and 40 MB.
const (
	MaxMember  = 256 << 20 // bytes of one ar member, as stored
	MaxContent = 1 << 30   // bytes of the data archive, uncompressed
	MaxEntries = 100_000
	maxWindow  = 64 << 20 // bytes of zstd window; dpkg-deb uses 8 MiB
)

// ErrFormat is wrapped by every error about the form of a package.
var ErrFormat = errors.New("not a well-formed Debian package")

const (
	arMagic     = "!<arch>\n"
	arHeaderLen = 60
)

// Entry is one file, directory or link of a package.
type Entry struct {
	Path   string // slash-separated, relative to the root, without a leading "./"
	Header *tar.Header
}

// Walk calls visit for each entry of the package's data archive, in the archive's order. content is valid until
// visit returns; it is empty for anything but regular files. Names that lead out of the root are refused.
func Walk(pkg io.Reader, visit func(e Entry, content io.Reader) error) error {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(pkg, magic); err != nil || string(magic) != arMagic {
		return fmt.Errorf("%w: no ar signature", ErrFormat)
	}
	for {
		name, size, err := readArHeader(pkg)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: no data.tar member", ErrFormat)
		}
		if err != nil {
			return err
		}
		member := io.LimitReader(pkg, size)
		if strings.HasPrefix(name, "data.tar") {
			return walkData(name, member, visit)
		}
		if n, err := io.Copy(io.Discard, member); err != nil || n != size {
			return fmt.Errorf("%w: member %q is cut short", ErrFormat, name)
		}
		if size%2 == 1 { // members start at even offsets
			if _, err := io.CopyN(io.Discard, pkg, 1); err != nil {
				return fmt.Errorf("%w: member %q has no padding", ErrFormat, name)
			}
		}
	}
}

// readArHeader reads one 60-byte member header; io.EOF means a clean end of the archive.
func readArHeader(r io.Reader) (name string, size int64, err error) {
	var h [arHeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return "", 0, io.EOF
		}
		return "", 0, fmt.Errorf("%w: ar header is cut short", ErrFormat)
	}
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, fmt.Errorf("%w: ar header has no terminator", ErrFormat)
	}
	size, err = strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 || size > MaxMember {
		return "", 0, fmt.Errorf("%w: ar member size %q (at most %d)", ErrFormat, h[48:58], MaxMember)
	}
	// dpkg writes short names without the BSD or GNU extensions; a GNU ar adds one slash.
	return strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/"), size, nil
}

func walkData(name string, member io.Reader, visit func(Entry, io.Reader) error) error {
	plain, closeFn, err := decompress(strings.TrimPrefix(name, "data.tar"), member)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, name, err)
	}
	defer closeFn()

	limited := &io.LimitedReader{R: plain, N: MaxContent}
	archive := tar.NewReader(limited)
	for n := 0; ; n++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) && limited.N > 0 {
			return nil
		}
		if limited.N <= 0 {
			return fmt.Errorf("%w: more than %d bytes of content", ErrFormat, int64(MaxContent))
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrFormat, name, err)
		}
		if n >= MaxEntries {
			return fmt.Errorf("%w: more than %d entries", ErrFormat, MaxEntries)
		}
		p, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if p == "." {
			continue
		}
		content := io.Reader(bytes.NewReader(nil))
		if h.Typeflag == tar.TypeReg {
			content = archive
		}
		if err := visit(Entry{Path: p, Header: h}, content); err != nil {
			return err
		}
	}
}

// cleanName returns name relative to the root. Names in packages begin with "./"; one that is absolute or has ".."
// in it was not written by dpkg-deb.
func cleanName(name string) (string, error) {
	if name == "" || strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%w: entry name %q", ErrFormat, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: entry name %q leads out of the package", ErrFormat, name)
		}
	}
	return path.Clean(name), nil
}

// decompress chooses the decompressor by the suffix after "data.tar".
func decompress(suffix string, r io.Reader) (plain io.Reader, closeFn func(), err error) {
	switch suffix {
	case "":
		return r, func() {}, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case ".xz":
		z, err := xz.NewReader(r)
		return z, func() {}, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, fmt.Errorf("compression %q is not known (gz, xz and zst are)", suffix)
}
