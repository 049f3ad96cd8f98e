// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Names below a bundle.
const (
	rootfs  = "rootfs"
	scratch = "overlay" // what the container writes, and overlayfs's work directory
)

// Mount stacks an image's layers, with an empty writable one on top, at <bundle>/rootfs, and returns that path. What
// is written lies in <bundle>/overlay; the bundle's directory must be where the host cannot read. It takes the right
// to mount.
func (p *Puller) Mount(image *Image, bundle string) (string, error) {
	target := filepath.Join(bundle, rootfs)
	upper, work := filepath.Join(bundle, scratch, "upper"), filepath.Join(bundle, scratch, "work")
	lower := stack(image.Layers)
	if len(lower) == 0 { // an image without files; overlayfs wants a lower layer
		lower = []string{filepath.Join(bundle, scratch, "empty")}
	}
	for _, dir := range append([]string{target, upper, work}, lower...) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", failed(CodeMountFailed, err, "making the bundle's directories")
		}
	}
	err := likeIn(lower[0], upper)
	if err == nil {
		err = mountOverlay(lower, upper, work, target)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(filepath.Join(bundle, scratch)))
		return "", failed(CodeMountFailed, err, "%s", image.Reference)
	}
	return target, nil
}

// stack returns the directories top first, as overlayfs wants them, each once: of equal layers, overlayfs takes one
// only, and the topmost repeats all that the lower one did.
func stack(bottomFirst []string) []string {
	var top []string
	for _, dir := range slices.Backward(bottomFirst) {
		if !slices.Contains(top, dir) {
			top = append(top, dir)
		}
	}
	return top
}

// likeIn gives upper, which is to be the container's root directory, the owner and mode of the topmost layer's.
func likeIn(layer, upper string) error {
	var st unix.Stat_t
	if err := unix.Lstat(layer, &st); err != nil {
		return fmt.Errorf("%s: %w", layer, err)
	}
	if err := os.Lchown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(upper, st.Mode&0o7777)
}

func mountOverlay(lower []string, upper, work, target string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("opening overlayfs: %w", err)
	}
	defer os.NewFile(uintptr(fd), "overlayfs").Close()
	set := func(key, value string) {
		if err == nil {
			err = explained(fd, "overlayfs "+key+"="+value, unix.FsconfigSetString(fd, key, value))
		}
	}
	set("source", "overlay")
	for _, dir := range lower {
		set("lowerdir+", dir)
	}
	set("upperdir", upper)
	set("workdir", work)
	if err != nil {
		return err
	}
	// The unpacker marks opaque directories with user attributes (package unpack).
	if err := explained(fd, "overlayfs userxattr", unix.FsconfigSetFlag(fd, "userxattr")); err != nil {
		return err
	}
	if err := explained(fd, "mounting overlayfs", unix.FsconfigCreate(fd)); err != nil {
		return err
	}
	// Device nodes that a container finds a way to make in its image must not work; those it may have are elsewhere.
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fmt.Errorf("mounting overlayfs: %w", err)
	}
	defer os.NewFile(uintptr(mount), "overlayfs").Close()
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting at %s: %w", target, err)
	}
	return nil
}

// explained adds what the kernel has to say about an error of a mount's configuration.
func explained(fd int, doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	buf := make([]byte, 1024)
	if n, readErr := unix.Read(fd, buf); readErr == nil && n > 0 {
		err = fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(buf[:n])))
	}
	return err
}

// Unmount takes away what Mount made below a bundle. What the container wrote is gone then. It is no error when
// nothing is mounted.
func (p *Puller) Unmount(bundle string) error {
	target := filepath.Join(bundle, rootfs)
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) { // EINVAL: no mount point
		return failed(CodeMountFailed, err, "unmounting %s", target)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(bundle, scratch)), removeEmpty(target)); err != nil {
		return failed(CodeMountFailed, err, "removing what %s wrote", bundle)
	}
	return nil
}

func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
