// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"strings"
)

// paddedLines is how long a padded policy is at least.
const paddedLines = 400

// padAppraisal makes of an appraisal policy that of an owner with many fleets: each has reference values of its own,
// on SEV-SNP or TDX. None of the rules added holds for the fleet that is measured, so that all of them are looked
// at.
func padAppraisal(text string) string {
	return pad(text, func(n int) string {
		return fmt.Sprintf(`
# Fleet %02[1]d

executables := 3 if {
	input.snp.measurement in query_reference_value("fleet_%02[1]d_snp_launch_measurement")
}

executables := 3 if {
	input.tdx.quote.body.mr_td in query_reference_value("fleet_%02[1]d_mr_td")
	input.tdx.quote.body.rtmr_1 in query_reference_value("fleet_%02[1]d_rtmr_1")
	input.tdx.quote.body.rtmr_2 in query_reference_value("fleet_%02[1]d_rtmr_2")
}

init_data_authorised if input.init_data in query_reference_value("fleet_%02[1]d_init_data")
`, n)
	})
}

// padRelease makes of a release policy that of an owner with many teams, each with a resource and guests of its own.
func padRelease(text string) string {
	return pad(text, func(n int) string {
		return fmt.Sprintf(`
# Team %02[1]d

team_%02[1]d_init_data := ["%064[1]x"]

allow if {
	data.plugin == "resource"
	data["resource-path"] == ["team-%02[1]d", "database", "password"]
	count(data.query) == 0
	affirming
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data in team_%02[1]d_init_data
}
`, n)
	})
}

// pad appends rules until the text is long enough.
func pad(text string, rules func(n int) string) string {
	var b strings.Builder
	b.WriteString(text)
	for n := 1; strings.Count(b.String(), "\n") < paddedLines; n++ {
		b.WriteString(rules(n))
	}
	return b.String()
}
