// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// cpuid is the identity of a processor model.
type cpuid struct{ family, model, stepping uint32 }

var (
	naples = cpuid{23, 1, 2}
	rome   = cpuid{23, 49, 0}
	milan  = cpuid{25, 1, 1}
	genoa  = cpuid{25, 17, 0}
	turin  = cpuid{26, 0, 0}
)

// models returns QEMU's AMD server processors by their names on its command line.
func models() map[string]cpuid {
	return map[string]cpuid{
		"EPYC": naples, "EPYC-v1": naples, "EPYC-v2": naples, "EPYC-v3": naples, "EPYC-v4": naples, "EPYC-v5": naples,
		"EPYC-IBPB": naples,
		"EPYC-Rome": rome, "EPYC-Rome-v1": rome, "EPYC-Rome-v2": rome, "EPYC-Rome-v3": rome, "EPYC-Rome-v4": rome,
		"EPYC-Rome-v5": rome,
		"EPYC-Milan":   milan, "EPYC-Milan-v1": milan, "EPYC-Milan-v2": milan, "EPYC-Milan-v3": milan,
		"EPYC-Genoa": genoa, "EPYC-Genoa-v1": genoa, "EPYC-Genoa-v2": genoa,
		"EPYC-Turin": turin, "EPYC-Turin-v1": turin,
	}
}

// CPUModels lists the processor models that can be measured, in alphabetical order.
func CPUModels() []string { return slices.Sorted(maps.Keys(models())) }

// CPUSignature returns what CPUID function 1 returns in EAX on one of QEMU's processor models.
func CPUSignature(model string) (uint32, error) {
	id, ok := models()[model]
	if !ok {
		return 0, fmt.Errorf("measure processor model %q: not known; known are %s", model, strings.Join(CPUModels(), ", "))
	}
	return id.signature(), nil
}

// signature packs the identity as AMD's CPUID specification (publication 25481) says: families above 15 are split into
// a base family of 15 and an extended family, models into four low and four high bits.
func (c cpuid) signature() uint32 {
	base, extended := c.family, uint32(0)
	if c.family > 0xf {
		base, extended = 0xf, c.family-0xf
	}
	return extended<<20 | (c.model>>4&0xf)<<16 | base<<8 | (c.model&0xf)<<4 | c.stepping&0xf
}
