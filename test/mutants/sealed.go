// SPDX-License-Identifier: Apache-2.0

package main

const (
	sealedText    = "sealed/sealed.go"
	sealedOpen    = "sealed/open.go"
	sealedPayload = "sealed/payload.go"
	sealedKey     = "sealed/key.go"
	agentResolve  = "internal/guest/agent/resolve.go"
	agentCopy     = "internal/guest/agent/copy.go"

	attackHeader    = "sealed.TestAttackHeader/"
	attackSignature = "sealed.TestAttackSignature/"
	attackEncoding  = "sealed.TestAttackEncoding/"
	attackPayload   = "sealed.TestAttackPayload/"
	attackVerifying = "sealed.TestAttackVerifyingKey/"
	attackEnv       = "guest/agent.TestAttackSealedEnvironment/"
	attackFiles     = "guest/agent.TestAttackSealedFiles/"
	attackCopy      = "guest/agent.TestAttackCopyFileCVE2026_41326/"
)

// sealedSecrets are the checks on what a host hands to a guest in a secret's place, and on the files that it copies.
var sealedSecrets = of(5,
	never("whose sealed secrets are taken", sealedOpen, "err != nil || !p.pinned(uri)",
		"sealed.TestAttackKeyThatIsNotPinned/*", attackHeader+"half of a pair", "guest/cdh.TestAttackUnpinnedSealingKey/*"),
	never("a sealed secret's algorithm", sealedText, "algorithm != algES256",
		attackHeader+"alg none", attackHeader+"alg HS256", attackHeader+"alg ES384", attackHeader+"alg es256"),
	passes("what else a sealed secret's header says", sealedText, `only(members, "alg", "kid")`,
		attackHeader+"kids of two cases", attackHeader+"its own key", attackHeader+"a key's address", attackHeader+"certificates",
		attackHeader+"critical members"),
	instead("stray bits in a sealed secret", sealedText, "base64.RawURLEncoding.Strict().", "base64.RawURLEncoding.",
		attackEncoding+"stray bits"),
	never("line breaks in a sealed secret", sealedText, `strings.ContainsAny(text, "\r\n")`,
		attackEncoding+"a line break behind", attackEncoding+"a line break inside"),
	never("a sealed secret's signature", sealedText, "!ecdsa.Verify(key.public, digest[:], r, sig)",
		attackSignature+"another pinned key's holder", attackSignature+"nobody's", attackSignature+"a MAC under the public key",
		attackSignature+"one bit", attackSignature+"the payload of another secret", attackSignature+"the header of another key"),
	never("a sealed secret's version", sealedPayload, "version != Version",
		attackPayload+"another version"),
	never("with whom a secret is", sealedPayload, "!strings.EqualFold(provider, ProviderKBS)",
		attackPayload+"a vault's provider", attackPayload+"an envelope's provider"),
	passes("what else a payload says", sealedPayload, `only(o, "version", "type", "provider", "name", "provider_settings", "annotations")`,
		attackPayload+"a kid of its own", attackPayload+"members of both types"),
	instead("private keys that guests may fetch", sealedKey, `members["d"]; private {`, `members["d"]; private && false {`,
		attackVerifying+"the private key"),
	never("what a verifying key is for", sealedKey, "err != nil || got != want",
		attackVerifying+"for encryption", attackVerifying+"another algorithm"),
	instead("a verifying key's kind", sealedKey, "} else if got != want {", "} else if false && got != want {",
		attackVerifying+"another kind"),
	instead("that unsigned secrets are asked for by name", "internal/guest/cdh/sealed.go", "if file.Skip {", "if false && file.Skip {",
		"guest/cdh.TestAttackVerificationIsSkipped"),

	// in the agent
	instead("that sealed variables are opened", agentResolve, "if !sealed.Is(value) {", "if true || !sealed.Is(value) {",
		attackEnv+"*"),
	instead("that an opened variable is text", agentResolve, "case !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0:",
		"case false && (!utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0):",
		attackEnv+"no UTF-8", attackEnv+"a zero byte"),
	instead("how long an opened variable is", agentResolve, "case len(name)+len(raw)+2 > maxEnv:", "case false && len(name)+len(raw)+2 > maxEnv:",
		attackEnv+"too large"),
	instead("how many secrets a container has", agentResolve, "u.n > maxSealed {", "false && u.n > maxSealed {",
		attackEnv+"many"),
	instead("that sealed files are opened", agentResolve, "if !sealed.Is(string(head[:n])) {", "if true || !sealed.Is(string(head[:n])) {",
		attackFiles+"refused", attackFiles+"a line break behind", attackFiles+"huge"),
	instead("that copied files are only read", "internal/guest/agent/spec.go", "readonly = copied", "readonly = copied && false",
		"guest/agent.TestAttackWritableSecret"),
	never("where copied links lead", agentCopy, `filepath.IsAbs(target) || slices.Contains(elements, "..")`,
		attackCopy+"through a link to a file"),
	never("that a copied volume is no link", agentCopy, `!strings.Contains(path, "/")`,
		attackCopy+"a link for a volume"),
	never("that files are copied through no link", agentCopy, "err == nil && !info.IsDir()",
		attackCopy+"through a link inside"),
	instead("where files are copied to", agentCopy, "!ok || filepath.Clean(path) != path ||", "!ok ||",
		"guest/agent.TestAttackCopyFilePaths"),
	never("how much is copied", agentCopy, "r.FileSize > maxCopiedBytes || c.bytes()-replaced+r.FileSize > maxCopiedBytes",
		"guest/agent.TestAttackCopyFileFloods"),
	instead("that no container lies where files are copied", "internal/guest/agent/container.go",
		"r.ContainerId == sandboxDir || r.ContainerId == sharedDir", "r.ContainerId == sandboxDir",
		"guest/agent.TestAttackCreate/the copied files' name"),
	instead("what is in a copied file", "internal/policygen/agent_policy.rego", `, "data_sha256"]`, "]",
		"policygen.TestAttackCopiedFiles"),
)
