// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/nacre-project/nacre/attest/simtee/signer"
)

// evidenceSource makes the primary evidence of a guest.
type evidenceSource interface {
	tee() string
	// evidence returns evidence over report data, of a guest that was launched with init-data of a SHA-256 digest;
	// nil is one without.
	evidence(ctx context.Context, reportData, initData []byte) (json.RawMessage, error)
	// bindsInitData says whether another digest gives other evidence.
	bindsInitData() bool
}

// simulatedSNP is a simulated SEV-SNP machine. Its signer is the one package of the project that this program imports,
// and gives no more than the processor does: a report's bytes and a table of certificates. How they become JSON is
// written here.
type simulatedSNP struct{ platform *signer.Platform }

func (s simulatedSNP) tee() string         { return "snp" }
func (s simulatedSNP) bindsInitData() bool { return true }

func (s simulatedSNP) evidence(_ context.Context, reportData, initData []byte) (json.RawMessage, error) {
	launch := signer.Launch{}
	copy(launch.Measurement[:], "the launch measurement of the conformance suite..")
	copy(launch.HostData[:], initData)
	var field [64]byte
	copy(field[:], reportData) // shorter data are padded with zeros
	report, table, err := s.platform.Launch(launch).Report(field, 0)
	if err != nil {
		return nil, err
	}
	vcek, err := onlyCertificate(table)
	if err != nil {
		return nil, err
	}
	return snpEvidence(report, vcek)
}

// onlyCertificate takes the certificate out of a table with one: GUID[16], offset and length (u32, little endian), an
// entry of zeros at the end. The simulated platform's has its VCEK and nothing else.
func onlyCertificate(table []byte) ([]byte, error) {
	if len(table) < 48 {
		return nil, errors.New("the certificate table is too short")
	}
	offset, length := int(binary.LittleEndian.Uint32(table[16:])), int(binary.LittleEndian.Uint32(table[20:]))
	if offset+length > len(table) || !bytes.Equal(table[24:48], make([]byte, 24)) {
		return nil, errors.New("the certificate table is not one of one certificate")
	}
	return table[offset : offset+length], nil
}

// snpReportSize is the length of an attestation report in bytes (AMD 56860, table ATTESTATION_REPORT).
const snpReportSize = 1184

