// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/attest"
)

// newClaims returns what a verified report says. The names in the first block are those that existing policies use;
// the others say the rest of the report.
func newClaims(r *Report, c *chain) *attest.Claims {
	values := map[string]any{
		"measurement":           hex.EncodeToString(r.Measurement[:]),
		"report_data":           hex.EncodeToString(r.ReportData[:]),
		"init_data":             hex.EncodeToString(r.HostData[:]),
		"chip_id":               hex.EncodeToString(r.ChipID[:]),
		"policy_abi_major":      int64(r.Policy >> 8 & 0xFF),
		"policy_abi_minor":      int64(r.Policy & 0xFF),
		"policy_smt_allowed":    r.Policy&PolicySMT != 0,
		"policy_migrate_ma":     r.Policy&PolicyMigrateMA != 0,
		"policy_debug_allowed":  r.Policy&PolicyDebug != 0,
		"policy_single_socket":  r.Policy&PolicySingleSocket != 0,
		"platform_tsme_enabled": r.PlatformInfo&PlatformTSME != 0,
		"platform_smt_enabled":  r.PlatformInfo&PlatformSMT != 0,

		"product":                     string(c.anchor.Product),
		"report_version":              int64(r.Version),
		"signing_key":                 strings.ToLower(r.KeyInfo.SigningKey().String()),
		"vmpl":                        int64(r.VMPL),
		"guest_svn":                   int64(r.GuestSVN),
		"family_id":                   hex.EncodeToString(r.FamilyID[:]),
		"image_id":                    hex.EncodeToString(r.ImageID[:]),
		"id_key_digest":               hex.EncodeToString(r.IDKeyDigest[:]),
		"author_key_digest":           hex.EncodeToString(r.AuthorKeyDigest[:]),
		"report_id":                   hex.EncodeToString(r.ReportID[:]),
		"report_id_ma":                hex.EncodeToString(r.ReportIDMA[:]),
		"platform_ecc_enabled":        r.PlatformInfo&PlatformECC != 0,
		"platform_rapl_disabled":      r.PlatformInfo&PlatformRAPLDisabled != 0,
		"platform_ciphertext_hiding":  r.PlatformInfo&PlatformCiphertextHiding != 0,
		"platform_alias_check":        r.PlatformInfo&PlatformAliasCheckComplete != 0,
		"platform_trusted_io":         r.PlatformInfo&PlatformTrustedIOConfigured != 0,
		"platform_firmware":           r.Current.String(),
		"platform_committed_firmware": r.Committed.String(),
	}
	for name, tcb := range map[string]TCB{
		"reported_tcb": r.ReportedTCB, "committed_tcb": r.CommittedTCB,
		"current_tcb": r.CurrentTCB, "launch_tcb": r.LaunchTCB,
	} {
		v := tcb.split(c.anchor.Product)
		values[name+"_bootloader"] = int64(v.Bootloader)
		values[name+"_tee"] = int64(v.TEE)
		values[name+"_snp"] = int64(v.SNP)
		values[name+"_microcode"] = int64(v.Microcode)
		if c.anchor.Product == Turin {
			values[name+"_fmc"] = int64(v.FMC)
		}
	}
	if r.Version >= mitVectorVersion {
		// Vectors of 64 bits do not fit into numbers that every policy engine reads exactly.
		values["launch_mit_vector"] = fmt.Sprintf("%016x", r.LaunchMitVector)
		values["current_mit_vector"] = fmt.Sprintf("%016x", r.CurrentMitVector)
	}
	if r.KeyInfo.SigningKey() == SignedByVLEK {
		values["csp_id"] = c.endorsement.cspID
	} else {
		values["hwid"] = hex.EncodeToString(c.endorsement.hwid)
	}
	return &attest.Claims{
		TEE: attest.SNP, Class: attest.ClassCPU, Values: values,
		Simulated: c.anchor.Simulated, Root: c.anchor.name,
	}
}

// String returns v as "major.minor.build".
func (v FirmwareVersion) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Build) }
