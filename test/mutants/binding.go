// SPDX-License-Identifier: Apache-2.0

package main

const (
	kbsBinding = "kbs/binding.go"
	kbsJWK     = "kbs/jwk.go"
	kbsWire    = "kbs/wire.go"
)

var binding = of(2,
	never("report data", snpVerify, `subtle.ConstantTimeCompare(r.ReportData[:], want[:]) != 1`,
		"attest/snp.TestAttackReportData/another session",
		"attest/snp.TestAttackReportData/last byte of the digest",
		"attest/snp.TestAttackReportData/padding",
		"trustee/broker.TestAttackAttestation/evidence of another session",
		"trustee/broker.TestAttackAttestation/another TEE key",
		"trustee/broker.TestAttackFillTheDisk/with one genuine report",
		"trustee/broker.TestAttackRelayCVE2026_33697/the guest's evidence for a key of his",
		"trustee/broker.TestAttackRelayCVE2026_33697/the guest's session with another trustee",
		"trustee/broker.TestAttackSessionConfusion/evidence of one session in another"),
	instead("the padding of report data", snpVerify, `subtle.ConstantTimeCompare(r.ReportData[:], want[:]) != 1`,
		`subtle.ConstantTimeCompare(r.ReportData[:len(digest)], want[:len(digest)]) != 1`,
		"attest/snp.TestAttackReportData/padding"),
	never("that there is a digest to compare report data with", snpVerify, `len(digest) == 0`,
		"attest/snp.TestAttackReportData/nothing to compare with"),
	never("that the digest fits into report data", snpVerify, `len(digest) > len(r.ReportData)`,
		"attest/snp.TestAttackReportData/more to compare with than fits"),
	never("that a report is for the report data asked for", attesterSNP, `r.ReportData != reportData`,
		"attester/snp.TestAttackOldReport"),

	instead("the nonce in the report data", kbsBinding,
		`"nonce": nonce, "tee-pubkey": key.members(), "additional-evidence": additionalEvidence,`,
		`"tee-pubkey": key.members(), "additional-evidence": additionalEvidence,`,
		"kbs.TestAttackEvidenceForAnotherNonce",
		"trustee/broker.TestAttackAttestation/evidence of another session",
		"trustee/broker.TestAttackRelayCVE2026_33697/the guest's session with another trustee",
		"trustee/broker.TestAttackFillTheDisk/with one genuine report"), // which is then a new session's each time
	instead("the TEE key in the report data", kbsBinding,
		`"nonce": nonce, "tee-pubkey": key.members(), "additional-evidence": additionalEvidence,`,
		`"nonce": nonce, "additional-evidence": additionalEvidence,`,
		"kbs.TestAttackEvidenceForAnotherKey",
		"kbs.TestAttackEvidenceForAKeyWithOneOtherMember/*",
		"trustee/broker.TestAttackAttestation/another TEE key",
		"trustee/broker.TestAttackRelayCVE2026_33697/the guest's evidence for a key of his"),
	instead("the devices' evidence in the report data", kbsBinding,
		`"nonce": nonce, "tee-pubkey": key.members(), "additional-evidence": additionalEvidence,`,
		`"nonce": nonce, "tee-pubkey": key.members(),`,
		"kbs.TestAttackEvidenceWithOtherDevices"),
	withoutMember("crv"), withoutMember("alg"), withoutMember("x"), withoutMember("y"),
	instead("that members of a message are unique", "strictjson/strictjson.go", `members[name]; twice {`,
		`members[name]; false && twice {`,
		"strictjson.TestAttackMemberTwice/*", "kbs.TestAttackMemberTwice/*",
		// the claims of tokens are read the same way
		"trustee/broker.TestAttackTokenConfusion/exp twice", "trustee/broker.TestAttackTokenConfusion/submods twice",
		// and so are sealed secrets
		"sealed.TestAttackHeader/two kids", "sealed.TestAttackPayload/a member twice", "sealed.TestAttackPayload/a member twice, inside",
		"sealed.TestAttackVerifyingKey/x twice"),

	passes("that a key in a message is one", kbsJWK, "k.Validate()",
		"kbs.TestAttackKey/*"),
	instead("padding of RSA keys", kbsJWK, `case k.KTY == ktyRSA && k.ALG == algRSAOAEP:`, `case k.KTY == ktyRSA:`,
		"kbs.TestAttackKey/RSA with the old padding"),
	never("size of RSA keys", kbsJWK, `bits < minRSABits`,
		"kbs.TestAttackKey/RSA with a short modulus"),
	never("that an RSA modulus is odd", kbsJWK, `n.Bit(0) == 0`,
		"kbs.TestAttackKey/RSA with an even modulus"),
	never("exponent of RSA keys", kbsJWK, `!e.IsInt64() || e.Int64() != rsaExponent || len(exponent) != 3`,
		"kbs.TestAttackKey/RSA with exponent 1"),

	// trustee/broker: one nonce, one session, one acceptance
	never("that the nonce is the session's", brokerAttest,
		`subtle.ConstantTimeCompare([]byte(a.RuntimeData.Nonce), []byte(s.challenge())) != 1`,
		"trustee/broker.TestAttackAttestation/cookie of another session",
		"trustee/broker.TestAttackAttestation/another nonce",
		"trustee/broker.TestAttackAttestation/no nonce",
		"trustee/broker.TestAttackReplay/in a fresh session",
		"trustee/broker.TestAttackSessionConfusion/cookies swapped between sessions",
		"trustee/broker.TestAttackSessionConfusion/two cookies"),
	instead("that the nonce was not used", brokerAttest, `tx.InsertExpiring(sessions, s.key(), `, `tx.InsertExpiring(sessions, s.key()+id, `,
		"trustee/broker.TestAttackReplay/in the same session",
		"trustee/broker.TestAttackReplay/after a restart",
		"trustee/broker.TestAttackReplayAtTheSameTime",
		"trustee/broker.TestAttackSessionConfusion/replay",
		"trustee/broker.TestAttackSessionConfusion/replay after a restart"),
	never("that the session goes on", brokerSession, `!c.now().Before(s.expires)`,
		"trustee/broker.TestAttackResource/an expired session"),
	instead("that a note of a nonce outlasts its session", "internal/trustee/store/writer.go", "until.Unix() <= now", "false",
		"trustee/broker.TestAttackReplayAcrossTheSessionsEnd"),
	instead("whose key sealed the session", brokerSession, `hkdf.Key(sha256.New, c.secret, nil,`, `hkdf.Key(sha256.New, make([]byte, 32), nil,`,
		"trustee/broker.TestAttackAttestation/cookie of another trustee",
		"trustee/broker.TestAttackSessionConfusion/cookie of another server",
		"trustee/broker.TestAttackSessionConfusion/replay to another server"),
	instead("that the session is sealed", brokerSession, openCipherOld, openCipherNew,
		"trustee/broker.TestAttackAttestation/cookie changed",
		"trustee/broker.TestAttackAttestation/cookie cut",
		"trustee/broker.TestAttackAttestation/cookie of another trustee",
		"trustee/broker.TestAttackSessionConfusion/cookie of another server",
		"trustee/broker.TestAttackSessionConfusion/replay to another server"),
	never("that all evidence is verified, devices' too", brokerAttest, `more != "" && more != "{}"`,
		"trustee/broker.TestAttackAttestation/additional evidence"),
)

