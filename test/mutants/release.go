// SPDX-License-Identifier: Apache-2.0

package main

const (
	attackToken      = "trustee/broker.TestAttackTokenConfusion/"
	adminGo          = "internal/trustee/admin/admin.go"
	earVerify        = "ear/verify.go"
	brokerRoute      = "internal/trustee/broker/route.go"
	brokerManage     = "internal/trustee/broker/manage.go"
	attackAdmin      = "trustee/admin.TestAttackAdminTokens/"
	attackResource   = "trustee/broker.TestAttackResource/"
	attackRoutes     = "trustee/broker.TestAttackRoutesWithoutAuthentication/"
	attackAnswer     = "trustee/release.TestAttackAnswerThatIsNoYes/"
	attackTemplate   = "trustee/release.TestAttackTemplate/"
	attackOther      = "trustee/release.TestAttackAnotherResource/"
	attackRemembered = "trustee/release.TestAttackRememberedDecision/"
)

var release = of(4,
	// the token
	instead("signature of tokens", earVerify, `payload, err = jws.Verify(key.Public); err == nil`,
		`payload, err = jws.UnsafePayloadWithoutVerification(), nil; err == nil`,
		"ear.TestAttackAnotherKey", "ear.TestAttackChangedClaims", "ear.TestAttackKeyInTheHeader/*",
		attackResource+"another's signature", attackResource+"no signature"),
	instead("algorithm of tokens", earVerify, `[]jose.SignatureAlgorithm{jose.ES256}`,
		`[]jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.HS256, jose.EdDSA}`,
		"ear.TestAttackAnotherAlgorithm"),
	instead("that a token names its key", earVerify, `key.ID != id || id == ""`, `key.ID != id`,
		"ear.TestAttackUnknownKeyID/none, like the key's"),
	instead("that a token names this key", earVerify, `key.ID != id || id == ""`, `id == ""`,
		"ear.TestAttackUnknownKeyID/another"),
	never("expiry of tokens", earVerify, `!now.Before(t.Expiry.Add(options.ExpiryLeeway))`,
		"ear.TestAttackExpired", attackResource+"an expired token, first use"),
	never("that tokens are not from the future", earVerify, `t.IssuedAt.After(now.Add(issueLeeway))`,
		"ear.TestAttackIssuedInTheFuture"),
	instead("how long a token may live", brokerGuest, "lives > MaxTokenLifetime {", "lives > MaxTokenLifetime && false {",
		attackToken+"exp far away"),
	instead("who issued a token", brokerGuest, "if token.Issuer != tokenIssuer {", "if token.Issuer != tokenIssuer && false {",
		attackToken+"another issuer", attackToken+"no issuer"),
	instead("from when a token is valid", "ear/verify.go", "} else if from.After(now.Add(issueLeeway)) {", "} else if from.After(now.Add(issueLeeway)) && false {",
		attackToken+"nbf in the future"),
	instead("until when an old key counts", "internal/trustee/broker/tokenkeys.go",
		"range ring.retired {\n\t\tif now.Before(k.Until) {", "range ring.retired {\n\t\tif !now.IsZero() || now.Before(k.Until) {",
		"trustee/broker.TestAttackRetiredTokenKey/when its time is over",
		"trustee/broker.TestAttackRetiredTokenKey/remembered from when it counted"),
	instead("what was remembered of an old key's tokens", "internal/trustee/broker/tokenkeys.go", "b.tokens.Purge()", "b.tokens.Len()",
		"trustee/broker.TestAttackRetiredTokenKey/remembered from when it counted"),
	never("from when an administrator's token is valid", "internal/trustee/admin/admin.go",
		"c.NotBefore != nil && c.NotBefore.Time().After(now.Add(leeway))",
		"trustee/admin.TestAttackAdminTokenConfusion/nbf in the future"),
	never("expiry of remembered tokens", brokerGuest, `!now.Before(g.expires)`,
		attackResource+"an expired token"),

	// the policy
	instead("the release policy", brokerGuest, `Query: query}); err != nil {`, `Query: query}); err != nil && false {`,
		"trustee/broker.TestAttackFreshTrustee", "trustee/broker.TestAttackUnpinnedPolicy", "trustee/broker.TestAttackSimulatedGuest",
		"trustee/broker.TestAttackFindOutWhatThereIs/*",
		attackResource+"a resource not named", attackResource+"one that does not exist, not named", attackResource+"a query",
		attackResource+"a longer path", attackResource+"a shorter path", attackResource+"dots",
		attackResource+"bound, unauthorised init-data",
		"trustee/broker.TestAttackFillTheDiskWithRefusals", "trustee/broker.TestAttackKeepingADecision",
		"trustee/broker.TestAttackReleaseByAPolicyOfThePast/one that denies everything"),
	instead("that the policy is asked before the store", brokerGuest, "\tif err := policy.Decide(",
		"\tif _, err := plugin.Handle(ctx, resource.Request{Method: c.http.Method, Path: path}); err != nil {\n"+
			"\t\treturn nil, b.refuseRelease(ctx, record, pluginFailure(name, err), err.Error())\n\t}\n\tif err := policy.Decide(",
		"trustee/broker.TestAttackFindOutWhatThereIs/*",
		attackResource+"one that does not exist, not named",
		attackResource+"a longer path", attackResource+"a shorter path", attackResource+"dots"),
	instead("that the policy answers", "policy/document.go", `v.value != nil && v.value.Compare(`, `v.value == nil || v.value.Compare(`,
		attackAnswer+"no rule", attackAnswer+"a rule that fails", attackAnswer+"a rule elsewhere"),
	instead("that the policy answers true", "policy/document.go", `v.value.Compare(ast.Boolean(true)) == 0`, `v.value.Compare(ast.Boolean(false)) != 0`,
		attackAnswer+"null", attackAnswer+"a text", attackAnswer+"a number", attackAnswer+"a list", attackAnswer+"an object"),
	instead("that the policy makes no mistake", releaseGo, `return false, &Denial{CodePolicyError, err.Error()}`, `return true, nil`,
		attackAnswer+"two answers, a mistake", attackAnswer+"an answer too late"),
	instead("whose decision is remembered", "internal/trustee/release/memory.go", "m.policy == p && m.allowed[key]", "m.allowed[key]",
		attackRemembered+"after the policy was replaced", "trustee/broker.TestAttackReleaseByAPolicyOfThePast/one that denies everything"),
	instead("that a remembered decision does not age", releaseGo, "if p.timeless {", "{",
		attackRemembered+"when its time is over"),
	instead("the lengths in what is remembered", "internal/trustee/release/memory.go", "\t\tb = binary.AppendUvarint(b, uint64(len(text)))\n", "",
		attackRemembered+"the same, cut elsewhere"),
	instead("the policy in force when something leaves", brokerGuest, "if !b.policies.stillReleases(policy) {", "if !b.policies.stillReleases(policy) && false {",
		"trustee/broker.TestAttackReleaseByAPolicyOfThePast/one that denies everything"),
	instead("the template's line about the plugin", affirmingRego, "\tdata.plugin == \"resource\"\n", "",
		attackOther+"plugin", attackRemembered+"another plugin"),
	instead("the template's line about the path", affirmingRego, "\tdata[\"resource-path\"] in resources\n", "",
		attackOther+"tag", attackOther+"joined", attackOther+"longer", attackOther+"no path", attackOther+"capitals",
		attackRemembered+"another resource", attackRemembered+"the same in fewer segments", attackRemembered+"the same, cut elsewhere",
		"trustee/broker.TestAttackFindOutWhatThereIs/*",
		attackResource+"a resource not named", attackResource+"one that does not exist, not named",
		attackResource+"a longer path", attackResource+"a shorter path", attackResource+"dots"),
	instead("the template's line about the query", affirmingRego, "\tcount(data.query) == 0\n", "",
		attackOther+"query", attackRemembered+"the same with a query", attackResource+"a query"),
	instead("the template's line about the appraisal", affirmingRego, "\taffirming\n\tinput", "\tinput",
		attackTemplate+"a guest that is not affirmed"),

	// what leaves, and its record
	instead("that what leaves is sealed", brokerGuest, "out, err := jsonReply(envelope)",
		"_ = envelope\n\tout, err := &reply{contentType: typeJSON, body: answer.Body.Reveal()}, error(nil)",
		"trustee/broker.TestAttackReadTheAnswer/as it is"),
	never("that a content key was wrapped for this key", "kbs/keywrap.go", `subtle.ConstantTimeCompare(b[:8], keyWrapIV[:]) != 1`,
		"kbs.TestAttackChangedWrappedKey"),
	instead("the header's text under the tag", "kbs/envelope.go", "aead.Open(nil, nil, sealed, []byte(e.Protected))",
		"aead.Open(nil, nil, sealed, []byte(encodeBase64URL([]byte(h.text()))))",
		"kbs.TestAttackEnvelopeHeaderChanged"),
	unrecorded("a release", brokerGuest, "record the release: %w", "trustee/broker.TestAttackReleaseWithoutARecord",
		"trustee/broker.TestAttackReleaseByAPolicyOfThePast/one that denies everything"),
	unrecorded("accepted evidence", brokerAttest, "record the attestation: %w", "trustee/broker.TestAttackWithoutARecord/attest",
		"trustee/broker.TestAttackReplayAcrossTheSessionsEnd"),
	instead("the record of a refusal", brokerGuest,
		"if err := b.commit(ctx, func(tx *store.Tx) error { return audit.Append(tx, &record) }); err != nil {",
		"if err := b.commit(ctx, func(tx *store.Tx) error { return audit.Append(tx, &record) }); err != nil && false {",
		"trustee/broker.TestAttackWithoutARecord/refusal"),
	instead("the record of a change", brokerManage, "\tif err != nil {\n\t\treturn nil, pluginFailure(name, err)\n\t}\n\tswitch request.Method {",
		"\tswitch request.Method {",
		"trustee/broker.TestAttackWithoutARecord/a change"),
	instead("how often one token's refusals are recorded", brokerGuest, "if !b.denied.Spend(record.TokenID, b.now()) {", "if false {",
		"trustee/broker.TestAttackFillTheDiskWithRefusals"),
	instead("that what is recorded was authentic", brokerAttest, "authentic && b.refused.Spend(", "(authentic || true) && b.refused.Spend(",
		"trustee/broker.TestAttackFillTheDisk/with what is not authentic",
		"trustee/broker.TestAttackAttestation/another root",
		"trustee/broker.TestAttackAttestation/evidence null", "trustee/broker.TestAttackAttestation/evidence empty"),
	instead("how often one report is recorded", brokerAttest, "authentic && b.refused.Spend(description.Identity, b.now())", "authentic",
		"trustee/broker.TestAttackFillTheDisk/with one genuine report"),
	instead("which report it is", "internal/trustee/platform/platform.go", "digest := sha256.Sum256(e.Report.Marshal()[:signedSNP])",
		"const _ = signedSNP\n\tdigest := sha256.Sum256(evidence)",
		"trustee/broker.TestAttackFillTheDisk/with one genuine report"),
	never("how often something is recorded", "internal/trustee/audit/budget.go", `w.count >= b.limit`,
		"trustee/audit.TestAttackFillTheDiskWithOneReport",
		"trustee/broker.TestAttackFillTheDiskWithRefusals",
		"trustee/broker.TestAttackFillTheDisk/with one genuine report"),

	// paths
	instead("dots at the beginning of a segment", "kbs/uri.go", `(c != '.' || i == 0)`, `c != '.'`,
		"kbs.TestAttackPathTraversal",
		"trustee/resource.TestAttackPaths/..+b+c", "trustee/resource.TestAttackPaths/.+b+c", "trustee/resource.TestAttackPaths/a+b+.hidden"),
	instead("slashes in a segment", "kbs/uri.go", `c != '-' && c != '_' && (`, `c != '-' && c != '_' && c != '/' && (`,
		"kbs.TestAttackSlashInSegment", "trustee/resource.TestAttackPaths/a/b+c+d"),
	never("the number of segments", "kbs/uri.go", `len(path) != 3`,
		"trustee/resource.TestAttackPaths/#00", "trustee/resource.TestAttackPaths/one", "trustee/resource.TestAttackPaths/a+b", "trustee/resource.TestAttackPaths/a+b+c+d"),
	instead("that a segment has a character", "kbs/uri.go", `return segment != ""`, `return true`,
		"trustee/resource.TestAttackPaths/a+b+", "trustee/resource.TestAttackPaths/+b+c"),
	never("the length of a path", "kbs/uri.go", `total > maxURILength/2`,
		"trustee/resource.TestAttackPaths/a+b+cccccccccccccccc"),

	// administrators
	instead("who administers", brokerRoute, "who, err := r.administrator(c)\n\t\t\tif err != nil {",
		"who, err := r.administrator(c)\n\t\t\tif err != nil && false {",
		attackRoutes+"* /nacre/v1/*", attackRoutes+"* /kbs/v0/attestation-policy as *", attackRoutes+"* /kbs/v0/resource-policy as *",
		attackRoutes+"* /kbs/v0/reference-value*",
		"trustee/broker.TestAttackLearnWhatAnAdministratorIs/*",
		"trustee/broker.TestAttackRefusalsWithoutEnd/guesses at an administrator's token"),
	instead("who administers resources", brokerManage, "who, err := b.router.administrator(c)\n\tif err != nil {", "who, err := b.router.administrator(c)\n\tif false {",
		attackRoutes+"* /kbs/v0/resource/default/db/password as *"),
	instead("signature of administrators' tokens", adminGo, `parsed.Claims(key, &claims)`, `parsed.UnsafeClaimsWithoutVerification(&claims)`,
		attackAdmin+"another key", attackAdmin+"signature of another", attackAdmin+"no signature", attackRoutes+"* as a stranger"),
	never("role", adminGo, `c.Role != Role`,
		attackAdmin+"no role", attackAdmin+"another role", attackAdmin+"role in capitals"),
	never("audience", adminGo, `!c.Audience.Contains(a.config.Audience)`,
		attackAdmin+"no audience", attackAdmin+"another audience",
		"trustee/broker.TestAttackLearnWhatAnAdministratorIs/of another audience"),
	never("that administrators' tokens are not from the future", adminGo, `issued.After(now.Add(leeway))`,
		attackAdmin+"iat in the future"),
	never("expiry of administrators' tokens", adminGo, `!expires.After(now.Add(-leeway))`,
		attackAdmin+"expired", "trustee/broker.TestAttackLearnWhatAnAdministratorIs/expired"),
	never("life of administrators' tokens", adminGo, `lifetime > a.config.LongestLifetime`,
		attackAdmin+"too long a life", attackAdmin+"life from long ago"),
	never("size of administrators' tokens", adminGo, `len(token) > maxToken`,
		attackAdmin+"huge"),
)

// unrecorded is a mutant in which something happens although its record was not written.
func unrecorded(what, file, message string, attacks ...string) mutant {
	return instead("the record of "+what, file, "\tif err != nil {\n\t\treturn nil, fmt.Errorf(\""+message+"\", err)\n\t}\n", "",
		attacks...)
}
