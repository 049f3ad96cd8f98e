// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/internal/sandbox/accel"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
	"github.com/nacre-project/nacre/internal/sandbox/vmm"
)

// finding is what doctor found out about one thing.
type finding struct {
	What   string `json:"what"`
	Status string `json:"status"` // ok, note (works without) or fail (pods cannot run)
	Text   string `json:"text"`
	Next   string `json:"next"` // what to do; for what is in order, what follows from it
}

const (
	statusOK   = "ok"
	statusNote = "note"
	statusFail = "fail"
)

func newDoctor(o *owner) *cobra.Command {
	var (
		h      host
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what this machine can do, and what to do next",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			findings := h.examine(c.Context(), o)
			failed := false
			for _, f := range findings {
				failed = failed || f.Status == statusFail
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), findings); err != nil {
					return err
				}
			} else {
				printFindings(c.OutOrStdout(), findings)
			}
			if failed {
				return &exitError{status: 1}
			}
			return nil
		},
	}
	h.flags(c)
	o.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printFindings(w io.Writer, findings []finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%-5s %-14s %s\n%20s → %s\n", f.Status, f.What, f.Text, "", f.Next)
	}
}

func (h *host) examine(ctx context.Context, o *owner) []finding {
	return []finding{h.examineQEMU(ctx), h.examineImage(), h.examineKVM(ctx), examineTEE(), examineVsock(), h.examineSimulated(), examineTrustee(ctx, o)}
}

var qemuVersion = regexp.MustCompile(`version (\d+)\.(\d+)`)

func (h *host) examineQEMU(ctx context.Context) finding {
	f := finding{What: "qemu", Status: statusFail, Next: "install it with `make deps` (Debian: qemu-system-x86 from bookworm-backports)"}
	binary := h.qemu
	if binary == "" {
		binary = vmm.Binary
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		f.Text = err.Error()
		return f
	}
	m := qemuVersion.FindSubmatch(out)
	if m == nil {
		f.Text = fmt.Sprintf("%s does not say its version", binary)
		return f
	}
	major, _ := strconv.Atoi(string(m[1])) // digits, by the expression
	minor, _ := strconv.Atoi(string(m[2]))
	f.Text = fmt.Sprintf("QEMU %d.%d", major, minor)
	switch {
	case major < 8:
		f.Next = "it is too old to be started as a dropped user with everything passed as descriptors; " + f.Next
	case major < 10 || major == 10 && minor < 1:
		f.Status, f.Next = statusOK, "it runs pods and knows SEV-SNP; TDX needs QEMU 10.1"
	default:
		f.Status, f.Next = statusOK, "it runs pods and knows SEV-SNP and TDX"
	}
	return f
}

func (h *host) examineImage() finding {
	f := finding{What: "image", Status: statusFail, Next: "build it with `make image`, or name it with --image-dir"}
	image, err := h.image()
	if err != nil {
		f.Text = err.Error()
		return f
	}
	if err := image.Verify(); err != nil {
		f.Text = err.Error()
		return f
	}
	f.Status = statusOK
	f.Text = fmt.Sprintf("kernel %s, inputs of %s, in %s", image.Manifest.Kernel,
		time.Unix(image.Manifest.BuiltAt, 0).UTC().Format(time.DateOnly), image.Dir)
	f.Next = "`nacre measure` predicts what its guests report"
	return f
}

func (h *host) examineKVM(ctx context.Context) finding {
	f := finding{What: "kvm", Status: statusNote, Next: "pods run under QEMU's translator, several times slower; nothing to do where the hardware lacks it"}
	image, err := h.image()
	if err != nil {
		f.Text, f.Next = "not tried: there is no kernel to try it with", "build the image with `make image`"
		return f
	}
	cache, err := cacheDir()
	if err != nil {
		f.Text = err.Error()
		return f
	}
	answer, err := accel.Prober{QEMU: h.qemu, Kernel: image.Kernel, CacheDir: cache, Log: slog.New(slog.DiscardHandler)}.Probe(ctx)
	if err != nil {
		f.Text = err.Error()
		return f
	}
	f.Text = answer.Reason
	if answer.Accel == qemu.KVM {
		f.Status, f.Next = statusOK, "pods run at full speed"
	} else if errors.Is(openable(accel.Device), fs.ErrPermission) {
		f.Next = "add yourself to the group of " + accel.Device + " (Debian: kvm) and log in again"
	}
	return f
}

func openable(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func examineTEE() finding {
	f := finding{What: "tee", Status: statusNote}
	found := ""
	for name, parameter := range map[string]string{
		"SEV-SNP": "/sys/module/kvm_amd/parameters/sev_snp", "TDX": "/sys/module/kvm_intel/parameters/tdx",
	} {
		if text, err := os.ReadFile(parameter); err == nil && strings.ContainsAny(string(text), "Y1") {
			found = name
		}
	}
	if found == "" {
		f.Text = "this machine has none: pods run on the simulated platform, which protects nothing from this host"
		f.Next = "good for development; for secrets that matter use a machine with SEV-SNP or TDX"
		return f
	}
	f.Text = found + " is there, but this release starts guests on the simulated platform only"
	f.Next = "nothing yet; `nacre run` protects nothing from this host"
	return f
}

func examineVsock() finding {
	f := finding{What: "vhost-vsock", Status: statusOK, Text: "not there", Next: "nothing: host and guest talk over a virtio-serial port"}
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		f.Text = "there, and not needed"
	}
	return f
}

func (h *host) examineSimulated() finding {
	f := finding{What: "simulated TEE", Status: statusNote}
	dir, err := h.simulatedDir()
	if err != nil {
		f.Text, f.Next = err.Error(), "name a directory with --simtee-dir"
		return f
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		f.Text, f.Next = "no keys yet in "+dir, "nothing: the first `nacre run` or `nacre measure` makes them"
		return f
	}
	platform, err := h.platform()
	if err != nil {
		f.Status, f.Text = statusFail, err.Error()
		f.Next = fmt.Sprintf("move %s away; new keys are made, and trustees must be given the new root", filepath.Clean(dir))
		return f
	}
	f.Status, f.Text = statusOK, fmt.Sprintf("root %s in %s", fingerprint(platform.Root()), dir)
	f.Next = "a trustee takes its evidence only if given `nacre simtee root`, and releases to it only with --allow-simulated"
	return f
}

func examineTrustee(ctx context.Context, o *owner) finding {
	f := finding{What: "trustee", Status: statusNote}
	config, err := o.resolve()
	if err != nil {
		f.Text, f.Next = err.Error(), "mend the configuration file"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	f.Next = "start one with nacre-trustee, and name it with --trustee and --trustee-cert or in config.toml; pods run without"
	a, err := o.admin()
	if err != nil {
		f.Text = err.Error()
		return f
	}
	defer a.Close()
	p, err := a.ResourcePolicy(ctx)
	if err != nil {
		f.Text = err.Error()
		return f
	}
	f.Status, f.Text = statusOK, fmt.Sprintf("%s answers, and its release policy is %s@sha256:%.12s%s", config.Trustee, p.ID, p.Digest, unsafeChoices(p))
	f.Next = "`nacre secret put` stores secrets, `nacre policy set-release` says who gets them"
	return f
}
