// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"fmt"
	"testing"
)

// TestAttackDrivesCVE2026_24054 gives the guest drives of which it cannot know which one was meant.
func TestAttackDrivesCVE2026_24054(t *testing.T) {
	good := device(t, initText)
	damaged := bytes.Clone(good)
	damaged[30] ^= 0xff
	many := map[string][]byte{}
	for i := range maxDrives + 1 {
		many[fmt.Sprintf("vd%dx", i)] = nil
	}
	for name, contents := range map[string]map[string][]byte{
		"two carriers":             {"vdb": good, "vdc": good},
		"one and a damaged one":    {"vdb": good, "vdc": damaged},
		"more than can be read":    many,
		"one without an end to it": {"vdb": append([]byte("initdata\xff\xff\xff\xff\xff\xff\xff\x7f"), make([]byte, 4096)...)},
	} {
		t.Run(name, func(t *testing.T) {
			if raw, err := findInitData(drives(t, contents)); codeOf(err) != CodeInitDataDevice {
				t.Errorf("%d bytes, %v", len(raw), err)
			}
		})
	}
}

// TestAttackCommandLineGHSA_rr59_xxvx_96qr gives the guest parameters that it does not know, or that contradict each other. The line is
// measured: what the guest passed over could mean something to a later image.
func TestAttackCommandLineGHSA_rr59_xxvx_96qr(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown parameter":  "nacre.verity=a nacre.debug=1",
		"an unknown platform":   "nacre.verity=a nacre.tee=sample",
		"a parameter twice":     "nacre.verity=a nacre.verity=b",
		"a platform of no name": "nacre.verity=a nacre.tee",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseCmdline(text); codeOf(err) != CodeCmdlineInvalid {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
