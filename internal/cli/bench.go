// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/bench"
	"github.com/nacre-project/nacre/internal/cli/busybox"
)

func newBench() *cobra.Command {
	group := &cobra.Command{
		Use:   "bench",
		Short: "Measure Nacre: against its floor, or a trustee under load",
	}
	group.AddCommand(newBenchFloor(), newBenchLoad())
	return group
}

func newBenchFloor() *cobra.Command {
	var (
		h           host
		options     bench.Options
		program     string
		only        string
		out, readme string
	)
	c := &cobra.Command{
		Use:   "floor [-o bench.json] [--readme README.md]",
		Short: "Measure Nacre on this machine, against what cannot cost less",
		Long: `bench floor measures what a request costs the trustee, what a guest takes to start and to live, and what Nacre adds
to a bare boot, each in the same run as its floor: a program that does the unavoidable part and nothing else. It
prints a table; no figure makes it fail.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			switch options.Only = bench.Side(only); options.Only {
			case "", bench.Trustee, bench.Guest:
			default:
				return &exitError{2, fmt.Errorf("--only %s: want %s or %s", only, bench.Trustee, bench.Guest)}
			}
			if options.Nacre, err = os.Executable(); err != nil {
				return err
			}
			programs := map[string]*string{"nacre-trustee": &options.Trustee, "nacre-floor": &options.Floor}
			for name, program := range programs {
				*program = filepath.Join(filepath.Dir(options.Nacre), name)
				if _, err := os.Stat(*program); err != nil {
					return fmt.Errorf("%w: the benchmarks need %s beside nacre; `make bench` makes both", err, name)
				}
			}
			if options.Dir == "" {
				dir, err := stateDir()
				if err != nil {
					return err
				}
				options.Dir = filepath.Join(dir, "bench")
			}
			if options.Platform, err = h.platform(); err != nil {
				return err
			}
			if options.CacheDir, err = cacheDir(); err != nil {
				return err
			}
			if options.Image, err = h.image(); err != nil {
				return err
			}
			simtee, err := h.simulatedDir()
			if err != nil {
				return err
			}
			registry, err := busybox.Serve(c.Context(), program)
			if err != nil {
				return err
			}
			defer registry.Close()
			options.PodImage, options.QEMU = registry.Reference, h.qemu
			options.RunArgs = []string{"--image-dir", options.Image.Dir, "--simtee-dir", simtee, "--qemu", h.qemu}
			options.InitData, options.Log = benchInitData, c.ErrOrStderr()
			report, err := bench.Run(c.Context(), options)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s\n\n%s", report.Machine, bench.Table(report.Results))
			if out != "" {
				if err := bench.Write(out, report.Results); err != nil {
					return err
				}
			}
			if readme != "" {
				return bench.Insert(readme, report.Machine, report.Results)
			}
			return nil
		},
	}
	h.flags(c)
	f := c.Flags()
	f.StringVarP(&out, "out", "o", "", "write the figures to this file, as JSON")
	f.StringVar(&readme, "readme", "", "put the table between the marks of this Markdown document")
	f.StringVar(&options.Dir, "dir", "", "the benchmark's own folder (else below $XDG_STATE_HOME/nacre)")
	f.StringVar(&only, "only", "", "measure one side: trustee, or guest")
	f.StringVar(&program, "busybox", "/usr/bin/busybox", "the static busybox that the container image is made of")
	f.BoolVar(&options.Scale, "scale", false, "also measure a trustee with 10⁶ resources and 10⁵ reference values (minutes)")
	f.IntVar(&options.Requests, "requests", bench.DefaultRequests, "attestations in a round")
	f.IntVar(&options.Rounds, "rounds", bench.DefaultRounds, "rounds; a figure is the median of them")
	return c
}

// benchInitData is `nacre initdata create` for a manifest in memory.
func benchInitData(trusteeURL string, cert []byte, manifest string) ([]byte, error) {
	file, err := os.CreateTemp("", "nacre-bench-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(manifest)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	g := guestConfig{trustee: trusteeURL, cert: cert, algorithm: initdata.SHA256, podFile: file.Name()}
	g.policy.AllowLogs = true
	return g.build()
}