// snpEvidence writes a report of a Milan or Genoa processor as the stock guest does: the report's fields by name, byte
// strings as arrays of numbers.
func snpEvidence(report, vcek []byte) (json.RawMessage, error) {
	if len(report) != snpReportSize {
		return nil, fmt.Errorf("the report has %d bytes, want %d", len(report), snpReportSize)
	}
	numbers := func(from, to int) []int {
		out := make([]int, 0, to-from)
		for _, b := range report[from:to] {
			out = append(out, int(b))
		}
		return out
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(report[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(report[at:]) }
	tcb := func(at int) map[string]any {
		return map[string]any{"fmc": nil, "bootloader": report[at], "tee": report[at+1], "snp": report[at+6],
			"microcode": report[at+7]}
	}
	firmware := func(at int) map[string]any { // build, minor, major
		return map[string]any{"build": report[at], "minor": report[at+1], "major": report[at+2]}
	}
	vcekNumbers := make([]int, len(vcek))
	for i, b := range vcek {
		vcekNumbers[i] = int(b)
	}
	return json.Marshal(map[string]any{
		"attestation_report": map[string]any{
			"version": u32(0), "guest_svn": u32(4), "policy": u64(8),
			"family_id": numbers(0x10, 0x20), "image_id": numbers(0x20, 0x30), "vmpl": u32(0x30), "sig_algo": u32(0x34),
			"current_tcb": tcb(0x38), "plat_info": u64(0x40), "key_info": u32(0x48),
			"report_data": numbers(0x50, 0x90), "measurement": numbers(0x90, 0xC0), "host_data": numbers(0xC0, 0xE0),
			"id_key_digest": numbers(0xE0, 0x110), "author_key_digest": numbers(0x110, 0x140),
			"report_id": numbers(0x140, 0x160), "report_id_ma": numbers(0x160, 0x180), "reported_tcb": tcb(0x180),
			"cpuid_fam_id": report[0x188], "cpuid_mod_id": report[0x189], "cpuid_step": report[0x18A],
			"chip_id": numbers(0x1A0, 0x1E0), "committed_tcb": tcb(0x1E0),
			"current": firmware(0x1E8), "committed": firmware(0x1EC), "launch_tcb": tcb(0x1F0),
			"launch_mit_vector": nil, "current_mit_vector": nil,
			"signature": map[string]any{"r": numbers(0x2A0, 0x2E8), "s": numbers(0x2E8, 0x330)},
		},
		"cert_chain": []any{map[string]any{"cert_type": "VCEK", "data": vcekNumbers}},
	})
}

// sample is the stock guest's evidence where there is no TEE. It proves nothing; servers take it in development.
type sample struct{}

func (sample) tee() string         { return "sample" }
func (sample) bindsInitData() bool { return false }

func (sample) evidence(_ context.Context, reportData, _ []byte) (json.RawMessage, error) {
	return json.Marshal(map[string]string{"svn": "1", "report_data": base64.StdEncoding.EncodeToString(reportData)})
}

// commanded is evidence that a program prints: it finds the report data, and the digest of the init-data or nothing,
// in its environment, in hex.
type commanded struct {
	name, command string
	fixedInitData bool // the machine's init-data cannot be chosen
}

func (c commanded) tee() string         { return c.name }
func (c commanded) bindsInitData() bool { return !c.fixedInitData }

// maxEvidence caps what a program prints, in bytes.
const maxEvidence = 4 << 20

func (c commanded) evidence(ctx context.Context, reportData, initData []byte) (json.RawMessage, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", c.command)
	cmd.Env = append(os.Environ(), "REPORT_DATA="+hex.EncodeToString(reportData),
		"INIT_DATA="+hex.EncodeToString(initData))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the evidence command: %w", err)
	}
	if len(out) > maxEvidence || !json.Valid(out) {
		return nil, fmt.Errorf("the evidence command printed %d bytes that are not JSON", len(out))
	}
	return bytes.TrimSpace(out), nil
}

func initDataDigest(text string) []byte {
	digest := sha256.Sum256([]byte(text))
	return digest[:]
}

// initDataText is init-data with all that a server shows of it: configuration that parses, and an agent policy with
// data.
const initDataText = `version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://127.0.0.1:8080"
'''
"cdh.toml" = '''
socket = "unix:///run/confidential-containers/cdh.sock"
'''
"policy.rego" = '''
package agent_policy
default CreateContainerRequest := false
policy_data := {"containers": [{"OCI": {"Annotations": {"io.kubernetes.cri.image-name": "registry.example/app:1"},
 "Process": {"User": {"UID": 65535}}}}]}
'''
`

var errNoEvidence = errors.New("there is no evidence to attest with: name --simulated-dir, --evidence-command or --tee sample")

// newSource chooses what evidence comes from; nil, without error, when nothing was named.
func newSource(o options) (evidenceSource, error) {
	switch {
	case o.simulatedDir != "" && o.evidenceCommand != "":
		return nil, errors.New("--simulated-dir and --evidence-command exclude each other")
	case o.simulatedDir != "":
		if o.tee != "" && o.tee != "snp" {
			return nil, fmt.Errorf("--simulated-dir is SEV-SNP, not %q", o.tee)
		}
		platform, err := signer.Open(o.simulatedDir)
		if err != nil {
			return nil, err
		}
		return simulatedSNP{platform}, nil
	case o.evidenceCommand != "":
		if o.tee == "" {
			return nil, errors.New("--evidence-command needs --tee, the wire name of what it makes evidence of")
		}
		return commanded{o.tee, o.evidenceCommand, o.fixedInitData}, nil
	case strings.EqualFold(o.tee, "sample"):
		return sample{}, nil
	}
	return nil, nil
}
