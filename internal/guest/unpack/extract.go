// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh." // OCI image-spec, layer.md, "Whiteouts"
	opaqueMarker   = ".wh..wh..opq"
	// aufsPrefix begins the names of AUFS's own files (".wh..wh.plnk" and the like), which old engines left in layers.
	aufsPrefix = ".wh..wh."

	// OpaqueXattr marks a directory that hides what lower layers hold of it. Its value is "y".
	OpaqueXattr = "user.overlay.opaque"

	xattrRecord = "SCHILY.xattr." // PAX record, as written by star, GNU tar and every image builder
)

// Extract unpacks the tar archive in layer beneath the directory root, reading layer to its end. It needs the
// privilege to give files away (CAP_CHOWN and what else the package comment names), and it does not confine itself:
// [Main] does that first. Bytes that follow the archive's end are read and ignored.
func Extract(root *os.File, layer io.Reader, limits Limits) (Stats, error) {
	limits = limits.withDefaults()
	x := &extraction{
		tree:   tree{root: int(root.Fd()), limits: limits, depths: map[uint64]int{}},
		limits: limits,
		buffer: make([]byte, 256<<10),
	}
	stream := bufio.NewReaderSize(layer, 256<<10)
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return x.stats, unreadable(err)
		}
		if err := x.entry(header, archive); err != nil {
			if e, ok := errors.AsType[*Error](err); ok && e.Entry == "" {
				e.Entry = header.Name
			}
			return x.stats, err
		}
	}
	if err := x.setDirectoryTimes(); err != nil {
		return x.stats, err
	}
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{stream}, x.buffer); err != nil {
		return x.stats, unreadable(err)
	}
	return x.stats, nil
}

func unreadable(err error) error {
	return &Error{Code: CodeMalformed, Detail: "reading the tar archive", Err: err}
}

type extraction struct {
	tree
	limits Limits
	stats  Stats
	buffer []byte
	// directories are listed with their times, which every file made in them changes again.
	directories []dated
}

type dated struct {
	path string
	time time.Time
}

func (x *extraction) entry(h *tar.Header, content io.Reader) error {
	if x.stats.Entries++; x.stats.Entries > x.limits.Entries {
		return refuse(CodeTooLarge, "more than %d entries", x.limits.Entries)
	}
	if h.Typeflag == tar.TypeXGlobalHeader { // comments, such as git's commit id
		return nil
	}
	path, err := x.clean(h.Name)
	if err != nil {
		return err
	}
	if path == "" {
		return x.rootDirectory(h)
	}
	if _, base := split(path); strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteoutEntry(path)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return x.regular(path, h, content)
	case tar.TypeDir:
		return x.makeDirectory(path, h)
	case tar.TypeSymlink:
		return x.symlink(path, h)
	case tar.TypeLink:
		return x.hardLink(path, h)
	case tar.TypeFifo:
		return x.fifo(path, h)
	case tar.TypeChar:
		if h.Devmajor == 0 && h.Devminor == 0 { // overlayfs's own form of a whiteout, as some builders write it
			return x.whiteout(path)
		}
		x.stats.DevicesSkipped++
		return nil
	case tar.TypeBlock:
		x.stats.DevicesSkipped++
		return nil
	}
	return refuse(CodeUnsupported, "entries of type %q are not known", h.Typeflag)
}

// clean returns name as a path relative to the layer's root, without ".", empty components or a leading slash; "" is
// the root.
func (x *extraction) clean(name string) (string, error) {
	if len(name) > x.limits.PathBytes {
		return "", refuse(CodeTooLarge, "a name of %d bytes, more than %d", len(name), x.limits.PathBytes)
	}
	if strings.ContainsRune(name, 0) {
		return "", refuse(CodeMalformed, "a name with a NUL byte")
	}
	components := slices.DeleteFunc(strings.Split(name, "/"), func(c string) bool { return c == "" || c == "." })
	for i, c := range components {
		if len(c) > 255 { // NAME_MAX
			return "", refuse(CodeTooLarge, "a name component of %d bytes, more than 255", len(c))
		}
		if c == ".." {
			return "", refuse(CodeEscape, `a name with a ".." component`)
		}
		if i < len(components)-1 && strings.HasPrefix(c, whiteoutPrefix) {
			return "", refuse(CodeMalformed, "a name below a whiteout")
		}
	}
	return strings.Join(components, "/"), nil
}

func (x *extraction) rootDirectory(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return refuse(CodeMalformed, "the layer's root is no directory")
	}
	return x.directoryMetadata("", h)
}

