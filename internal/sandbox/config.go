// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/sandbox/accel"
)

// Sizes of a guest that asks for none.
const (
	DefaultVCPUs     = 1
	DefaultMemoryMiB = 1024
)

// Config is what a guest is started with.
type Config struct {
	// Image is what boots.
	Image *guestos.Image
	// Platform signs for the simulated secure processor. It is required while the sandbox starts guests on simulated
	// hardware only.
	Platform *signer.Platform
	// InitData is the init-data text that is bound to the launch and given to the guest; nil means none.
	InitData []byte

	VCPUs     int // 0 means DefaultVCPUs; it is measured
	MemoryMiB int // 0 means DefaultMemoryMiB; it is not measured

	// QEMU is the program that executes the guest; empty means qemu-system-x86_64 in PATH.
	QEMU string
	// CacheDir remembers whether KVM works; empty means that it is found out each time.
	CacheDir string

	// Console gets what the guest prints, uncleaned: it is the guest's own and may hold terminal control sequences.
	Console io.Writer
	Log     *slog.Logger
	// Events is told when a step begins and ends; it must return soon. Optional.
	Events func(Event)

	// Tamper is what an attacker in our place would do. Its zero value is honest.
	Tamper Tamper
}

// Step is a part of starting a guest that takes noticeable time.
type Step string

const (
	StepProbe   Step = "probe"   // finding out what executes the guest
	StepMeasure Step = "measure" // reading and measuring what boots
	StepBoot    Step = "boot"    // from the start of the machine until the agent listens
)

// Event says that a step began (Took is 0) or ended.
type Event struct {
	Step Step
	Done bool
	Took time.Duration
	// Text is one line for people.
	Text string
}

func (c *Config) fill() error {
	if c.Image == nil {
		return errors.New("starting a guest: no image given")
	}
	if c.Platform == nil {
		return errors.New("starting a guest: no simulated platform given, and real ones are not driven yet")
	}
	if c.VCPUs == 0 {
		c.VCPUs = DefaultVCPUs
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Console == nil {
		c.Console = io.Discard
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	return nil
}

// step reports the beginning of a step and returns what reports its end.
func (c *Config) step(s Step, text string) func(text string) {
	begin := time.Now()
	c.Events(Event{Step: s, Text: text})
	return func(text string) {
		took := time.Since(begin)
		c.Log.Info("guest step", "step", s, "took", took, "detail", text)
		c.Events(Event{Step: s, Done: true, Took: took, Text: text})
	}
}

func (c *Config) prober() accel.Prober {
	return accel.Prober{QEMU: c.QEMU, Kernel: c.Image.Kernel, CacheDir: c.CacheDir, Log: c.Log}
}

// GuestRefused is a guest's refusal to come up, as it said it on its console.
type GuestRefused struct {
	Code string // stable: root_verity, init_data_mismatch, ...
	Text string // one cleaned line
}

func (e *GuestRefused) Error() string {
	return fmt.Sprintf("the guest refused to start (%s): %s", e.Code, e.Text)
}
