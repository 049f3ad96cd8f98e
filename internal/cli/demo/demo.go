// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package demo tells the story of Nacre with real parts: an owner, a trustee, a confidential pod that gets its secret, and a host that tries
// to get it too. The trustee and the owner's commands are programs of their own, as a user would type them; the host's attempts use the
// same sandbox and protocol code as everything else, told to deviate in one thing each.
//
// Each attempt must be refused by the party, and with the code, that golden.json names, and has a twin: the same without the one deviation, which must
// succeed. So a demo in which nothing works refuses nothing.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/cli/busybox"
	"github.com/nacre-project/nacre/internal/guestos"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/kbs"
)

// Options say where the story finds its parts.
type Options struct {
	// Dir is the story's own folder. What an earlier story left in it is removed, but for the simulated platforms' keys.
	Dir string
	// Image is the guest image.
	Image *guestos.Image
	// Nacre and Trustee are the programs; Busybox is what the container image is made of.
	Nacre, Trustee, Busybox string
	// CacheDir remembers what executes guests.
	CacheDir string
	// Out gets the story, as text or, with JSON, one document at its end.
	Out  io.Writer
	JSON bool
}

// ErrFailed says that a step failed; which one has been printed.
var ErrFailed = errors.New("the demo failed")

// Run tells the story. It leaves no process behind, however it ends.
func Run(ctx context.Context, o Options) error {
	g, err := golden()
	if err != nil {
		return err
	}
	text := o.Out
	if o.JSON {
		text = io.Discard
	}
	out := &lines{w: text}
	s := &story{Options: o, report: report{golden: g, out: out}, out: out}
	begin := time.Now()
	err = s.tell(ctx)
	s.close()
	if stepErr := s.nothingLeft(); err == nil {
		err = stepErr
	}
	passed, failed := s.report.counts()
	if o.JSON {
		e := json.NewEncoder(o.Out)
		e.SetIndent("", "  ")
		if err := e.Encode(map[string]any{"steps": s.report.steps, "passed": passed, "failed": failed}); err != nil {
			return err
		}
	}
	out.printf("\n%.0f s. What was simulated: the secure processor, and with it all protection from this machine.\n", time.Since(begin).Seconds())
	out.printf("demo: %d passed, %d failed\n", passed, failed)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failed > 0 || err != nil {
		return errors.Join(ErrFailed, err)
	}
	return nil
}

// story is what the steps share.
type story struct {
	Options
	report   report
	out      *lines
	programs *programs

	registry   *busybox.Registry
	network    *network
	platform   *signer.Platform // the machine's
	trustee    *trusteeProcess
	trusteeLog *os.File
	cert       []byte // the trustee's
	admin      *kbs.Admin
	attacker   *attacker

	storyInitData, probeInitData []byte
	probeManifest                []byte
	forPods                      string // the trustee's URL as pods see it
}

// path is a file of the story.
func (s *story) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *story) tell(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for _, chapter := range []func(context.Context) error{s.owner, s.pods, s.attacks, s.imageAttacks, s.trail} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes what is there before the story begins: folders, the container image and its registry, the simulated platform.
func (s *story) prepare(ctx context.Context) (err error) {
	if s.Dir, err = filepath.Abs(s.Dir); err != nil {
		return err
	}
	for _, name := range []string{"config", "state", "files", "trustee.log"} {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"config", "state", "files"} {
		if err := os.MkdirAll(s.path(name), 0o700); err != nil {
			return err
		}
	}
	imageDir, err := filepath.Abs(s.Image.Dir)
	if err != nil {
		return err
	}
	s.programs = &programs{nacre: s.Nacre, trustee: s.Trustee, dir: s.path("files"), out: s.out,
		env: append(os.Environ(), "XDG_CONFIG_HOME="+s.path("config"), "XDG_STATE_HOME="+s.path("state"), "NACRE_IMAGE_DIR="+imageDir)}
	s.out.printf("A confidential pod, its secret, and a host that wants it too. State: %s\n", s.Dir)
	if s.registry, err = busybox.Serve(ctx, s.Busybox); err != nil {
		return err
	}
	if _, err := os.Stat(s.path("simtee")); err != nil {
		s.out.printf("Making the keys of two simulated secure processors (once; they take some seconds)\n")
	}
	stop := s.out.progress()
	defer stop()
	s.platform, err = signer.Open(s.path("simtee"))
	return err
}

func (s *story) close() {
	if s.attacker != nil {
		s.attacker.Close()
	}
	if s.admin != nil {
		s.admin.Close()
	}
	if s.trustee != nil {
		s.trustee.stop()
	}
	if s.trusteeLog != nil {
		s.trusteeLog.Close()
	}
	if s.network != nil {
		s.network.close()
	}
	if s.registry != nil {
		s.registry.Close()
	}
}

// nothingLeft is the last step: what the story started is gone.
func (s *story) nothingLeft() error {
	return s.report.step("nothing-left-running", "Nothing is left running", false, func(*Step) error {
		left, err := children()
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("still running: %s", strings.Join(left, ", "))
		}
		return err
	})
}

// guest is the configuration of an honest guest of the probe pod. The attempts deviate from it in one thing each.
func (s *story) guest() sandbox.Config {
	return sandbox.Config{Image: s.Image, Platform: s.platform, InitData: s.probeInitData, CacheDir: s.CacheDir}
}
