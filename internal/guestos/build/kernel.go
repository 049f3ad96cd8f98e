// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/nacre-project/nacre/internal/guestos/cpio"
	"github.com/nacre-project/nacre/internal/guestos/early"
	"github.com/nacre-project/nacre/internal/guestos/kmod"
)

// kernel is what the image takes from the kernel package.
type kernel struct {
	release string
	image   []byte
	config  []byte
	modules [][]loadable // as moduleGroups
}

// loadable is a kernel module of the initial RAM file system.
type loadable struct {
	kmod.Module
	optional bool // a driver that refuses to load where its hardware is absent
}

// requiredConfig are the kernel options without which a guest could not attest or boot.
var requiredConfig = []string{
	"AMD_MEM_ENCRYPT", "SEV_GUEST", "INTEL_TDX_GUEST", "TDX_GUEST_DRIVER", "TSM_REPORTS", "CONFIGFS_FS",
	"VIRTIO_PCI", "VIRTIO_BLK", "VIRTIO_NET", "VIRTIO_CONSOLE", "VIRTIO_VSOCKETS",
	"DM_VERITY", "DM_CRYPT", "DM_INTEGRITY", "EROFS_FS", "OVERLAY_FS", "DEVTMPFS", "RD_ZSTD",
	"SECCOMP", "SECCOMP_FILTER", "CGROUPS", "USER_NS",
}

// moduleGroups are loaded side by side, each in its order, dependencies first: what the root image needs, and what the
// guest needs later.
var moduleGroups = [][]string{
	{"sha256_ssse3?", "virtio_blk", "dm_verity", "erofs"},
	{"overlay", "virtio_net", "vmw_vsock_virtio_transport", "tsm", "sev_guest?", "tdx_guest?"},
}

func findKernel(t *tree) (*kernel, error) {
	k := &kernel{}
	for _, name := range t.below("boot") {
		release, ok := strings.CutPrefix(path.Base(name), "vmlinuz-")
		if !ok {
			continue
		}
		if k.release != "" {
			return nil, fmt.Errorf("two kernels were fetched: %s and %s", k.release, release)
		}
		k.release = release
	}
	if k.release == "" {
		return nil, errors.New("no fetched package has a kernel")
	}
	image, err := t.take("boot/vmlinuz-" + k.release)
	if err != nil {
		return nil, err
	}
	config, err := t.take("boot/config-" + k.release)
	if err != nil {
		return nil, err
	}
	k.image, k.config = image.data, config.data
	if missing := missingOptions(k.config, requiredConfig); len(missing) > 0 {
		return nil, fmt.Errorf("kernel %s is built without %s", k.release, strings.Join(missing, ", "))
	}
	k.modules, err = findModules(t, "usr/lib/modules/"+k.release)
	return k, err
}

// missingOptions returns those options that a kernel configuration sets neither to y nor to m.
func missingOptions(config []byte, options []string) []string {
	set := make(map[string]bool)
	for line := range strings.Lines(string(config)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && (value == "y" || value == "m") {
			set[strings.TrimPrefix(name, "CONFIG_")] = true
		}
	}
	var missing []string
	for _, o := range options {
		if !set[o] {
			missing = append(missing, o)
		}
	}
	return missing
}

func findModules(t *tree, dir string) ([][]loadable, error) {
	builtin, err := t.take(dir + "/modules.builtin")
	if err != nil {
		return nil, err
	}
	modules := kmod.NewTree(builtin.data)
	for _, name := range t.below(dir) {
		modules.Add(name, t.files[name].data)
	}
	var groups [][]loadable
	seen := make(map[string]bool)
	for _, names := range moduleGroups {
		var group []loadable
		for _, name := range names {
			name, optional := strings.CutSuffix(name, "?")
			closure, err := modules.Closure([]string{name})
			if err != nil {
				return nil, err
			}
			for i, m := range closure {
				if seen[m.Name] {
					continue
				}
				seen[m.Name] = true
				t.note(t.files[m.Path])
				group = append(group, loadable{m, optional && i == len(closure)-1})
			}
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// initramfs makes the initial RAM file system, compressed: it is hashed on every measured boot, and unpacking costs the
// kernel less than hashing.
//
// The modules go in without Debian's signatures. The whole archive is in the launch measurement, and checking each
// module's RSA signature again takes a third of the time from /init to the guest where the processor is emulated.
func initramfs(init []byte, groups [][]loadable) ([]byte, error) {
	var archive, list bytes.Buffer
	w := cpio.NewWriter(&archive)
	steps := []error{
		w.Dir("dev", 0o755),
		w.CharDevice("dev/console", 0o600, 5, 1), // the kernel opens it for process 1
		w.Dir("proc", 0o755),
		w.Dir("sys", 0o755),
		w.Dir("newroot", 0o755),
		w.File("init", 0o755, init),
		w.Dir("lib", 0o755),
		w.Dir(early.ModuleDir[1:], 0o755),
	}
	for i, group := range groups {
		if i > 0 {
			list.WriteByte('\n')
		}
		for _, m := range group {
			name := m.Name + ".ko"
			steps = append(steps, w.File(early.ModuleDir[1:]+"/"+name, 0o644, kmod.Unsigned(m.Data)))
			if m.optional {
				list.WriteByte('?')
			}
			list.WriteString(name + "\n")
		}
	}
	steps = append(steps, w.File(early.ModuleList[1:], 0o644, list.Bytes()), w.Close())
	if err := errors.Join(steps...); err != nil {
		return nil, fmt.Errorf("write the initial RAM file system: %w", err)
	}
	// One goroutine: the encoder's output depends on how its input is split.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(archive.Bytes(), nil), nil
}
