// SPDX-License-Identifier: Apache-2.0

package main

const (
	auditGo     = "internal/trustee/audit/audit.go"
	storeWriter = "internal/trustee/store/writer.go"
	attackTrail = "trustee/audit.TestAttackChangeTheTrail/"
	attackLog   = "trustee/store.TestAttackCutTheLog/"
)

var consistency = of(10,
	instead("the hash of a record", auditGo, "case hex.EncodeToString(digest[:]) != r.Hash:", "case hex.EncodeToString(digest[:]) == \"\":",
		attackTrail+"a record changed"),
	instead("the hash of the record before", auditGo, "case r.Prev != previous:", "case false:",
		attackTrail+"a record changed, hash fitting"),
	instead("the log's end", storeWriter, "if id != sealedID || !bytes.Equal(digest, sealedDigest) {",
		"if id < 0 || !bytes.Equal(digest[:0], sealedDigest[:0]) {",
		attackLog+"last entry removed", attackLog+"all removed", attackLog+"last entry changed", attackLog+"entry added", attackLog+"head removed"),
	instead("the hash of the log's last entry", storeWriter, "id != sealedID || !bytes.Equal(digest, sealedDigest)", "id != sealedID || !bytes.Equal(digest[:0], sealedDigest[:0])",
		attackLog+"last entry changed"),
)
