// SPDX-License-Identifier: Apache-2.0

package main

const (
	podRules        = "internal/policygen/agent_policy.rego"
	attackChange    = "policygen.TestAttackForbiddenChange/"
	attackCommand   = "policygen.TestAttackCommands/"
	attackTakenName = "policygen.TestAttackTakenIdentifier"
)

// podPolicy are the checks of the rules that `nacre policy generate` and `nacre initdata create` write.
var podPolicy = of(6,
	podField("devices", attackChange+"a device"),
	podField("shared_mounts", attackChange+"shared mounts"),
	podField("sandbox_pidns", attackChange+"shared processes"),
	podField("OCI.Hooks", attackChange+"a hook"),
	podField("OCI.Linux.Devices", attackChange+"a device node"),
	podField("OCI.Linux.Sysctl", attackChange+"a kernel setting"),
	podField("OCI.Linux.Namespaces", attackChange+"another's namespace"),
	podField("OCI.Linux.UIDMappings", attackChange+"a user namespace"),
	podField("OCI.Process.Terminal", attackChange+"a terminal"),
	podField("OCI.Process.NoNewPrivileges", attackChange+"no new privileges"),
	podField("OCI.Root.Readonly", attackChange+"a root that is read-only"),
	podField("OCI.Process.Cwd", attackChange+"another directory"),
	instead("that a command's id is one", podRules, `exec_fields := ["exec_id", `, `exec_fields := [`, attackCommand+"an id that is a path"),
	instead("whose user a command has", podRules, `"process.Cwd", "process.User", `, `"process.Cwd", `, attackCommand+"as root"),
	instead("a command's environment", podRules, `"process.Terminal", "process.Env", `, `"process.Terminal", `, attackCommand+"with a library"),
	instead("a command's directory", podRules, `"process.Env", "process.Cwd", `, `"process.Env", `, attackCommand+"elsewhere"),
	instead("that an id stands for one container", podRules, "\tobject.get(state, input.container_id, index) == index\n", "", attackTakenName),
	instead("words in a word of a command", podRules, "\t\tnot contains(word, \"\\u0000\")\n", "\t\tword\n", attackCommand+"a word in a word"),
)

// podField takes a field out of those that are compared.
func podField(field string, attacks ...string) mutant {
	return instead("a pod's "+field, podRules, "\t\""+field+"\",\n", "", attacks...)
}
