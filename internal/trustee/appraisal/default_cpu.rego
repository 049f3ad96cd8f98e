# SPDX-License-Identifier: Apache-2.0
#
# How evidence of a whole guest is appraised unless the owner sets another policy with the id default_cpu. Names of
# claims and reference values are those that existing policies use. A claim starts at the value that says "not known
# to be good"; only a rule that names the platform and compares with what the owner registered makes it better. For a
# platform without rules, hardware stays contraindicated.
#
# Configuration is rated affirming only if the digest of the guest's init-data is a reference value: that it is bound
# to the guest does not say that the owner wants it, since the host chooses it.
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

# AMD SEV-SNP

executables := 3 if input.snp.measurement in query_reference_value("snp_launch_measurement")

hardware := 2 if {
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")
	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")
	snp_fmc_current
}

# Turin has one more level of firmware than the products before it.
snp_fmc_current if input.snp.product in {"Milan", "Genoa"}

snp_fmc_current if input.snp.reported_tcb_fmc in query_reference_value("snp_fmc")

# The guest has the init-data and the platform settings that the owner registered.
configuration := 2 if {
	init_data_present
	init_data_authorised
	snp_closed
	snp_settings_registered
} else := 3 if {
	# The init-data alone; the settings are left to the host.
	init_data_present
	init_data_authorised
	snp_closed
}

# The host can neither read the guest's memory nor move it to a machine of its choice.
snp_closed if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

snp_settings_registered if {
	input.snp.platform_smt_enabled == query_reference_value("snp_smt_enabled")
	input.snp.platform_tsme_enabled == query_reference_value("snp_tsme_enabled")
	input.snp.policy_abi_major == query_reference_value("snp_guest_abi_major")
	input.snp.policy_abi_minor == query_reference_value("snp_guest_abi_minor")
	input.snp.policy_single_socket == query_reference_value("snp_single_socket")
	input.snp.policy_smt_allowed == query_reference_value("snp_smt_allowed")
}

# All platforms

init_data_authorised if input.init_data in query_reference_value("init_data")

# Zeros are what a platform reports of a guest without init-data; registering them authorises nothing.
init_data_present if trim(input.init_data, "0") != ""

# What the init-data's agent policy says of the containers, for policies and people that want names.
extensions := [{
	"name": "ear.trustee.identifiers",
	"key": -18,
	"value": {"validated": validated},
}]

default validated := {}

validated := {name: list |
	some name, list in {"container_images": images, "container_uids": uids}
	count(list) > 0
} if {
	containers
}

containers := input.init_data_claims.agent_policy_claims.containers

images := [image | some container in containers; image := container.OCI.Annotations["io.kubernetes.cri.image-name"]]

uids := [uid | some container in containers; uid := container.OCI.Process.User.UID]
