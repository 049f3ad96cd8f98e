// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"github.com/erofs/go-erofs"

	"github.com/nacre-project/nacre/internal/guestos"
)

// guestProgram is the agent's place in the root image.
const guestProgram = "sbin/nacre-guest"

// sizes are those of the image's files and of the programs.
func (b *bench) sizes(context.Context) ([]Result, error) {
	var rows []Result
	add := func(name, path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		rows = append(rows, New(name, mebibytes(info.Size()), 0, "MiB"))
		return nil
	}
	for _, file := range []struct{ name, path string }{
		{"image size: root", b.Image.Rootfs},
		{"image size: initrd", b.Image.Initrd},
		{"image size: kernel", b.Image.Kernel},
		{"nacre-trustee binary", b.Trustee},
		{"nacre binary", b.Nacre},
	} {
		if err := add(file.name, file.path); err != nil {
			return nil, err
		}
	}
	size, err := guestSize(b.Image)
	if err != nil {
		return nil, err
	}
	return append(rows, New("nacre-guest binary", mebibytes(size), 0, "MiB")), nil
}

// guestSize is the size of nacre-guest as it is in the root image, in bytes.
func guestSize(image *guestos.Image) (int64, error) {
	f, err := os.Open(image.Rootfs)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	root, err := erofs.Open(f)
	if err != nil {
		return 0, fmt.Errorf("reading the root image: %w", err)
	}
	info, err := fs.Stat(root, guestProgram)
	if err != nil {
		return 0, fmt.Errorf("reading the root image: %w", err)
	}
	return info.Size(), nil
}
