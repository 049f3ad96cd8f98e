// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// Where copied files are, below Dir. Files grow in partialDir and are moved when they are whole. No container gets any of
// this mounted, but copies (see resolve.go): nobody but CopyFile writes here.
const (
	sharedDir  = "shared"
	copiedDir  = sharedDir + "/containers"
	partialDir = sharedDir + "/partial"
)

// Limits of what a host can copy into the guest, whose memory it takes.
const (
	maxCopied      = 4096     // files, directories and links
	maxCopiedBytes = 64 << 20 // altogether
	maxCopyDepth   = 16       // path elements
	maxPartial     = 16       // files that are on their way
)

// copied is what the host has put into the guest: configuration, Secrets, tokens. There is no file system that guest and
// host share.
type copied struct {
	mu      sync.Mutex
	entries map[string]int64    // sizes, by path below copiedDir
	partial map[string]*partial // by the same
	next    int                 // number of the next partial file
}

// partial is a file that is on its way.
type partial struct {
	name      string // below sharedDir
	size, got int64
}

func newCopied() copied {
	return copied{entries: map[string]int64{}, partial: map[string]*partial{}}
}

// bytes is what all files take, those on their way in full. The caller holds mu.
func (c *copied) bytes() int64 {
	var n int64
	for _, size := range c.entries {
		n += size
	}
	for _, p := range c.partial {
		n += p.size
	}
	return n
}

// CopyFile puts a file, a directory or a link below copiedDir, or one chunk of a file; the chunks follow each other. What is
// there is replaced at once when the last chunk is there.
func (a *Agent) CopyFile(_ context.Context, r *agent.CopyFileRequest) (*emptypb.Empty, error) {
	path, err := a.copyPath(r.Path)
	if err != nil {
		return nil, err
	}
	if r.Uid < 0 || r.Gid < 0 || r.FileSize < 0 || r.Offset < 0 {
		return nil, invalid("copying %.200q: a negative owner, size or offset", r.Path)
	}
	if err := checkCopy(path, r); err != nil {
		return nil, err
	}
	a.copied.mu.Lock()
	defer a.copied.mu.Unlock()
	if err := a.copy(path, r); err != nil {
		return nil, failed("copying "+strconv.Quote(r.Path), err)
	}
	return nothing, nil
}

// copyPath returns a path below copiedDir. Names may have dots in them, as kubelets' do ("..data").
func (a *Agent) copyPath(path string) (string, error) {
	base := filepath.Join(a.Dir, copiedDir)
	rest, ok := strings.CutPrefix(path, base+"/")
	if !ok || filepath.Clean(path) != path || len(path) >= unix.PathMax || strings.ContainsRune(path, 0) || !utf8.ValidString(path) {
		return "", invalid("copying %.200q: it does not lie below %s", path, base)
	}
	elements := strings.Split(rest, "/")
	if len(elements) > maxCopyDepth {
		return "", invalid("copying %.200q: more than %d directories deep", path, maxCopyDepth)
	}
	for _, e := range elements {
		if len(e) > unix.NAME_MAX {
			return "", invalid("copying %.200q: a name is too long", path)
		}
	}
	return rest, nil
}

// checkCopy checks what does not depend on what is there.
func checkCopy(path string, r *agent.CopyFileRequest) error {
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFREG:
		if int64(len(r.Data)) > r.FileSize-r.Offset {
			return invalid("copying %.200q: %d bytes at %d of a file of %d", r.Path, len(r.Data), r.Offset, r.FileSize)
		}
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		return checkLink(path, string(r.Data))
	default:
		return invalid("copying %.200q: file mode %o is neither a file's nor a directory's nor a link's", r.Path, r.FileMode)
	}
	return nil
}

// checkLink takes links that lead down from where they stand, inside a volume: what a path leads to has the path's beginning,
// by which the policy decided.
func checkLink(path, target string) error {
	elements := strings.Split(target, "/")
	switch {
	case !strings.Contains(path, "/"):
		return invalid("copying %.200q: a volume is not a link", path)
	case target == "" || len(target) >= unix.PathMax || strings.ContainsRune(target, 0) || !utf8.ValidString(target):
		return invalid("copying %.200q: %.200q is not the target of a link", path, target)
	case filepath.IsAbs(target) || slices.Contains(elements, ".."):
		return invalid("copying %.200q: a link to %.200q could lead out of its volume", path, target)
	}
	return nil
}

