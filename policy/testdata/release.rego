# SPDX-License-Identifier: Apache-2.0
package policy

default allow := false

allow if {
	data.plugin == "resource"
	data["resource-path"] == ["default", "db", "password"]
	count(input.submods) > 0
	every submod in input.submods {
		submod["ear.status"] == "affirming"
	}
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == "abcd"
}
