// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/guestos"
)

// host is the context of the commands that run pods on this machine.
type host struct {
	imageDir, simteeDir, qemu string
}

func (h *host) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&h.imageDir, "image-dir", "", "the guest image (or NACRE_IMAGE_DIR; else build/image and the usual places)")
	f.StringVar(&h.simteeDir, "simtee-dir", "", "the simulated platform's keys (else below $XDG_STATE_HOME/nacre; made if not there)")
	f.StringVar(&h.qemu, "qemu", "", "the QEMU to run (else qemu-system-x86_64 in PATH)")
}

// image opens the guest image: where the flag or the environment says, else the first of the usual places that has one.
func (h *host) image() (*guestos.Image, error) {
	if h.imageDir != "" {
		return guestos.Load(h.imageDir)
	}
	if dir := os.Getenv("NACRE_IMAGE_DIR"); dir != "" {
		return guestos.Load(dir)
	}
	places := []string{"build/image"}
	if program, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(program), "..", "image"))
	}
	if dir, err := xdg("XDG_DATA_HOME", ".local/share"); err == nil {
		places = append(places, filepath.Join(dir, "image"))
	}
	places = append(places, "/usr/local/share/nacre/image", "/usr/share/nacre/image")
	for _, dir := range places {
		if image, err := guestos.Load(dir); !errors.Is(err, guestos.ErrNoImage) {
			return image, err
		}
	}
	return nil, fmt.Errorf("%w in %q: build it with `make image`, or name it with --image-dir", guestos.ErrNoImage, places)
}

// simulatedDir is where the simulated platform keeps its keys.
func (h *host) simulatedDir() (string, error) {
	if h.simteeDir != "" {
		return h.simteeDir, nil
	}
	dir, err := stateDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "simtee"), nil
}

// platform opens the simulated platform, making its keys at the first time.
func (h *host) platform() (*signer.Platform, error) {
	dir, err := h.simulatedDir()
	if err != nil {
		return nil, err
	}
	return signer.Open(dir)
}
