// SPDX-License-Identifier: Apache-2.0

package boot

import "strings"

// parameterPrefix marks the kernel parameters that are for the guest. The kernel ignores them, because they look like
// parameters of a module.
const parameterPrefix = "nacre."

// teeParameter names a simulated platform; simulatedSNP is its one value.
const (
	teeParameter = "nacre.tee"
	simulatedSNP = "simulated-snp"
)

// cmdline is what the measured kernel command line says to the guest.
type cmdline struct {
	ours         bool // the kernel was booted for this program
	simulatedSNP bool
}

// parseCmdline reads /proc/cmdline. A parameter with the prefix that this image does not know, or that stands there
// twice, is refused: the line is measured, so it is a mistake of its author and not to be passed over.
func parseCmdline(text string) (cmdline, error) {
	var c cmdline
	seen := make(map[string]bool)
	for _, word := range strings.Fields(text) {
		if !strings.HasPrefix(word, parameterPrefix) {
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		if seen[key] {
			return cmdline{}, refuse(CodeCmdlineInvalid, "the kernel command line has %s twice", key)
		}
		seen[key] = true
		switch {
		case key == "nacre.verity":
			c.ours = true // what it says the initial RAM file system has used
		case key == teeParameter && value == simulatedSNP:
			c.simulatedSNP = true
		default:
			return cmdline{}, refuse(CodeCmdlineInvalid, "the kernel command line has %q, which this image does not know",
				word)
		}
	}
	return c, nil
}
