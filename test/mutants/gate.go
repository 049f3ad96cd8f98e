// SPDX-License-Identifier: Apache-2.0

package main

const (
	agentGate     = "internal/guest/agent/gate.go"
	bakedPolicy   = "internal/guest/boot/default-policy.rego"
	attackNoYes   = "guest/agent.TestAttackAnswersThatAreNoYes/"
	attackPolicy  = "guest/agent.TestAttackDefaultPolicy/"
	attackBaked   = "guest/boot.TestAttackDefaultPolicy/"
	attackUnasked = "guest/agent.TestAttackRequestWithoutDecision"
)

var gate = of(6,
	instead("that the policy decides", agentGate, "return g.decide(ctx, request)", "return nil",
		attackUnasked, attackNoYes+"*", attackPolicy+"*", attackBaked+"*", "policygen.TestAttack*"),
	instead("that Health alone is not gated", agentGate, "if ungated[info.FullMethod] {", "if ungated[info.FullMethod] || strings.HasSuffix(info.FullMethod, \"s\") {",
		attackUnasked),
	instead("an answer that is undefined", agentGate, `return nil, fmt.Errorf("%s is undefined", rule)`, "return state, nil",
		attackUnasked, attackNoYes+"other package's", "policygen.TestAttackCommands/what a probe prints", "policygen.TestAttackSandboxVolume"),
	instead("an answer that is false", agentGate, "if !allowed {", "if !allowed && false {",
		attackNoYes+"false", attackPolicy+"*", attackBaked+"*"),
	instead("an answer that is no boolean", agentGate, `return nil, errors.New("the answer is neither a boolean nor an object")`, "return state, nil",
		attackNoYes+"null", attackNoYes+"text", attackNoYes+"number", attackNoYes+"set", attackNoYes+"list"),
	instead("a policy that makes a mistake", agentGate, `return nil, fmt.Errorf("%s could not be evaluated", rule)`, "return state, nil",
		attackNoYes+"conflict"),
	never("an answer that does not allow", agentGate, "!ok || !allowed",
		attackNoYes+"object without", attackNoYes+"allowed is text", attackNoYes+"allowed is false",
		// a sandbox's volumes have a rule that answers with a boolean
		"policygen.TestAttackC*", "policygen.TestAttackF*", "policygen.TestAttackM*", "policygen.TestAttackO*", "policygen.TestAttackR*",
		"policygen.TestAttackT*", "policygen.TestAttackV*"),
	never("operations that are no list", agentGate, `!ok && object["ops"] != nil`,
		attackNoYes+"ops is no list"),
	never("how many operations there are", agentGate, "len(ops) > maxOps",
		attackNoYes+"too many ops"),
	instead("how much is kept", agentGate, "n > maxStateKeys", "false",
		attackNoYes+"too much state"),
	instead("where operations work", agentGate, `strings.CutPrefix(path, "/"+stateName+"/")`, `strings.CutPrefix(path, "/")`,
		attackNoYes+"ops elsewhere", attackNoYes+"ops on the root",
		// what these policies remember is then not where they look for it
		"policygen.TestAttackCommands/*", "policygen.TestAttackCopiedFiles", "policygen.TestAttackMounts", "policygen.TestAttackTakenIdentifier"),
	instead("which operations there are", agentGate, "\tdefault:\n\t\treturn fmt.Errorf(\"state operation %q", "\tcase kind == \"none\":\n\t\treturn fmt.Errorf(\"state operation %q",
		attackNoYes+"ops unknown", attackNoYes+"ops remove nothing"),
	crashes("panics of handlers", agentGate, "if r := recover(); r != nil {", "if r := any(nil); r != nil {",
		"guest/agent.TestAttackHandlerPanics"),
	never("the size of requests", agentGate, "len(encoded) > limit",
		"guest/agent.TestAttackEncoding/too large", "guest/agent.TestAttackEncoding/many small parts",
		attackCaps+"a request that copies"),
	instead("that a request is one", agentGate, "err := proto.Unmarshal(encoded, request); err != nil", "err := proto.Unmarshal(encoded, request); err != nil && false",
		"guest/agent.TestAttackEncoding/invalid text"),
	never("that there is a policy before the agent serves", "internal/guest/agent/service.go", "a.Gate == nil",
		"guest/agent.TestAttackBeforeThePolicy"),

	baked("exec", "ExecProcessRequest"), baked("standard input", "WriteStreamRequest"), baked("a file", "CopyFileRequest"),
	baked("a policy", "SetPolicyRequest"), baked("the clock", "SetGuestDateTimeRequest"), baked("entropy", "ReseedRandomDevRequest"),
	baked("packet filters", "SetIPTablesRequest"),
	bakedLine("\tinput.guest_hook_path == \"\"\n", "a sandbox with a hook"),
	bakedLine("\tcount(input.kernel_modules) == 0\n", "a sandbox with a module"),
	instead("the image's policy: a sandbox with shared pids", bakedPolicy, "\tcount(input.kernel_modules) == 0\n\tnot input.sandbox_pidns\n",
		"\tcount(input.kernel_modules) == 0\n",
		attackBaked+"a sandbox with shared pids"),
	instead("the image's policy: a sandbox with a disk", bakedPolicy, "\t\tstorage.driver == \"ephemeral\"\n", "\t\tstorage\n",
		attackBaked+"a sandbox with a disk"),
	bakedLine("\tcount(input.devices) == 0\n", "a container with a device"),
	bakedLine("\tcount(input.shared_mounts) == 0\n", "a container with a mount"),
	instead("the image's policy: a container in shared pids", bakedPolicy, "\tcount(input.shared_mounts) == 0\n\tnot input.sandbox_pidns\n",
		"\tcount(input.shared_mounts) == 0\n",
		attackBaked+"a container in shared pids"),
	instead("the image's policy: a container with a disk", bakedPolicy, "\t\tstorage.driver in {\"image_guest_pull\", \"ephemeral\", \"local\"}\n", "\t\tstorage\n",
		attackBaked+"a container with a disk"),
)

// baked has the image's own policy allow a request.
func baked(attack, request string) mutant {
	return instead("the image's policy: "+attack, bakedPolicy, "default "+request+" := false", "default "+request+" := true", attackBaked+attack)
}

// bakedLine takes a line out of the image's own policy.
func bakedLine(line, attack string) mutant {
	return instead("the image's policy: "+attack, bakedPolicy, line, "", attackBaked+attack)
}