// copy does what was checked. The caller holds copied.mu.
func (a *Agent) copy(path string, r *agent.CopyFileRequest) error {
	if err := os.MkdirAll(filepath.Join(a.Dir, partialDir), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(a.Dir, copiedDir), 0o700); err != nil {
		return err
	}
	// Resolution stays below this directory whatever stands in it (openat2, RESOLVE_BENEATH and its like).
	root, err := os.OpenRoot(filepath.Join(a.Dir, sharedDir))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	to := filepath.Join(filepath.Base(copiedDir), path)
	if err := a.copied.admit(path, r); err != nil {
		return err
	}
	if err := a.copied.parents(root, to, dirMode(r.DirMode)); err != nil {
		return err
	}
	var done bool
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFDIR:
		done, err = true, copyDirectory(root, to, r)
	case unix.S_IFLNK:
		done, err = true, a.copyLink(root, to, r)
	default:
		done, err = a.copyChunk(root, path, to, r)
	}
	if err == nil && done {
		a.copied.entries[path] = 0
		if r.FileMode&unix.S_IFMT == unix.S_IFREG {
			a.copied.entries[path] = r.FileSize
		}
	}
	return err
}

// admit keeps the host from filling the guest's memory.
func (c *copied) admit(path string, r *agent.CopyFileRequest) error {
	if _, known := c.entries[path]; !known && len(c.entries)+strings.Count(path, "/") >= maxCopied {
		return status.Errorf(codes.ResourceExhausted, "%d files are there, no more are taken", len(c.entries))
	}
	if r.FileMode&unix.S_IFMT != unix.S_IFREG || r.Offset > 0 {
		return nil
	}
	var replaced int64
	if p := c.partial[path]; p != nil {
		replaced = p.size
	} else if len(c.partial) >= maxPartial {
		return status.Errorf(codes.ResourceExhausted, "%d files are on their way, no more are taken", len(c.partial))
	}
	if r.FileSize > maxCopiedBytes || c.bytes()-replaced+r.FileSize > maxCopiedBytes {
		return status.Errorf(codes.ResourceExhausted, "a file of %d bytes: at most %d are taken altogether", r.FileSize, maxCopiedBytes)
	}
	return nil
}

// parents makes the directories above a path. Each is a directory itself, and no link to one.
func (c *copied) parents(root *os.Root, path string, mode fs.FileMode) error {
	elements := strings.Split(path, "/")
	for i := 1; i < len(elements); i++ {
		dir := filepath.Join(elements[:i]...)
		info, err := root.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err = root.Mkdir(dir, mode); err == nil {
				c.entries[strings.Join(elements[1:i], "/")] = 0
			}
		case err == nil && !info.IsDir():
			err = invalid("%q is not a directory", dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dirMode is the permissions of a directory. Hosts send Go's or C's type bits beside them; 0 is the usual.
func dirMode(mode uint32) fs.FileMode {
	if mode &= 0o777; mode != 0 {
		return fs.FileMode(mode)
	}
	return 0o755
}

func copyDirectory(root *os.Root, to string, r *agent.CopyFileRequest) error {
	err := root.Mkdir(to, dirMode(r.FileMode))
	if errors.Is(err, fs.ErrExist) {
		info, statErr := root.Lstat(to)
		if statErr != nil {
			return statErr
		}
		if !info.IsDir() {
			return err
		}
		err = root.Chmod(to, dirMode(r.FileMode))
	}
	if err != nil {
		return err
	}
	return root.Lchown(to, int(r.Uid), int(r.Gid))
}

// copyLink puts a link in the place of what is there, which is not a directory, at once.
func (a *Agent) copyLink(root *os.Root, to string, r *agent.CopyFileRequest) error {
	temp := a.copied.temp()
	if err := root.Symlink(string(r.Data), temp); err != nil {
		return err
	}
	err := root.Lchown(temp, int(r.Uid), int(r.Gid))
	if err == nil {
		err = root.Rename(temp, to)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	return nil
}

// temp is a new name for something on its way.
func (c *copied) temp() string {
	c.next++
	return filepath.Join(filepath.Base(partialDir), strconv.Itoa(c.next))
}

// copyChunk writes a part of a file and says whether it was the last.
func (a *Agent) copyChunk(root *os.Root, path, to string, r *agent.CopyFileRequest) (bool, error) {
	p := a.copied.partial[path]
	if r.Offset == 0 {
		if p != nil { // begun anew
			delete(a.copied.partial, path)
			if err := root.Remove(p.name); err != nil {
				return false, err
			}
		}
		p = &partial{name: a.copied.temp(), size: r.FileSize}
		a.copied.partial[path] = p
	}
	if p == nil || r.Offset != p.got || r.FileSize != p.size {
		return false, invalid("a chunk at %d of %d bytes does not follow what is there", r.Offset, r.FileSize)
	}
	f, err := root.OpenFile(p.name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	_, err = f.WriteAt(r.Data, r.Offset)
	p.got += int64(len(r.Data))
	whole := p.got == p.size
	if err == nil && whole {
		if err = f.Chown(int(r.Uid), int(r.Gid)); err == nil {
			err = f.Chmod(fs.FileMode(r.FileMode & 0o777))
		}
	}
	if err = errors.Join(err, f.Close()); err == nil && whole {
		err = root.Rename(p.name, to)
	}
	if err == nil && !whole {
		return false, nil
	}
	delete(a.copied.partial, path)
	if err != nil {
		return false, errors.Join(err, root.Remove(p.name))
	}
	return true, nil
}
