// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
)

// Names of the reference values that the default appraisal policy asks for.
const (
	refMeasurement = "snp_launch_measurement"
	refInitData    = "init_data"
	refBootloader  = "snp_bootloader"
	refTEE         = "snp_tee_svn"
	refSNP         = "snp_snp_svn"
	refMicrocode   = "snp_microcode"
)

// prediction is what `nacre measure --json` prints.
type prediction struct {
	TEE         string `json:"tee"`
	Simulated   bool   `json:"simulated"`
	Measurement string `json:"snp_launch_measurement"` // hex
	InitData    string `json:"init_data,omitempty"`    // hex, as the platform reports it
	VCPUs       int    `json:"vcpus"`
	CPUModel    string `json:"cpu_model"`
	Cmdline     string `json:"cmdline"`
	// ReferenceValues are what the owner registers so that this guest is appraised as affirming.
	ReferenceValues map[string][]any `json:"reference_values"`
}

func newMeasure() *cobra.Command {
	var (
		h      host
		vcpus  int
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "measure [pod.yaml | initdata.toml]",
		Short: "Predict what a guest will report: its launch measurement and init-data digest",
		Long: `measure computes, from the image and nothing else, the launch measurement that a guest will report, and from a pod's annotation (or an init-data file) the
init-data digest that will be bound to it. No guest is started, so that what is registered does not depend on what a host says.`,
		Example: `  nacre measure pod.yaml
  nacre measure pod.yaml --json | jq -r .snp_launch_measurement`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var initData []byte
			if len(args) == 1 {
				subject, err := readSubject(args[0])
				if err != nil {
					return err
				}
				initData = subject.initData
				if vcpus == 0 {
					vcpus = subject.vcpus
				}
			}
			p, err := h.predict(vcpus, initData)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), p)
			}
			return p.print(c.OutOrStdout())
		},
	}
	h.flags(c)
	c.Flags().IntVar(&vcpus, "vcpus", 0, "number of virtual processors, which is measured (else from the pod's limits)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// subject is what a measurement is about.
type subject struct {
	initData []byte
	vcpus    int
}

// readSubject reads a pod manifest, or an init-data text.
func readSubject(path string) (subject, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return subject{}, fmt.Errorf("reading what is to be measured: %w", err)
	}
	if _, err := initdata.Parse(text); err == nil {
		return subject{initData: text}, nil
	}
	p, err := pod.Parse(text)
	if err != nil {
		return subject{}, fmt.Errorf("%s: %w", path, err)
	}
	raw, err := pod.InitData(p)
	if err != nil {
		return subject{}, fmt.Errorf("%s: %w", path, err)
	}
	vcpus, _ := pod.Size(p)
	return subject{raw, vcpus}, nil
}

func (h *host) predict(vcpus int, initData []byte) (*prediction, error) {
	image, err := h.image()
	if err != nil {
		return nil, err
	}
	launch, err := sandbox.Predict(image, vcpus, initData)
	if err != nil {
		return nil, err
	}
	platform, err := h.platform()
	if err != nil {
		return nil, err
	}
	p := &prediction{
		TEE: "snp", Simulated: true, Measurement: fmt.Sprintf("%x", launch.Measurement), VCPUs: launch.VCPUs,
		CPUModel: qemu.MeasuredCPU, Cmdline: launch.Cmdline,
	}
	p.ReferenceValues = platformLevels(platform.TCB())
	p.ReferenceValues[refMeasurement] = []any{p.Measurement}
	if initData != nil {
		p.InitData = fmt.Sprintf("%x", launch.HostData)
		p.ReferenceValues[refInitData] = []any{p.InitData}
	}
	return p, nil
}

// platformLevels are the reference values of a platform's firmware.
func platformLevels(tcb snp.TCBVersion) map[string][]any {
	return map[string][]any{
		refBootloader: {tcb.Bootloader}, refTEE: {tcb.TEE}, refSNP: {tcb.SNP}, refMicrocode: {tcb.Microcode},
	}
}

func (p *prediction) print(w io.Writer) error {
	fmt.Fprintf(w, "launch measurement  %s\n", p.Measurement)
	if p.InitData != "" {
		fmt.Fprintf(w, "init-data digest    %s\n", p.InitData)
	} else {
		fmt.Fprintln(w, "init-data digest    none: such a guest runs, and no default policy releases a secret to it")
	}
	fmt.Fprintf(w, "virtual processors  %d of model %s\nplatform            simulated SEV-SNP, which protects nothing\n\n", p.VCPUs, p.CPUModel)
	fmt.Fprintln(w, "The owner registers what is predicted, all at once (nacre measure --json | nacre refvalue register --from -), or one by one:")
	for _, name := range []string{refMeasurement, refInitData, refBootloader, refTEE, refSNP, refMicrocode} {
		for _, value := range p.ReferenceValues[name] {
			fmt.Fprintf(w, "  nacre refvalue register %s %v\n", name, value)
		}
	}
	return nil
}
