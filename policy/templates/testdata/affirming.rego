# SPDX-License-Identifier: Apache-2.0
#
# Release policy: the resources named below, to guests whose appraisal is affirming and whose init-data is one of
# those named below.
package policy

import rego.v1

default allow := false

# Resources as repository, type and tag.
resources := [["default","db","ca.crt"],["default","db","password"]]

# Digests of init-data, as the platform reports them: lower-case hex of the whole field.
init_data_digests := ["1111111111111111111111111111111111111111111111111111111111111111","abababababababababababababababababababababababababababababababab"]

allow if {
	data.plugin == "resource"
	data["resource-path"] in resources
	count(data.query) == 0
	affirming
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data in init_data_digests
}

# Every part of the guest was appraised as affirming, devices too.
affirming if {
	count(input.submods) > 0
	every submod in input.submods {
		submod["ear.status"] == "affirming"
	}
}
