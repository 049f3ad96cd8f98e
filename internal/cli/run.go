// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

func newRun() *cobra.Command {
	var (
		h             host
		vcpus, memory int
		asJSON        bool
		verbose       bool
		showConsole   bool
	)
	c := &cobra.Command{
		Use:   "run pod.yaml",
		Short: "Run a pod in a confidential microVM",
		Long: `run boots the measured guest image in a microVM, binds the pod's init-data to it, and runs the pod's containers; the guest pulls their images. Output goes
to the terminal, and the exit status is the pod's. Ctrl-C ends the pod, a second one at once.

The host, which is this command, is not trusted by the guest: it may ask for what the agent policy in the init-data allows. A pod without init-data runs under
the policy of the image, and no secret can reach it.`,
		Example: `  nacre run pod.yaml
  nacre run pod.yaml --json | jq 'select(.event == "output")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := readPod(args[0], c.InOrStdin())
			if err != nil {
				return err
			}
			var report reporter = newTerminal(c.OutOrStdout(), c.ErrOrStderr(), p)
			if asJSON {
				report = newJSONLines(c.OutOrStdout())
			}
			defer report.close()
			image, err := h.image()
			if err != nil {
				return err
			}
			report.step(sandbox.Event{Step: stepPlatform, Text: "making the keys of the simulated platform"})
			begin := time.Now()
			platform, err := h.platform()
			if err != nil {
				return err
			}
			report.step(sandbox.Event{Step: stepPlatform, Done: true, Took: time.Since(begin), Text: "the simulated platform has keys"})
			cache, err := cacheDir()
			if err != nil {
				return err
			}
			cfg := sandbox.Config{
				Image: image, Platform: platform, QEMU: h.qemu, CacheDir: cache, VCPUs: vcpus, MemoryMiB: memory,
				Events: report.step, Log: logger(c.ErrOrStderr(), verbose),
			}
			if showConsole {
				cfg.Console = c.ErrOrStderr()
			}
			code, err := runPod(c.Context(), cfg, p, report)
			if err != nil {
				return err
			}
			report.end(code)
			if code != 0 {
				return &exitError{status: code}
			}
			return nil
		},
	}
	h.flags(c)
	f := c.Flags()
	f.IntVar(&vcpus, "vcpus", 0, "number of virtual processors, which is measured (else from the pod's limits, else 1)")
	f.IntVar(&memory, "memory", 0, "memory of the guest in MiB (else from the pod's limits, else 1024)")
	f.BoolVar(&asJSON, "json", false, "print one JSON object a line for everything that happens, output included")
	f.BoolVarP(&verbose, "verbose", "v", false, "log what is done")
	f.BoolVar(&showConsole, "console", false, "show what the guest prints on its console")
	return c
}

// stepPlatform comes before the sandbox's steps: at the first time it takes seconds.
const stepPlatform sandbox.Step = "platform"

// readPod reads a manifest from a file, or from in for "-".
func readPod(path string, in io.Reader) (*pod.Manifest, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the pod: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, pod.MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("reading the pod: %w", err)
	}
	return pod.Parse(text)
}

// runPod boots a guest for the pod, runs it, and leaves nothing behind.
func runPod(ctx context.Context, cfg sandbox.Config, p *pod.Manifest, report reporter) (int, error) {
	var err error
	if cfg.InitData, err = pod.InitData(p); err != nil {
		return 0, err
	}
	if cfg.InitData == nil {
		report.note("this pod has no init-data: it runs under the image's own policy, and no secret can reach it")
	}
	if exposed := p.Exposed(); len(exposed) > 0 {
		report.note(exposedNote(exposed))
	}
	vcpus, memory := pod.Size(p)
	if cfg.VCPUs == 0 {
		cfg.VCPUs = vcpus
	}
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = memory
	}
	vm, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer vm.Stop()
	if vm.Launch().HostData != ([32]byte{}) {
		report.note(fmt.Sprintf("init-data %.12x is bound to the guest", vm.Launch().HostData))
	}
	code, err := pod.Run(ctx, vm.Agent(), p, pod.Options{Output: report.output, Events: report.container, Log: cfg.Log})
	if err != nil {
		return code, vm.Explain(err)
	}
	return code, nil
}

// exposedNote says of values that they are secret by name only.
func exposedNote(exposed []string) string {
	return fmt.Sprintf("not sealed, so that this host reads them: %s; seal them with `nacre secret seal`", strings.Join(exposed, ", "))
}

func logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.String(slog.TimeKey, a.Value.Time().Format(time.TimeOnly))
		}
		return a
	}}))
}