func (x *extraction) makeDirectory(path string, h *tar.Header) error {
	parent, base, err := x.parent(path)
	if err != nil {
		return err
	}
	defer closeFD(parent)
	was, err := lookup(parent, base)
	if err != nil {
		return err
	}
	if was != isDirectory {
		if was, err = makeRoom(parent, base); err != nil {
			return err
		}
		if err := x.mkdir(parent, base); err != nil {
			return err
		}
	}
	if err := x.directoryMetadata(path, h); err != nil {
		return err
	}
	if was == isWhiteout { // the whiteout hid a directory of a lower layer, whose contents must not come back
		return x.opaque(parent, base)
	}
	return nil
}

func (x *extraction) directoryMetadata(path string, h *tar.Header) error {
	fd, err := x.openDirectory(path, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return failed("opening the directory", err)
	}
	defer closeFD(fd)
	x.directories = append(x.directories, dated{path, h.ModTime})
	return x.metadata(fd, h)
}

func (x *extraction) setDirectoryTimes() error {
	for _, d := range x.directories {
		fd, err := x.openDirectory(d.path, unix.O_RDONLY|unix.O_NOFOLLOW)
		if err != nil { // replaced by a later entry
			continue
		}
		times, err := modTime(d.time)
		if err == nil {
			err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
		}
		closeFD(fd)
		if err != nil {
			return failed(fmt.Sprintf("setting the time of directory %q", d.path), err)
		}
	}
	return nil
}

func (x *extraction) regular(path string, h *tar.Header, content io.Reader) error {
	if h.Size > x.limits.FileBytes {
		return refuse(CodeTooLarge, "a file of %d bytes, more than %d", h.Size, x.limits.FileBytes)
	}
	if h.Size > x.limits.Bytes-x.stats.Bytes {
		return refuse(CodeTooLarge, "the layer's files are more than %d bytes", x.limits.Bytes)
	}
	x.stats.Bytes += h.Size
	parent, base, err := x.parent(path)
	if err != nil {
		return err
	}
	defer closeFD(parent)
	if _, err := makeRoom(parent, base); err != nil {
		return err
	}
	var file *os.File
	err = patiently(func() error {
		fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			file = os.NewFile(uintptr(fd), base)
		}
		return err
	})
	if err != nil {
		return failed("making a file", err)
	}
	defer file.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{content}, x.buffer)
	if _, writing := errors.AsType[*os.PathError](err); writing {
		return failed("writing a file", err)
	} else if err != nil {
		return unreadable(err)
	}
	if n != h.Size {
		return refuse(CodeMalformed, "%d bytes where the header says %d", n, h.Size)
	}
	fd := int(file.Fd())
	if err := x.metadata(fd, h); err != nil {
		return err
	}
	return x.setTime(fd, "", unix.AT_EMPTY_PATH, h)
}

func (x *extraction) symlink(path string, h *tar.Header) error {
	if len(h.Linkname) > x.limits.PathBytes {
		return refuse(CodeTooLarge, "a link's target of %d bytes, more than %d", len(h.Linkname), x.limits.PathBytes)
	}
	if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) {
		return refuse(CodeMalformed, "a symbolic link to %q", h.Linkname)
	}
	parent, base, err := x.parent(path)
	if err != nil {
		return err
	}
	defer closeFD(parent)
	if _, err := makeRoom(parent, base); err != nil {
		return err
	}
	// The target is not looked at: what it means is for the container to find out, within its own root.
	if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
		return failed("making a symbolic link", err)
	}
	return x.ownAndDate(parent, base, h)
}

func (x *extraction) hardLink(path string, h *tar.Header) error {
	target, err := x.clean(h.Linkname)
	if err != nil {
		return err
	}
	dir, targetBase := split(target)
	if target == "" || strings.HasPrefix(targetBase, whiteoutPrefix) {
		return refuse(CodeMalformed, "a hard link to %q", h.Linkname)
	}
	from, err := x.openDirectory(dir, unix.O_PATH)
	if err != nil {
		return refuse(CodeMalformed, "a hard link to %q, which this layer does not hold", h.Linkname)
	}
	defer closeFD(from)
	switch was, err := lookup(from, targetBase); {
	case err != nil:
		return err
	case was != isOther:
		return refuse(CodeMalformed, "a hard link to %q, which is no file of this layer", h.Linkname)
	}
	if target == path {
		return nil
	}
	parent, base, err := x.parent(path)
	if err != nil {
		return err
	}
	defer closeFD(parent)
	if sameFile(from, targetBase, parent, base) { // linked already, under this or another spelling of its path
		return nil
	}
	if _, err := makeRoom(parent, base); err != nil {
		return err
	}
	// Owner, mode and times are the target's: the link's header has no say over another entry's file.
	if err := unix.Linkat(from, targetBase, parent, base, 0); err != nil {
		return failed(fmt.Sprintf("linking to %q", h.Linkname), err)
	}
	return nil
}

