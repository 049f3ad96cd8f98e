// SPDX-License-Identifier: Apache-2.0

package main

import "slices"

// mutant is one check taken away.
type mutant struct {
	invariant int // a key of invariants
	// check says in a few words what is no longer checked.
	check string
	// file is the path below the module's root; old stands in it exactly once and is replaced by new.
	file, old, new string
	// attacks are those that must succeed then, and no others. A "*" in a name stands for anything, and so for several attacks; all of
	// them must succeed.
	attacks []string
	// crash says that the attack succeeds by ending the process, which keeps others from running.
	crash bool
}

// invariants are the design's (section 6), in short.
var invariants = map[int]string{
	1:  "deny by default: no platform is trusted by falling through",
	2:  "evidence is bound to nonce and key, compared whole, and accepted once",
	3:  "init-data is bound, and authorised",
	4:  "resources leave only after token, policy and record, sealed to the attested key",
	5:  "what comes from the other side is hostile, and bounded",
	6:  "no agent request runs that the measured policy does not allow",
	7:  "a workload cannot forge evidence",
	8:  "images are used after their digest is verified, and unpacked apart",
	9:  "secrets touch neither a host's disk nor a log",
	10: "store and audit are consistent, or say so",
}

var table = slices.Concat(denial, binding, authorisation, release, bounds, gate, podPolicy, forgery, images, encryption, keyProviding, signatures, secrets, sealedSecrets, consistency)

// of numbers the mutants of one invariant.
func of(invariant int, mutants ...mutant) []mutant {
	for i := range mutants {
		mutants[i].invariant = invariant
	}
	return mutants
}

// never is a mutant in which a condition, on which something is refused, does not hold.
func never(check, file, condition string, attacks ...string) mutant {
	return mutant{check: check, file: file, old: condition, new: "false && (" + condition + ")", attacks: attacks}
}

// passes is a mutant in which a call, whose error refuses something, is not made.
func passes(check, file, call string, attacks ...string) mutant {
	return mutant{check: check, file: file, old: call, new: "error(nil)", attacks: attacks}
}

// crashes is like instead; the attack succeeds by ending the process.
func crashes(check, file, old, new string, attack string) mutant {
	return mutant{check: check, file: file, old: old, new: new, attacks: []string{attack}, crash: true}
}

// instead is a mutant in which one text stands for another.
func instead(check, file, old, new string, attacks ...string) mutant {
	return mutant{check: check, file: file, old: old, new: new, attacks: attacks}
}
