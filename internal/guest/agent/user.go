// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxUserFile caps an image's /etc/passwd and /etc/group, in bytes; the rest is not looked at.
const maxUserFile = 1 << 20

// imageUser resolves the user of an image's configuration ("", "user", "user:group", names or numbers) by the image's
// own files below root. If those are symbolic links, they are followed where they are relative and stay below root;
// absolute ones are refused, even those that would lie below root if that were "/".
func imageUser(root, user string) (specs.User, error) {
	if user == "" {
		return specs.User{}, nil
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return specs.User{}, err
	}
	defer func() { _ = dir.Close() }()
	name, group, hasGroup := strings.Cut(user, ":")
	u := specs.User{}
	entry, err := lookup(dir, "etc/passwd", name, 7)
	switch {
	case err != nil:
		return specs.User{}, err
	case entry != nil:
		name = entry[0]
		if u.UID, err = number(entry[2]); err == nil {
			u.GID, err = number(entry[3])
		}
	default:
		u.UID, err = number(name)
	}
	if err != nil {
		return specs.User{}, fmt.Errorf("the image's user %.100q: %w", user, err)
	}
	if hasGroup {
		u.GID, err = groupID(dir, group)
		if err != nil {
			return specs.User{}, fmt.Errorf("the image's user %.100q: %w", user, err)
		}
		return u, nil // a group that is named is the only one
	}
	u.AdditionalGids, err = groupsOf(dir, name, u.GID)
	return u, err
}

func groupID(dir *os.Root, group string) (uint32, error) {
	entry, err := lookup(dir, "etc/group", group, 4)
	if err != nil {
		return 0, err
	}
	if entry != nil {
		return number(entry[2])
	}
	return number(group)
}

// lookup returns the entry whose name, or number in the third field, is key; nil if there is none.
func lookup(dir *os.Root, file, key string, fields int) ([]string, error) {
	var found []string
	err := entries(dir, file, fields, func(entry []string) bool {
		if entry[0] == key || found == nil && entry[2] == key {
			found = entry
		}
		return found == nil || found[0] != key
	})
	return found, err
}

// maxGroups is the kernel's NGROUPS_MAX bounded to what an image can mean.
const maxGroups = 1024

func groupsOf(dir *os.Root, name string, primary uint32) ([]uint32, error) {
	var groups []uint32
	err := entries(dir, "etc/group", 4, func(entry []string) bool {
		if slices.Contains(strings.Split(entry[3], ","), name) {
			if gid, err := number(entry[2]); err == nil && gid != primary && !slices.Contains(groups, gid) {
				groups = append(groups, gid)
			}
		}
		return len(groups) < maxGroups
	})
	return groups, err
}

// entries calls visit for the lines of a user file that have enough fields, until it returns false.
func entries(dir *os.Root, file string, fields int, visit func([]string) bool) error {
	// Not blocking: the image may have put a named pipe there.
	f, err := dir.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the image's users: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("reading the image's users: %s is not a file", file)
	}
	for lines := bufio.NewScanner(io.LimitReader(f, maxUserFile)); lines.Scan(); {
		entry := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(entry) >= fields && entry[0] != "" && !strings.HasPrefix(entry[0], "#") && !visit(entry) {
			break
		}
	}
	return nil
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 31) // more than this are not ids
	if err != nil {
		return 0, fmt.Errorf("%.100q is neither a name in the image nor a number", text)
	}
	return uint32(n), nil
}
