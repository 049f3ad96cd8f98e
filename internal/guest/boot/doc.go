// SPDX-License-Identifier: Apache-2.0

// Package boot brings a guest from the kernel's hand-over to the moment when the agent listens, and decides in which
// order that happens. It is two processes of one program.
//
// Process 1 parses nothing that comes from the host but the measured kernel command line. It mounts, locks the kernel
// down, waits for entropy, sets the clock's floor, starts the agent process, collects orphans, and powers the machine
// off when the agent ends, saying why if that was not asked for. A bug in a parser therefore never ends process 1.
//
// The agent process opens the attester, binds the init-data to the hardware before it looks into it, loads the agent
// policy, starts the services, and only then listens: the listener is made by the last function of the chain, which
// cannot be called without the policy that the ones before returned.
//
// What it trusts: the kernel, the root image, the command line (all measured). Not the clock, not devices, not what
// stands on them, not the entropy that the host offers. When anything is wrong it refuses: one line on the console,
// `nacre: refused code=<code> <text>`, and power off. The package does not decide what the host may ask for; the agent
// policy does, in package agent.
package boot
