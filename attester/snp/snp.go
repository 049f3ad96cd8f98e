// SPDX-License-Identifier: Apache-2.0

// Package snp collects the evidence of a SEV-SNP guest: from the kernel's configfs-tsm, from /dev/sev-guest where that
// is missing, and from the device of a simulated platform where there is no real one.
//
// The simulated device is the host's to offer, so the caller names it only if the measured command line said so, and
// it is still refused on a machine that shows any real platform. That question is put to the kernel, by its device
// nodes and CPU flags: the kernel is measured and reads the SEV_STATUS register, which no hypervisor can intercept.
// The CPUID instruction from here would be answered by the hypervisor on every machine where the answer matters.
package snp

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/attester"
)

// Options say what Open may use beside the hardware.
type Options struct {
	// SimulatedDevice is the path of a simulated secure processor's port. Empty: hardware or nothing.
	SimulatedDevice string
}

// Open returns the attester of this machine. The error is attester.ErrNoTEE when there is none.
func Open(_ context.Context, o Options) (attester.Attester, error) {
	m := machine{
		root:  "/",
		mkdir: func(path string) error { return os.Mkdir(path, 0o700) },
		rmdir: os.Remove,
		ioctl: ioctlExtReport,
	}
	return m.open(o)
}

// machine is where to look, and the kernel's three services that no plain file system has: configfs fills a directory
// as it is made and empties it as it is removed, and the guest driver answers to an ioctl.
type machine struct {
	root         string
	mkdir, rmdir func(path string) error
	ioctl        func(*os.File, *extReportRequest) error // SNP_GET_EXT_REPORT
}

func (m machine) path(p string) string { return filepath.Join(m.root, p) }

// source gets one report and the certificate table that the host provides with it, which may be empty.
type source interface {
	report(ctx context.Context, reportData [64]byte) (report, certTable []byte, err error)
}

func (m machine) open(o Options) (attester.Attester, error) {
	if t := (tsm{m}); t.present() {
		return &guest{source: t}, nil
	}
	if d := (device{m}); d.present() {
		return &guest{source: d}, nil
	}
	if o.SimulatedDevice == "" {
		return nil, fmt.Errorf("%w: neither %s nor %s is there", attester.ErrNoTEE, tsmDir, sevGuestDevice)
	}
	sign, err := m.hardware()
	if err != nil {
		return nil, fmt.Errorf("finding out whether this machine has a real platform: %w", err)
	}
	if sign != "" {
		return nil, fmt.Errorf("%w: this machine shows a real platform (%s), so the simulated one at %s is not used; "+
			"load the platform's guest driver", attester.ErrNoTEE, sign, o.SimulatedDevice)
	}
	s, err := openSimulated(m.path(o.SimulatedDevice))
	if err != nil {
		return nil, fmt.Errorf("%w: opening the simulated device: %w", attester.ErrNoTEE, err)
	}
	return &guest{source: s, simulated: true}, nil
}

// guest is a SEV-SNP guest, or one of a simulated platform, that attests itself.
type guest struct {
	source    source
	simulated bool
}

// TEE returns attest.SNP: simulated evidence has the same form, and its root tells it apart.
func (g *guest) TEE() attest.TEE { return attest.SNP }

// Simulated reports whether the reports are a simulated processor's.
func (g *guest) Simulated() bool { return g.simulated }

// Evidence returns the evidence document for report data.
func (g *guest) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	var field [64]byte
	if len(reportData) > len(field) {
		return nil, fmt.Errorf("collecting SNP evidence: report data has %d bytes, at most %d fit", len(reportData),
			len(field))
	}
	copy(field[:], reportData)
	e, err := g.evidence(ctx, field)
	if err != nil {
		return nil, fmt.Errorf("collecting SNP evidence: %w", err)
	}
	return json.Marshal(e)
}

func (g *guest) evidence(ctx context.Context, reportData [64]byte) (*snp.Evidence, error) {
	report, table, err := g.source.report(ctx, reportData)
	if err != nil {
		return nil, err
	}
	r, err := snp.ParseReport(report)
	if err != nil {
		return nil, err
	}
	if r.ReportData != reportData {
		return nil, fmt.Errorf("the report is for report data %x, asked was for %x", r.ReportData, reportData)
	}
	certs, err := snp.ParseCertTable(table)
	if err != nil {
		return nil, err
	}
	return &snp.Evidence{Report: r, Certs: certs}, nil
}

// BindInitData compares a digest with HOST_DATA, which the host set at launch and nobody can change since.
func (g *guest) BindInitData(ctx context.Context, digest []byte) error {
	e, err := g.evidence(ctx, [64]byte{})
	if err != nil {
		return fmt.Errorf("reading the host data that init-data is bound to: %w", err)
	}
	want := snp.HostData(digest)
	if subtle.ConstantTimeCompare(e.Report.HostData[:], want[:]) != 1 {
		return attest.Refuse(attest.CodeInitDataMismatch, nil,
			"this guest was launched with host data %x, its init-data demands %x", e.Report.HostData, want)
	}
	return nil
}

// hardware returns what shows a real platform on this machine, or "" when nothing does. Not being able to tell is an
// error.
func (m machine) hardware() (string, error) {
	for _, p := range []string{
		"/sys/devices/platform/sev-guest",  // the SNP guest driver's device, made by the kernel of an SNP guest
		"/sys/devices/system/cpu/sev/vmpl", // likewise, from 6.11 on
		"/dev/sev-guest",
		"/dev/tdx_guest",
	} {
		if _, err := os.Stat(m.path(p)); err == nil {
			return p, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	const cpuinfo = "/proc/cpuinfo"
	f, err := os.Open(m.path(cpuinfo))
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(value) {
			switch flag {
			case "sev", "sev_es", "sev_snp", "tdx_guest":
				return fmt.Sprintf("%s flag %s", cpuinfo, flag), nil
			}
		}
		return "", nil // all processors have the same
	}
	return "", fmt.Errorf("%s lists no CPU flags", cpuinfo)
}
