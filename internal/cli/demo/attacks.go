// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/kbs"
)

// attacks is the third chapter. The guests that it needs boot two at a time, ahead of the steps that speak of them.
func (s *story) attacks(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	honest := s.guest()
	runs := s.startRuns(ctx, []plannedRun{
		{"honest", func() (sandbox.Config, error) { return honest, nil }},
		{"another-command-line", func() (sandbox.Config, error) {
			c := honest
			c.Tamper.ExtraCmdline = "loglevel=7" // the kernel would tell its log to the host
			return c, nil
		}},
		{"changed-root-image", func() (sandbox.Config, error) {
			c := honest
			var err error
			c.Tamper.Rootfs, err = s.changedRoot()
			return c, err
		}},
		{"other-init-data-than-bound", func() (sandbox.Config, error) {
			c := honest
			var err error
			c.Tamper.InitDataOnDevice, err = s.hostsInitData()
			return c, err
		}},
		{"unauthorised-init-data", func() (sandbox.Config, error) {
			c := honest
			var err error
			c.InitData, err = s.hostsInitData()
			return c, err
		}},
		{"unknown-simulated-root", func() (sandbox.Config, error) {
			c := honest
			var err error
			c.Platform, err = signer.Open(s.path("simtee-unknown"))
			return c, err
		}},
	})
	defer runs.wait()
	defer cancel()

	// The attempts that need a guest, and whether it gave the password away.
	byGuest := func(name, title string) error {
		return s.report.step(name, title, true, func(st *Step) error {
			twin, err := runs.of(ctx, "honest")
			if err != nil {
				return err
			}
			if err := released(twin); err != nil {
				return fmt.Errorf("the honest twin: %w", err)
			}
			st.Twin = "the same guest without the deviation got the password"
			got, err := runs.of(ctx, name)
			if err != nil {
				return err
			}
			r, err := got.about(password)
			if err != nil {
				return err
			}
			return s.refused(ctx, st, r)
		})
	}
	var errs []error
	next := func(err error) bool {
		errs = append(errs, err)
		return ctx.Err() == nil
	}
	_ = next(byGuest("another-command-line", "The host boots the guest with another kernel command line")) &&
		next(byGuest("changed-root-image", "The host changes the root image")) &&
		next(byGuest("other-init-data-than-bound", "The host hands over other init-data than is bound to the launch")) &&
		next(byGuest("unauthorised-init-data", "The host binds init-data of its own: the right trustee, and a policy that allows it everything")) &&
		next(s.replayedEvidence(ctx)) &&
		next(s.anotherKey(ctx)) &&
		next(byGuest("unknown-simulated-root", "The host brings a simulated processor that the trustee was not told of")) &&
		next(s.unnamedResource(ctx, runs)) &&
		next(s.forbiddenExec(ctx, runs))
	// A failed attempt does not end the story; that it failed is in the report.
	if ctx.Err() != nil {
		return errors.Join(append(errs, context.Cause(ctx))...)
	}
	return nil
}

func released(run seen) error {
	r, err := run.about(password)
	if err != nil {
		return err
	}
	if r.By != "" {
		return fmt.Errorf("refused by the %s (%s): %s", r.By, r.Code, r.Text)
	}
	return nil
}

func (s *story) unnamedResource(ctx context.Context, runs *runs) error {
	return s.report.step("unnamed-resource", "The honest guest asks for a resource that the policy does not name", true, func(st *Step) error {
		run, err := runs.of(ctx, "honest")
		if err != nil {
			return err
		}
		if err := released(run); err != nil {
			return fmt.Errorf("the twin: %w", err)
		}
		st.Twin = "the resource that the policy names was released to the same guest"
		r, err := run.about(adminPassword)
		if err != nil {
			return err
		}
		return s.refused(ctx, st, r)
	})
}

func (s *story) forbiddenExec(ctx context.Context, runs *runs) error {
	return s.report.step("forbidden-exec", "The host asks the guest to start a program in the container, as kubectl exec does", true, func(st *Step) error {
		twin, err := runs.of(ctx, "unauthorised-init-data")
		if err != nil {
			return err
		}
		if twin.exec.By != "" {
			return fmt.Errorf("the twin: refused although the host's own policy allows it: %s", twin.exec.Text)
		}
		st.Twin = "under the host's own policy (which gets no secret) the same request is carried out"
		run, err := runs.of(ctx, "honest")
		if err != nil {
			return err
		}
		return s.refused(ctx, st, run.exec)
	})
}

func (s *story) replayedEvidence(ctx context.Context) error {
	return s.report.step("replayed-evidence", "The host presents evidence a second time", true, func(st *Step) error {
		c, key, evidence, err := s.freshEvidence(ctx)
		if err != nil {
			return err
		}
		first, err := s.attacker.attest(ctx, c, key, evidence, s.probeInitData)
		if err != nil {
			return err
		}
		if first.By != "" {
			return fmt.Errorf("the twin, evidence presented for the first time, was refused: %s", first.Text)
		}
		st.Twin = "presented for the first time, it was accepted"
		r, err := s.attacker.attest(ctx, c, key, evidence, s.probeInitData)
		if err != nil {
			return err
		}
		return s.refused(ctx, st, r)
	})
}

