// SPDX-License-Identifier: Apache-2.0

// Package early is the guest's first user space: the program of the initial RAM file system. It loads the kernel
// modules that the guest will ever need, verifies the root image against the hash on the measured command line,
// makes it the root and hands over to the guest proper.
//
// It trusts the kernel, the initial RAM file system that it comes from and the command line: all three are in the
// launch measurement. It trusts no device: the drive is chosen by a name that the host gives, and any drive will do,
// because only blocks that fit the root hash can be read from it. It reads no configuration, opens no network and
// offers no shell. When anything is wrong it says so in one line on the console and powers the machine off.
package early

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/internal/guestos/verity"
)

// Where things are in the initial RAM file system. The image builder writes them there.
const (
	ModuleDir  = "/lib/nacre"           // kernel modules, uncompressed
	ModuleList = ModuleDir + "/modules" // see parseModuleList
	newRoot    = "/newroot"             // mount point for the verified root
	guest      = "/sbin/nacre-guest"    // in the verified root: what runs next, as process 1
	DriveName  = "nacre-root"           // virtio-blk serial number of the drive with the root image
	mapping    = "nacre-root"           // name of the device-mapper device
	driveWait  = 10 * time.Second       // for a slow host to show the drive
	drivePoll  = 5 * time.Millisecond   //
	sectorSize = 512                    // bytes; device-mapper and sysfs count in these
	maxModules = 256                    // entries of ModuleList
)

// Code is the stable name of a reason to refuse to boot.
type Code string

const (
	CodeRootVerity Code = "root_verity" // the root image is not the one that was measured
	CodeBootFailed Code = "boot_failed" // anything else
)

// refusal is an error with the code that the console line shows.
type refusal struct {
	code Code
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Main boots the guest. On success it does not return, because the process becomes the guest proper. On failure it
// prints the refusal on the console and powers off.
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "nacre-init is /init of the guest image; it does nothing outside of one")
		os.Exit(2)
	}
	err := boot()
	code := CodeBootFailed
	var r *refusal
	if errors.As(err, &r) {
		code = r.code
	}
	// Process 1 starts with the console as its standard streams (the kernel opens it for init). The newline before the
	// refusal ends what the boot firmware may have left there.
	fmt.Fprintf(os.Stderr, "\nnacre: refused code=%s %s\n", code, oneLine(err.Error()))
	unix.Sync()
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// Only without ACPI does this return; then process 1 ends, and panic= on the command line decides.
	fmt.Fprintf(os.Stderr, "nacre: power off: %v\n", err)
	os.Exit(1)
}

func boot() error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
	}{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel command line: %w", err)
	}
	params, err := verity.FromCmdline(string(cmdline))
	if err != nil {
		return err
	}
	wait, err := loadModules()
	if err != nil {
		return err
	}
	drive, err := findDrive("/sys/class/block", driveWait)
	if err != nil {
		return err
	}
	if err := mountRoot(drive, params); err != nil {
		return &refusal{CodeRootVerity, err}
	}
	if err := wait(); err != nil {
		return err
	}
	return handOver()
}

// loadModules loads what ModuleList names: the first group at once, the others while the caller goes on. wait returns
// when they are loaded, too.
func loadModules() (wait func() error, err error) {
	list, err := os.ReadFile(ModuleList)
	if err != nil {
		return nil, fmt.Errorf("read the list of kernel modules: %w", err)
	}
	groups, err := parseModuleList(list)
	if err != nil {
		return nil, err
	}
	rest := groups[1:]
	loaded := make(chan error, len(rest))
	for _, group := range rest {
		go func() { loaded <- loadGroup(group) }()
	}
	wait = func() error {
		var err error
		for range rest {
			err = errors.Join(err, <-loaded)
		}
		return err
	}
	return wait, loadGroup(groups[0])
}

func loadGroup(group []module) error {
	for _, m := range group {
		if err := loadModule(filepath.Join(ModuleDir, m.file)); err != nil && !m.optional {
			return fmt.Errorf("load kernel module %s: %w", m.file, err)
		}
	}
	return nil
}

type module struct {
	file     string
	optional bool // the driver of hardware that may be absent
}