const (
	brokerAttest  = "internal/trustee/broker/attest.go"
	brokerSession = "internal/trustee/broker/session.go"
	brokerGuest   = "internal/trustee/broker/guest.go"
)

// A cipher that neither hides nor authenticates, in the place of AES-GCM.
const (
	openCipherOld = "\tc.last.Store(&epochCipher{epoch, aead})\n\treturn aead, nil\n}\n"
	openCipherNew = "\tc.last.Store(&epochCipher{epoch, open{aead}})\n\treturn open{aead}, nil\n}\n\n" +
		"type open struct{ cipher.AEAD }\n\n" +
		"func (open) Seal(dst, _, plain, _ []byte) []byte { return append(dst, plain...) }\n\n" +
		"func (open) Open(dst, _, sealed, _ []byte) ([]byte, error) { return append(dst, sealed...), nil }\n"
)

// withoutMember leaves one member of the TEE key out of the report data.
func withoutMember(name string) mutant {
	return instead("the key's "+name+" in the report data", kbsBinding,
		`"nonce": nonce, "tee-pubkey": key.members(), "additional-evidence": additionalEvidence,`,
		`"nonce": nonce, "tee-pubkey": func() any { m := key.members(); delete(m, "`+name+`"); return m }(), `+
			`"additional-evidence": additionalEvidence,`,
		"kbs.TestAttackEvidenceForAKeyWithOneOtherMember/"+name)
}
