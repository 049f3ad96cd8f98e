// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import "time"

// Tamper is what a host can change about a guest that it starts. Whoever runs the sandbox is that host, so nothing can keep
// him from it; what must not work is that the guest, or the owner of a secret, does not notice. Tests and demonstrations set
// one field at a time and look who refuses.
type Tamper struct {
	// ExtraCmdline is appended to the kernel command line. The secure processor measures what boots, so the launch measurement
	// is another one.
	ExtraCmdline string
	// Rootfs is the path of another root image than the one whose hash is on the measured command line.
	Rootfs string
	// InitDataOnDevice is given to the guest in place of the init-data that is bound to the launch.
	InitDataOnDevice []byte
	// WithholdInitData gives the guest no init-data although some is bound to the launch.
	WithholdInitData bool
	// Clock is the time at which the guest's clock starts; zero means the host's own.
	Clock time.Time
}
