// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/api/agent"
)

// Storage drivers that this guest knows. None touches a device of the host's.
const (
	driverImage     = "image_guest_pull" // an image that the guest pulls
	driverEphemeral = "ephemeral"        // tmpfs
	driverLocal     = "local"            // a directory
)

// maxVolumes caps what requests can mount.
const maxVolumes = 64

// addVolume makes a tmpfs or a directory of the pod. One that is there already, made by another container of the pod
// or by an earlier run of the same, stays as it is. The caller holds mu.
func (a *Agent) addVolume(s *agent.Storage) error {
	path, err := a.volumePath(s.MountPoint)
	if err != nil {
		return err
	}
	if a.volumes[path] {
		return nil
	}
	if len(a.volumes) >= maxVolumes {
		return invalid("more than %d volumes", maxVolumes)
	}
	o, err := parseVolumeOptions(s.Options)
	if err != nil {
		return invalid("volume %.200q: %v", s.MountPoint, err)
	}
	switch s.Driver {
	case driverEphemeral:
		err = mountMemory(path, o)
	case driverLocal:
		err = os.MkdirAll(path, 0o755)
		if err == nil {
			err = os.Chmod(path, o.mode)
		}
	default:
		return invalid("storage driver %.100q: this guest has %s and %s, and %s for images", s.Driver, driverEphemeral,
			driverLocal, driverImage)
	}
	if group := s.FsGroup.GetGroupId(); err == nil && s.FsGroup != nil {
		err = errors.Join(os.Chown(path, 0, int(group)), unix.Chmod(path, uint32(o.mode.Perm())|unix.S_ISGID|0o060))
	}
	if err != nil {
		return failed("making volume "+s.MountPoint, err)
	}
	a.volumes[path] = true
	return nil
}

// volumePath checks that a volume lies below the sandbox's directory, and neither in nor around another volume: a
// container could leave a link in what it can write, and the agent would follow it. So nothing but the agent makes what
// stands on the way to a volume. The caller holds mu.
func (a *Agent) volumePath(path string) (string, error) {
	base := filepath.Join(a.Dir, sandboxDir)
	rest, ok := strings.CutPrefix(path, base+"/")
	if !ok || filepath.Clean(path) != path || len(path) > unix.PathMax-1 {
		return "", invalid("volume %.200q does not lie below %s", path, base)
	}
	elements := strings.Split(rest, "/")
	if len(elements) > 2 {
		return "", invalid("volume %.200q lies deeper than two directories below %s", path, base)
	}
	for _, e := range elements {
		if err := checkIdentifier("volume name", e); err != nil {
			return "", err
		}
	}
	shared := filepath.Join(a.Dir, shmDir) // every container has it
	for other := range a.volumes {
		if strings.HasPrefix(path, other+"/") || strings.HasPrefix(other, path+"/") {
			return "", invalid("volume %q and volume %q lie one in the other", path, other)
		}
	}
	if strings.HasPrefix(path, shared+"/") {
		return "", invalid("volume %.200q lies in the memory that all containers share", path)
	}
	for _, file := range []string{resolvConf, hostsFile, hostname} {
		if path == filepath.Join(a.Dir, file) {
			return "", invalid("volume %q is one of the sandbox's files", path)
		}
	}
	return path, nil
}

type volumeOptions struct {
	mode   os.FileMode
	size   int64 // bytes; 0 is half of the memory, tmpfs's default
	noexec bool
}

// parseVolumeOptions reads mount options. Those that only say what is done anyway are taken and ignored.
func parseVolumeOptions(options []string) (volumeOptions, error) {
	o := volumeOptions{mode: 0o755}
	if len(options) > 32 {
		return o, fmt.Errorf("%d options, at most 32 are read", len(options))
	}
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		var err error
		switch {
		case key == "mode" && hasValue:
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 12)
			// Directories need no set-id bits; the sticky bit they do.
			o.mode = os.FileMode(mode & 0o777)
			if mode&0o1000 != 0 {
				o.mode |= os.ModeSticky
			}
		case key == "size" && hasValue:
			if o.size, err = strconv.ParseInt(value, 10, 64); err == nil && o.size <= 0 {
				err = errors.New("want a positive number of bytes")
			}
		case option == "noexec":
			o.noexec = true
		case option == "nosuid", option == "nodev", option == "rw", option == "relatime":
		default:
			err = errors.New("not known")
		}
		if err != nil {
			return o, fmt.Errorf("option %.100q: %w", option, err)
		}
	}
	return o, nil
}

func mountMemory(path string, o volumeOptions) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if o.noexec {
		flags |= unix.MS_NOEXEC
	}
	mode := uint32(o.mode.Perm())
	if o.mode&os.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	data := fmt.Sprintf("mode=%o", mode)
	if o.size > 0 {
		data += fmt.Sprintf(",size=%d", o.size)
	}
	return unix.Mount("tmpfs", path, "tmpfs", flags, data)
}