// parseModuleList reads the list of modules: one file name a line, in loading order, "?" before one that may fail to
// load. An empty line ends a group. Groups do not depend on each other; the first has what the root image needs.
func parseModuleList(list []byte) ([][]module, error) {
	groups := [][]module{nil}
	n := 0
	for line := range strings.Lines(string(list)) {
		file, optional := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "?")
		if line == "\n" {
			groups = append(groups, nil)
			continue
		}
		if file == "" || strings.ContainsRune(file, '/') {
			return nil, fmt.Errorf("list of kernel modules: entry %q", line)
		}
		if n++; n > maxModules {
			return nil, fmt.Errorf("list of kernel modules: more than %d entries", maxModules)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, module{file, optional})
	}
	return groups, nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// findDrive returns the device node of the drive whose serial number is DriveName.
func findDrive(classBlock string, wait time.Duration) (string, error) {
	deadline := time.Now().Add(wait)
	for {
		serials, err := filepath.Glob(filepath.Join(classBlock, "*", "serial"))
		if err != nil {
			return "", fmt.Errorf("look for drives: %w", err)
		}
		for _, s := range serials {
			// virtio-blk shows at most 20 bytes; anything else here is not ours.
			if id, err := os.ReadFile(s); err == nil && strings.TrimSpace(string(id)) == DriveName {
				return "/dev/" + filepath.Base(filepath.Dir(s)), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no drive with serial number %s appeared within %v", DriveName, wait)
		}
		time.Sleep(drivePoll)
	}
}

// mountRoot puts dm-verity over the drive and mounts the file system that it protects on newRoot. Every block that is
// read from now on, at any time, is checked; one that does not fit the root hash is an I/O error.
func mountRoot(drive string, p verity.Params) error {
	if err := checkSize(filepath.Join("/sys/class/block", filepath.Base(drive), "size"), p); err != nil {
		return err
	}
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("open the device mapper: %w", err)
	}
	defer func() { _ = control.Close() }()
	table, err := dm.BuildTargetParams(dm.OpenArgs{
		Version:        1,
		DataDevice:     drive,
		HashDevice:     drive,
		DataBlockSize:  verity.BlockSize,
		HashBlockSize:  verity.BlockSize,
		DataBlocks:     p.DataBlocks,
		HashName:       "sha256",
		RootDigest:     p.RootHash[:],
		Salt:           p.Salt,
		HashStartBytes: p.DataBlocks * verity.BlockSize,
	})
	if err != nil {
		return fmt.Errorf("describe the root image: %w", err)
	}
	dev, err := control.CreateDevice(mapping)
	if err != nil {
		return err
	}
	target := dm.Target{Length: p.DataBlocks * (verity.BlockSize / sectorSize), Type: "verity", Params: table}
	if err := control.LoadTable(mapping, []dm.Target{target}); err != nil {
		return fmt.Errorf("%s does not hold the measured root image: %w", drive, err)
	}
	if err := control.SuspendDevice(mapping, false); err != nil {
		return err
	}
	node := fmt.Sprintf("/dev/dm-%d", unix.Minor(dev))
	if err := unix.Mount(node, newRoot, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount the measured root image: %w", err)
	}
	return checkGuest(filepath.Join(newRoot, guest))
}

// checkSize says plainly what the device mapper would refuse without a word: a drive that is too small for the data.
func checkSize(file string, p verity.Params) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the size of the drive: %w", err)
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("read the size of the drive: %w", err)
	}
	if have, want := sectors*sectorSize, p.DataBlocks*verity.BlockSize; have <= want {
		return fmt.Errorf("the drive has %d bytes, the data of the measured root image alone %d", have, want)
	}
	return nil
}

// checkGuest reads the program that runs next, all of it. The kernel would otherwise find a changed block of it only
// when the block is first used, and kill process 1 without a word. The pages stay cached, so this is not lost time.
func checkGuest(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the guest program: %w", err)
	}
	defer f.Close()
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer null.Close()
	for {
		// Reads into the cache and copies nothing.
		n, err := unix.Sendfile(int(null.Fd()), int(f.Fd()), nil, 1<<30)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read the guest program: %w", err)
		}
		if n == 0 && err == nil {
			return nil
		}
	}
}

// handOver makes newRoot the root, frees the memory of the initial RAM file system and executes the guest.
func handOver() error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the new root: %w", dir, err)
		}
	}
	if err := os.RemoveAll(ModuleDir); err != nil {
		return fmt.Errorf("free the initial RAM file system: %w", err)
	}
	if err := os.Remove("/init"); err != nil {
		return fmt.Errorf("free the initial RAM file system: %w", err)
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change to the new root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	err := unix.Exec(guest, []string{guest}, []string{"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "HOME=/root"})
	return fmt.Errorf("execute %s: %w", guest, err)
}

// oneLine keeps control characters off the console.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
