// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

const (
	bootInitData   = "internal/guest/boot/initdata.go"
	defaultCPU     = "internal/trustee/appraisal/default_cpu.rego"
	ratings        = "internal/trustee/appraisal/memory.go"
	releaseGo      = "internal/trustee/release/release.go"
	releaseModule  = "internal/trustee/release/module.go"
	affirmingRego  = "policy/templates/affirming.rego.tmpl"
	templatesGo    = "policy/templates/templates.go"
	attackDefault  = "trustee/appraisal.TestAttackDefaultPolicy/"
	attackRating   = "trustee/appraisal.TestAttackRatingOfAnotherGuest/"
	attackInitData = "trustee/release.TestAttackInitDataOfTheHostsChoice/"
	attackWhenSet  = "trustee/release.TestAttackPolicyWhenSet/"
)

var authorisation = of(3,
	// bound: the platform's field, in the verifier and in the guest
	never("host data", snpVerify, `!bytes.Equal(r.HostData[:], want[:])`,
		"attest/snp.TestAttackInitData/another digest",
		"attest/snp.TestAttackInitData/a guest without",
		"attest/snp.TestAttackInitData/bytes after a short digest",
		"attest/snp.TestAttackInitData/an empty digest",
		"trustee/broker.TestAttackAttestation/other init-data than bound",
		"trustee/broker.TestAttackAttestation/init-data, none bound"),
	instead("the whole of host data", snpVerify, `!bytes.Equal(r.HostData[:], want[:])`,
		`!bytes.HasPrefix(r.HostData[:], want[:min(len(digest), len(want))])`,
		"attest/snp.TestAttackInitData/bytes after a short digest",
		"attest/snp.TestAttackInitData/an empty digest"),
	instead("that an empty digest is one", snpVerify, "digest == nil", "len(digest) == 0",
		"attest/snp.TestAttackInitData/an empty digest"),
	instead("the init-data that came along", brokerAttest, "want.InitDataDigest, err = initdata.Digest(raw)", "_, err = initdata.Digest(raw)",
		"trustee/broker.TestAttackAttestation/other init-data than bound",
		"trustee/broker.TestAttackAttestation/init-data, none bound"),
	never("host data, in the guest", attesterSNP, `subtle.ConstantTimeCompare(e.Report.HostData[:], want[:]) != 1`,
		"attester/snp.TestAttackOtherInitData/*"),
	instead("that the platform is asked", bootInitData, "err := platform.BindInitData(ctx, digest); err != nil",
		"err := platform.BindInitData(ctx, digest); err != nil && false",
		"guest/boot.TestAttackInitDataBindingGHSA_989w_4xr2_ww9m/absent",
		"guest/boot.TestAttackInitDataBindingGHSA_989w_4xr2_ww9m/launched with none",
		"guest/boot.TestAttackInitDataBindingGHSA_989w_4xr2_ww9m/one letter",
		"guest/boot.TestAttackInitDataBindingGHSA_989w_4xr2_ww9m/the same meaning",
		"guest/boot.TestAttackInitDataBindingGHSA_989w_4xr2_ww9m/other algorithm, launched"),
	instead("init-data where there is no platform", bootInitData, "platform == nil {\n\t\tif raw != nil {", "platform == nil {\n\t\tif false {",
		"guest/boot.TestAttackInitDataWithoutPlatform"),
	instead("that one drive carries init-data", bootInitData, `case found != "":`, `case false:`,
		"guest/boot.TestAttackDrivesCVE2026_24054/two carriers"),
	instead("how many drives are looked at", bootInitData, "looked > maxDrives", "false",
		"guest/boot.TestAttackDrivesCVE2026_24054/more than can be read"),
	instead("a parameter that is not known", "internal/guest/boot/cmdline.go", "\t\tdefault:\n\t\t\treturn", "\t\tcase false:\n\t\t\treturn",
		"guest/boot.TestAttackCommandLineGHSA_rr59_xxvx_96qr/an unknown parameter",
		"guest/boot.TestAttackCommandLineGHSA_rr59_xxvx_96qr/an unknown platform",
		"guest/boot.TestAttackCommandLineGHSA_rr59_xxvx_96qr/a platform of no name"),
	instead("a parameter twice", "internal/guest/boot/cmdline.go", "if seen[key] {", "if false {",
		"guest/boot.TestAttackCommandLineGHSA_rr59_xxvx_96qr/a parameter twice"),

	// authorised: the appraisal's rating
	instead("that the digest is a reference value", defaultCPU,
		`init_data_authorised if input.init_data in query_reference_value("init_data")`, `init_data_authorised if true`,
		attackDefault+"bound, unauthorised data", attackDefault+"no init-data", attackDefault+"init-data not registered"),
	instead("measurement", defaultCPU,
		`executables := 3 if input.snp.measurement in query_reference_value("snp_launch_measurement")`, `executables := 3 if input.snp`,
		attackDefault+"another measurement", attackDefault+"measurement not registered", attackDefault+"measurement a prefix"),
	line("boot loader", `	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")`,
		attackDefault+"older boot loader"),
	line("microcode", `	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")`,
		attackDefault+"older microcode"),
	line("SNP firmware", `	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")`,
		attackDefault+"older SNP firmware"),
	line("TEE firmware", `	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")`,
		attackDefault+"other TEE version", attackDefault+"TCB not registered"),
	line("debugging, again", `	input.snp.policy_debug_allowed == false`,
		attackDefault+"debug allowed", attackDefault+"debug not claimed"),
	line("migration", `	input.snp.policy_migrate_ma == false`,
		attackDefault+"migration allowed"),
	setting("platform_smt_enabled", "snp_smt_enabled"),
	setting("platform_tsme_enabled", "snp_tsme_enabled"),
	setting("policy_abi_major", "snp_guest_abi_major"),
	setting("policy_abi_minor", "snp_guest_abi_minor"),
	setting("policy_single_socket", "snp_single_socket"),
	setting("policy_smt_allowed", "snp_smt_allowed"),
	instead("when a reference value ends", "internal/trustee/refvalue/registry.go", "return e, ok && now.Before(e.Expires)", "return e, ok",
		"trustee/refvalue.TestAttackExpiredReferenceValue", attackDefault+"values whose time is over"),

	// authorised: ratings that are remembered
	instead("which claims a rating was for", ratings, `question{values: values, `, `question{values: values[:0], `,
		attackRating+"measurement", attackRating+"no measurement", attackRating+"firmware", attackRating+"firmware, a text",
		attackRating+"debugging", attackRating+"init-data", attackRating+"platform"),
	instead("which init-data a rating was for", ratings, `q.initData = e.InitData`, `_ = e.InitData`,
		attackRating+"init-data's files", attackRating+"no files"),
	instead("by which reference values a rating was", ratings, `references: refs, `, ``, attackRating+"reference values"),
	instead("when a rating was", ratings, `second: now.Unix()`, `second: 0`, attackRating+"time"),

	// authorised: the release
	instead("a policy that other init-data passes, too", releaseGo, "\tif allowed {\n", "\tif false {\n",
		attackInitData+"allow all", attackInitData+"status, appraised whatever the init-data",
		attackInitData+"status, by an appraisal that does not tell", attackInitData+"a list of what is not wanted",
		attackInitData+"that there are claims", attackInitData+"template's status alone, whatever init-data",
		"trustee/broker.TestAttackUnpinnedPolicy"),
	instead("a policy that does not look at init-data, when it is set", releaseGo, `|| m.mentions("init_data")`, `|| true`,
		attackWhenSet+"allow all", attackWhenSet+"status only", attackWhenSet+"in a comment only",
		attackWhenSet+"part of a longer name only", attackWhenSet+"false, else true",
		"trustee/broker.TestAttackUnpinnedPolicy"),
	instead("what else a rule may answer", releaseModule, "r != nil; r = r.Else", "r != nil; r = nil",
		attackWhenSet+"false, else true"),
	instead("the whole of a name", releaseModule, "string(s) == name", "len(s) >= len(name) && string(s[:len(name)]) == name",
		attackWhenSet+"part of a longer name only"),
	instead("the template's line about init-data", affirmingRego,
		`.init_data in init_data_digests`, `.init_data`,
		attackInitData+"template", "trustee/release.TestAttackTemplate/an affirmed guest with other init-data",
		"trustee/release.TestAttackRememberedDecision/with another token"),
	never("that a template names init-data", templatesGo, "len(a.InitData) == 0",
		"policy/templates.TestAttackTemplateThatPinsNothing/no digest"),
	never("that a digest is one", templatesGo, "len(raw) < 32",
		"policy/templates.TestAttackTemplateThatPinsNothing/a piece of a digest"),
	never("the digest of no init-data", templatesGo, `strings.Trim(digest, "0") == ""`,
		"policy/templates.TestAttackTemplateThatPinsNothing/that of none"),

	// what is bound is read in one way only
	instead("the end of the text on the device", "initdata/carrier.go", "in.Len() > 0", "false",
		"initdata.TestAttackMoreAfterTheText/*"),
	never("that a name is no path", "initdata/initdata.go", `r == '/'`,
		"initdata.TestAttackNameLeavesTheDirectory"),
)

// line takes one line out of the default appraisal policy.
func line(check, text string, attacks ...string) mutant {
	return instead(check, defaultCPU, text+"\n", "", attacks...)
}

// setting takes one of the platform's settings out of the default appraisal policy.
func setting(claim, value string) mutant {
	return line("setting "+claim, "\tinput.snp."+claim+` == query_reference_value("`+value+`")`,
		"trustee/appraisal.TestAttackOtherSettings/"+strings.ReplaceAll(claim, "_", " "))
}
