// SPDX-License-Identifier: Apache-2.0

package main

const (
	signatureImage       = "internal/guest/signature/image.go"
	signatureScope       = "internal/guest/signature/scope.go"
	signaturePolicy      = "internal/guest/signature/policy.go"
	signatureRequirement = "internal/guest/signature/requirement.go"
	signatureEvaluation  = "internal/guest/signature/evaluation.go"
	signatureCosign      = "internal/guest/signature/cosign.go"
	signatureOpenPGP     = "internal/guest/signature/evaluate_openpgp.go"
)

var signatures = of(8,
	// which image
	never("that the manifest is the one which is named", signatureImage, "name.Digest().Algorithm().FromBytes(i.Manifest) != name.Digest()",
		"guest/signature.TestAttackManifest/another manifest"),
	instead("that the index lists the instance", signatureImage, "m.Digest.Validate() == nil && m.Digest.Algorithm().FromBytes(i.Instance) == m.Digest", "m.Digest.Validate() == nil",
		"guest/signature.TestAttackManifest/instance that is not listed"),

	// which part of the policy
	instead("that scopes are anchored", signatureScope, "return append(list, policyconfiguration",
		"return append(append(list, strings.Split(repository.Name(), \"/\")...), policyconfiguration",
		"guest/signature.TestAttackScopeNotAnchored"),
	instead("that hosts have one spelling", signatureScope, "strings.ToLower(host) +", "host +",
		"guest/signature.TestAttackHostInCapitals"),
	passes("that scopes match something", signaturePolicy, "checkScope(scope)",
		"guest/signature.TestAttackScopeOfNothing"),
	never("images of which nothing is said", signaturePolicy, "len(requirements) == 0",
		"guest/signature.TestAttackNothingSaid"),
	instead("each requirement after the first", signaturePolicy, "range requirements {\n\t\terr := e.meet", "range requirements[:1] {\n\t\terr := e.meet",
		"guest/signature.TestAttackCosign/the first of two requirements"),
	instead("images that are rejected", signatureEvaluation, "return refuse(CodeRejected,", "_ = refuse(CodeRejected,",
		"guest/signature.TestAttackScopeNotAnchored", "guest/signature.TestAttackHostInCapitals", "guest/boot.TestAttackImagePolicyIsNotAsked"),

	// whose keys, and whose name
	instead("where keys come from", signatureRequirement, "return uri, err", "return uri, nil",
		"guest/signature.TestAttackKeysFromFiles"),
	instead("that the name is the user's", signatureEvaluation, "err := evaluate(ctx, text, intended, c)", `signedAs, err := reference.ParseNormalizedNamed(c.claims.name)
		if err != nil {
			signedAs = intended
		}
		err = evaluate(ctx, text, signedAs, c)`,
		"guest/signature.TestAttackCosign/another repository", "guest/signature.TestAttackCosign/name of the mirror",
		"guest/signature.TestAttackCosign/name that contains the user's", "guest/signature.TestAttackCosign/name that the user's contains",
		"guest/signature.TestAttackCosign/tag of the signature", "guest/signature.TestAttackCosign/prefix of another name",
		"guest/signature.TestAttackKeyless/another name",
		"guest/signature.TestAttackSimpleSigning/another name", "guest/signature.TestAttackSimpleSigning/name that contains it"),

	// what registries offer
	instead("that a payload is the one of its digest", signatureCosign, "case layer.Digest.Algorithm().FromBytes(payload) != layer.Digest:", "case false:",
		"guest/signature.TestAttackPayloadNotOfTheDigest"),
	instead("size of a manifest of signatures", signatureCosign, "case len(text) > maxManifest:", "case false:",
		"guest/signature.TestAttackLargeSignatures/manifest"),
	never("number of signatures", signatureCosign, "n > maxSignatures",
		"guest/signature.TestAttackLargeSignatures/number"),
	never("size of a signature's annotations", signatureCosign, "n > maxAnnotations",
		"guest/signature.TestAttackLargeSignatures/annotations"),
	instead("what an OpenPGP message holds", signatureOpenPGP, "case tagSignature, tagOnePass, tagLiteral:", "case tagSignature, tagOnePass, tagLiteral, tagCompressed:",
		"guest/signature.TestAttackSimpleSigning/twice compressed"),
)
