// SPDX-License-Identifier: Apache-2.0

package guestos

import (
	"strings"

	"github.com/nacre-project/nacre/internal/guestos/verity"
)

// TEEParameter is the kernel parameter that names a simulated platform. The guest uses the simulated device only if
// its measured command line says so and the processor shows no real one.
const TEEParameter = "nacre.tee"

// SimulatedSNP is the value of TEEParameter for the simulated SEV-SNP platform.
const SimulatedSNP = "simulated-snp"

// Cmdline is what may differ between the kernel command lines of one image. The zero value is a guest on real
// hardware.
type Cmdline struct {
	TEE string // "" or SimulatedSNP
}

// parameters are on every command line. All of it is measured; a change here is a change of the launch measurement.
var parameters = []string{
	// Console: errors only. The guest's refusal lines go there whatever the level.
	"console=ttyS0", "quiet", "loglevel=3",
	// A guest that cannot go on must not hang, and one whose kernel has failed must not go on: reboot at once, which
	// the sandbox turns into an exit.
	"oops=panic", "panic=-1", "reboot=t",
	// Where a busy host emulates the processor, the kernel's test of the timer interrupt fails now and then, and the
	// kernel panics. Under KVM it leaves the test out of its own accord.
	"no_timer_check",
	// The kernel's self-tests of its ciphers take half a second where the processor is emulated.
	"cryptomgr.notests",
	// Only the security modules that the guest uses. Lockdown is raised by the guest once its modules are loaded.
	"lsm=lockdown,landlock,yama",
	// The processor's generator is inside the trust boundary; a seed from the boot loader is the host's. The driver
	// of virtio-rng is not in the image.
	"random.trust_cpu=on", "random.trust_bootloader=off",
}

// Cmdline composes the kernel command line of a guest that runs from this image. Nothing else composes one: what the
// sandbox boots and what a measurement predicts are the same string.
func (i *Image) Cmdline(c Cmdline) string {
	words := append([]string{}, parameters...)
	words = append(words, verity.Parameter+"="+i.verity.String())
	if c.TEE != "" {
		words = append(words, TEEParameter+"="+c.TEE)
	}
	return strings.Join(words, " ")
}