func (x *extraction) fifo(path string, h *tar.Header) error {
	parent, base, err := x.parent(path)
	if err != nil {
		return err
	}
	defer closeFD(parent)
	if _, err := makeRoom(parent, base); err != nil {
		return err
	}
	if err := unix.Mknodat(parent, base, unix.S_IFIFO|uint32(h.Mode)&0o777, 0); err != nil {
		return failed("making a fifo", err)
	}
	return x.ownAndDate(parent, base, h)
}

// whiteoutEntry handles names with the prefix ".wh.".
func (x *extraction) whiteoutEntry(path string) error {
	dir, base := split(path)
	if base == opaqueMarker {
		parent, _, err := x.parent(path)
		if err != nil {
			return err
		}
		defer closeFD(parent)
		return x.opaque(parent, ".")
	}
	if strings.HasPrefix(base, aufsPrefix) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return refuse(CodeEscape, "a whiteout of %q", hidden)
	}
	if dir != "" {
		hidden = dir + "/" + hidden
	}
	return x.whiteout(hidden)
}

// whiteout hides path of the lower layers. What this layer itself holds at path stays, and a directory then hides
// what lower layers hold in it.
func (x *extraction) whiteout(path string) error {
	parent, base, err := x.parent(path)
	if err != nil {
		return err
	}
	defer closeFD(parent)
	was, err := lookup(parent, base)
	switch {
	case err != nil:
		return err
	case was == isDirectory:
		return x.opaque(parent, base)
	case was != isNothing:
		return nil
	}
	if err := unix.Mknodat(parent, base, unix.S_IFCHR, int(unix.Mkdev(0, 0))); err != nil {
		return failed("making a whiteout", err)
	}
	x.stats.Whiteouts++
	return nil
}

func (x *extraction) opaque(parent int, base string) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("opening an opaque directory", err)
	}
	defer closeFD(fd)
	if err := unix.Fsetxattr(fd, OpaqueXattr, []byte("y"), 0); err != nil {
		return failed("marking a directory opaque (the file system must know user attributes)", err)
	}
	x.stats.Whiteouts++
	return nil
}

// metadata sets owner, mode and extended attributes, in this order: a change of owner clears set-user-ID bits and
// file capabilities.
func (x *extraction) metadata(fd int, h *tar.Header) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return failed(fmt.Sprintf("giving it to %d:%d", uid, gid), err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return failed("setting its mode", err)
	}
	n := 0
	for record, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok {
			continue
		}
		if n++; n > x.limits.Xattrs {
			return refuse(CodeTooLarge, "more than %d extended attributes", x.limits.Xattrs)
		}
		if len(value) > x.limits.XattrBytes {
			return refuse(CodeTooLarge, "an extended attribute of %d bytes, more than %d", len(value), x.limits.XattrBytes)
		}
		if !keptXattr(name, h.Typeflag) {
			x.stats.XattrsSkipped++
			continue
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil {
			return failed(fmt.Sprintf("setting extended attribute %q", name), err)
		}
	}
	return nil
}

// keptXattr is the list of extended attributes that a layer may bring: file capabilities of files, and users' own.
// overlayfs's are not among them, or a layer could point a name at another layer's file (overlay.redirect).
func keptXattr(name string, typeflag byte) bool {
	if name == "security.capability" {
		return typeflag != tar.TypeDir
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") && len(name) <= 255
}

// ownAndDate is for what has neither mode nor attributes to set afterwards.
func (x *extraction) ownAndDate(parent int, base string, h *tar.Header) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failed(fmt.Sprintf("giving it to %d:%d", uid, gid), err)
	}
	return x.setTime(parent, base, unix.AT_SYMLINK_NOFOLLOW, h)
}

// owner returns the header's identities. 4294967295 is no identity: chown(2) takes it for "leave as it is".
func owner(h *tar.Header) (uid, gid int, err error) {
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return 0, 0, refuse(CodeMalformed, "an owner of %d:%d", h.Uid, h.Gid)
	}
	return h.Uid, h.Gid, nil
}

func (x *extraction) setTime(dir int, base string, flags int, h *tar.Header) error {
	times, err := modTime(h.ModTime)
	if err == nil {
		err = unix.UtimesNanoAt(dir, base, times, flags)
	}
	if err != nil {
		return failed("setting its time", err)
	}
	return nil
}

// modTime is for utimensat(2): the access time is the modification time.
func modTime(t time.Time) ([]unix.Timespec, error) {
	ts, err := unix.TimeToTimespec(t)
	return []unix.Timespec{ts, ts}, err
}
