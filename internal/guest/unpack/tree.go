// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// tree makes and changes files beneath one directory. A name is resolved once, to its parent directory, by openat2(2)
// with RESOLVE_IN_ROOT: the directory is the root, so that absolute links and ".." stay inside as they would for a
// process whose root it is. What follows acts on that descriptor and one last component, and never follows a link.
type tree struct {
	root   int
	limits Limits
	depths map[uint64]int // by inode number, of directories made here; the root's is 0 and is not listed
}

const beneath = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// patiently repeats f while the kernel says that it was disturbed: by a signal, or, openat2 with "..", by a rename
// somewhere in the system.
func patiently(f func() error) error {
	err := f()
	for range 128 {
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
		err = f()
	}
	return err
}

// closeFD closes a descriptor that was for looking and making only: there is nothing whose loss an error could report.
func closeFD(fd int) { _ = unix.Close(fd) }

// openDirectory opens a directory by its path beneath the root; "" is the root itself.
func (t *tree) openDirectory(path string, flags uint64) (int, error) {
	if path == "" {
		path = "."
	}
	fd := -1
	err := patiently(func() (err error) {
		how := unix.OpenHow{Flags: flags | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath}
		fd, err = unix.Openat2(t.root, path, &how)
		return err
	})
	return fd, err
}

// parent opens the directory that path lies in, making the directories that the archive did not list (0755, root's),
// and returns the last component of path. The caller closes the descriptor.
func (t *tree) parent(path string) (fd int, base string, err error) {
	dir, base := split(path)
	fd, err = t.openDirectory(dir, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		if err := t.makeParents(dir); err != nil {
			return -1, "", err
		}
		fd, err = t.openDirectory(dir, unix.O_PATH)
	}
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOENT):
		return -1, "", refuse(CodeMalformed, "its parent %q is not a directory", dir)
	case err != nil:
		return -1, "", failed("opening its parent directory", err)
	}
	return fd, base, nil
}

func (t *tree) makeParents(dir string) error {
	for end := range len(dir) + 1 {
		if end < len(dir) && dir[end] != '/' {
			continue
		}
		above, base := split(dir[:end])
		fd, err := t.openDirectory(above, unix.O_PATH)
		if err != nil {
			return refuse(CodeMalformed, "its parent %q is not a directory", above)
		}
		err = t.mkdir(fd, base)
		closeFD(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// mkdir makes one directory, 0755, and remembers how deep it lies.
func (t *tree) mkdir(parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return failed("looking at its parent directory", err)
	}
	depth := t.depths[st.Ino] + 1
	if depth > t.limits.Depth {
		return refuse(CodeTooLarge, "directories nest deeper than %d", t.limits.Depth)
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		return failed("making a directory", err)
	}
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failed("looking at the new directory", err)
	}
	t.depths[st.Ino] = depth
	return nil
}

// kind is what stands at a name.
type kind int

const (
	isNothing kind = iota
	isWhiteout
	isDirectory
	isOther
)

func lookup(parent int, base string) (kind, error) {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return isNothing, nil
	case err != nil:
		return isNothing, failed("looking at its place", err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return isDirectory, nil
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return isWhiteout, nil
	}
	return isOther, nil
}

// makeRoom makes room for a new entry: a later entry of one name replaces the earlier one, and a directory only when it
// is empty. It says what was there.
func makeRoom(parent int, base string) (kind, error) {
	was, err := lookup(parent, base)
	if err != nil || was == isNothing {
		return was, err
	}
	flags := 0
	if was == isDirectory {
		flags = unix.AT_REMOVEDIR
	}
	err = unix.Unlinkat(parent, base, flags)
	if errors.Is(err, unix.ENOTEMPTY) {
		return was, refuse(CodeMalformed, "it replaces a directory of the same layer that is not empty")
	}
	if err != nil {
		return was, failed("replacing an earlier entry", err)
	}
	return was, nil
}

// sameFile says whether both names stand for one file.
func sameFile(dirA int, a string, dirB int, b string) bool {
	var stA, stB unix.Stat_t
	return unix.Fstatat(dirA, a, &stA, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstatat(dirB, b, &stB, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		stA.Dev == stB.Dev && stA.Ino == stB.Ino
}

// split cuts the last component off a clean relative path.
func split(path string) (dir, base string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}