func (s *story) anotherKey(ctx context.Context) error {
	return s.report.step("another-tee-key", "The host presents a guest's evidence with a key of its own", true, func(st *Step) error {
		c, key, evidence, err := s.freshEvidence(ctx)
		if err != nil {
			return err
		}
		own, err := kbs.GenerateTEEKey(kbs.ECDHP256)
		if err != nil {
			return err
		}
		r, err := s.attacker.attest(ctx, c, own.Public(), evidence, s.probeInitData)
		if err != nil {
			return err
		}
		twin, err := s.attacker.attest(ctx, c, key, evidence, s.probeInitData)
		if err != nil {
			return err
		}
		if twin.By != "" {
			return fmt.Errorf("the twin, the same evidence with its own key, was refused: %s", twin.Text)
		}
		st.Twin = "with the key that it is bound to, the same evidence was accepted"
		return s.refused(ctx, st, r)
	})
}

// freshEvidence is evidence of an honest launch for a new challenge, with the key that it is bound to.
func (s *story) freshEvidence(ctx context.Context) (challenge, kbs.JWK, json.RawMessage, error) {
	failed := func(err error) (challenge, kbs.JWK, json.RawMessage, error) { return challenge{}, kbs.JWK{}, nil, err }
	launch, err := sandbox.Predict(s.Image, 0, s.probeInitData)
	if err != nil {
		return failed(err)
	}
	c, err := s.attacker.auth(ctx)
	if err != nil {
		return failed(err)
	}
	key, err := kbs.GenerateTEEKey(kbs.ECDHP256)
	if err != nil {
		return failed(err)
	}
	reportData, err := kbs.ReportData(c.nonce, key.Public(), "")
	if err != nil {
		return failed(err)
	}
	evidence, err := s.processor(launch).evidence(ctx, reportData)
	if err != nil {
		return failed(err)
	}
	return c, key.Public(), evidence, nil
}

// processor is the simulated processor of a launch.
func (s *story) processor(l sandbox.Launch) processor {
	return processor{s.platform.Launch(signer.Launch{Measurement: l.Measurement, HostData: l.HostData})}
}

type processor struct{ *signer.Processor }

func (p processor) evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	return p.Evidence(reportData)
}

// hostsInitData is the host's own: the owner's trustee, as the owner's init-data names it, and an agent policy that allows everything.
func (s *story) hostsInitData() ([]byte, error) {
	d, err := initdata.Parse(s.probeInitData)
	if err != nil {
		return nil, err
	}
	rules := []string{"package agent_policy"}
	services := agent.File_api_agent_agent_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			rules = append(rules, fmt.Sprintf("default %s := true", methods.Get(j).Input().Name()))
		}
	}
	slices.Sort(rules[1:])
	d.Files[initdata.AgentPolicy] = strings.Join(slices.Compact(rules), "\n\n")
	return initdata.Format(d)
}

// changedRoot is a copy of the root image with one bit flipped, in the middle of its data.
func (s *story) changedRoot() (string, error) {
	text, err := os.ReadFile(s.Image.Rootfs)
	if err != nil {
		return "", err
	}
	// The superblock's name of the volume is read by every mount.
	text[1024+64] ^= 1
	path := filepath.Join(s.path("files"), "changed-root.img")
	return path, os.WriteFile(path, text, 0o600)
}

// plannedRun is a guest that a step will ask about.
type plannedRun struct {
	name   string
	config func() (sandbox.Config, error)
}

// runs are guests that boot in the background, two at a time, in the order of the plan.
type runs struct {
	results map[string]*result
	all     sync.WaitGroup
}

type result struct {
	done chan struct{}
	seen seen
	err  error
}

func (s *story) startRuns(ctx context.Context, plan []plannedRun) *runs {
	r := &runs{results: map[string]*result{}}
	queue := make(chan plannedRun, len(plan))
	for _, p := range plan {
		r.results[p.name] = &result{done: make(chan struct{})}
		queue <- p
	}
	close(queue)
	for range 2 {
		r.all.Go(func() {
			for p := range queue {
				res := r.results[p.name]
				res.seen, res.err = s.probeOnce(ctx, p)
				close(res.done)
			}
		})
	}
	return r
}

func (s *story) probeOnce(ctx context.Context, p plannedRun) (seen, error) {
	if err := context.Cause(ctx); err != nil {
		return seen{}, err
	}
	cfg, err := p.config()
	if err != nil {
		return seen{}, err
	}
	var console bytes.Buffer
	cfg.Console = &console
	got, err := probe(ctx, cfg, s.probeManifest)
	_ = os.WriteFile(s.path("files/console-"+p.name+".log"), console.Bytes(), 0o600) // for whoever looks into a failure
	return got, err
}

// of waits for a run.
func (r *runs) of(ctx context.Context, name string) (seen, error) {
	res := r.results[name]
	select {
	case <-res.done:
		return res.seen, res.err
	case <-ctx.Done():
		return seen{}, context.Cause(ctx)
	}
}

func (r *runs) wait() { r.all.Wait() }
