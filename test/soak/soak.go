// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/policy/templates"
	"github.com/nacre-project/nacre/test/soak/model"
)

// How many clients there are.
const (
	owners = 2
	guests = 6
)

// place is where a trustee runs, and what takes the ground from under it.
type place interface {
	// start starts the trustee on what is left of it, and returns its URL once it listens. It kills it when ctx ends.
	start(ctx context.Context) (url string, err error)
	// strike starts the trustee and kills it while it starts, or just after.
	strike(ctx context.Context) (string, error)
	// kill ends the trustee at once, without a word to it, and returns when it is dead, with a line about what was lost.
	kill() (string, error)
	// end lets the trustee end in good order.
	end() error
}

// pace is how a place is treated.
type pace struct {
	load   time.Duration // the longest that the trustee is under load
	strike int           // how many rounds there are to one in which the trustee is killed while it starts
}

// verifyEvery is how many rounds there are to one in which the trustee verifies its whole trail.
const verifyEvery = 10

// soak is a run.
type soak struct {
	world
	place  place
	pace   pace
	rounds int
	random *rand.Rand
	out    io.Writer

	model  *model.Model
	owners []*owner
	guests []*guest
	looker *guest // asks for all resources between the rounds

	ended                  model.Time // of the round that was last
	answered, lost, struck int
	kinds                  map[string]int
	slowest                time.Duration // start
}

// prepare makes the clients.
func (s *soak) prepare(i identity, platform *signer.Platform) error {
	var err error
	s.initData, err = initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256})
	if err != nil {
		return err
	}
	digest, err := initdata.Digest(s.initData)
	if err != nil {
		return err
	}
	s.launch.HostData = snp.HostData(digest)
	s.launch.Measurement = [48]byte(slices.Concat(make([]byte, 16), sum([]byte("the guests of the soak test"))))
	s.admin, s.platform, s.start = i.admin, platform, time.Now()
	s.kinds = map[string]int{}
	s.model = model.New(policyValue(templates.DenyAll()))
	for range owners {
		s.owners = append(s.owners, &owner{&s.world, newWire(i.pool, s.clock)})
	}
	for range guests + 1 {
		s.guests = append(s.guests, &guest{world: &s.world, wire: newWire(i.pool, s.clock), processor: platform.Launch(s.launch)})
	}
	s.looker, s.guests = s.guests[guests], s.guests[:guests]
	return nil
}

func sum(text []byte) []byte {
	digest := sha256.Sum256(text)
	return digest[:]
}

// errViolated says that the trustee did what it must not.
var errViolated = errors.New("the trustee broke its word")

// run runs the rounds. It leaves nothing running.
func (s *soak) run(ctx context.Context) (err error) {
	alive := false
	defer func() {
		if alive {
			_, killErr := s.place.kill()
			err = errors.Join(err, killErr)
		}
	}()
	var note string
	for n := range s.rounds {
		if n%s.pace.strike == s.pace.strike-1 {
			if note, err = s.place.strike(ctx); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "killed while it started; %s\n", note)
			s.struck++
		}
		began := time.Now()
		if err := s.begin(ctx); err != nil {
			return err
		}
		alive = true
		took := time.Since(began)
		s.slowest = max(s.slowest, took)
		if err := s.look(ctx, n%verifyEvery == 0); err != nil {
			return fmt.Errorf("before round %d: %w", n+1, err)
		}
		answered, lost := s.answered, s.lost
		if err := s.load(ctx, func() error {
			note, err = s.place.kill()
			return err
		}); err != nil {
			return err
		}
		alive = false
		s.count()
		fmt.Fprintf(s.out, "round %d of %d: started in %d ms; %d answered, %d lost; %s\n", n+1, s.rounds, took.Milliseconds(),
			s.answered-answered, s.lost-lost, note)
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	alive = true
	if err := s.look(ctx, true); err != nil {
		return fmt.Errorf("after the last round: %w", err)
	}
	alive = false
	s.summarize()
	return s.place.end()
}

// begin starts the trustee and points the clients to it.
func (s *soak) begin(ctx context.Context) error {
	url, err := s.place.start(ctx)
	if err != nil {
		return fmt.Errorf("the trustee does not start: %w", err)
	}
	s.looker.wire.to(url)
	for _, o := range s.owners {
		o.wire.to(url)
	}
	for _, g := range s.guests {
		g.wire.to(url)
	}
	return nil
}

// look sees what the trustee has kept, and judges the round before by it. What it does itself is part of the next.
func (s *soak) look(ctx context.Context, whole bool) error {
	o := s.owners[0]
	round := model.Round{Ops: s.take(), Ended: s.ended}
	var err error
	if round.Trail, err = o.trail(ctx, max(s.model.Last()-1, 0)); err != nil {
		return err
	}
	if whole {
		if err := o.verifyTrail(ctx); err != nil {
			return err
		}
	}
	for _, read := range []func(context.Context) (model.Op, error){o.readPolicy, o.readReference} {
		op, err := read(ctx)
		if err != nil {
			return err
		}
		round.State = append(round.State, op)
	}
	for _, g := range s.guests {
		if err := g.presentAgain(ctx); err != nil {
			return err
		}
	}
	for _, act := range []func() error{
		func() error { return o.setReference(ctx, true) },
		func() error { return o.setPolicy(ctx, resources) },
		func() error { return s.looker.attest(ctx) },
	} {
		if err := act(); err != nil {
			return err
		}
	}
	for _, path := range resources {
		op, err := s.looker.ask(ctx, path)
		if err != nil {
			return err
		}
		if op.Outcome != model.Done && op.Code != model.CodeAbsent {
			return fmt.Errorf("%w: %s cannot be had after the start: %q", errViolated, path, op.Code)
		}
		op.Kind, op.Outcome, op.Code = model.Read, model.Done, ""
		round.State = append(round.State, op)
	}
	found := s.model.Round(round)
	if len(found) == 0 {
		return nil
	}
	var text strings.Builder
	const most = 20
	for _, v := range found[:min(len(found), most)] {
		fmt.Fprintf(&text, "\n  %s", v)
	}
	if len(found) > most {
		fmt.Fprintf(&text, "\n  and %d more", len(found)-most)
	}
	return fmt.Errorf("%w: %s", errViolated, &text)
}

// load lets all clients work until the trustee has been killed under them.
func (s *soak) load(ctx context.Context, kill func() error) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	var clients sync.WaitGroup
	failures := make(chan error, owners+guests)
	work := func(act func(context.Context, *rand.Rand) error, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		clients.Go(func() {
			for working.Err() == nil {
				err := act(working, random)
				if errors.Is(err, errGone) {
					return
				} else if err != nil {
					failures <- err
					return
				}
			}
		})
	}
	for _, o := range s.owners {
		work(o.act, s.random.Uint64())
	}
	for _, g := range s.guests {
		work(g.act, s.random.Uint64())
	}
	moment := time.NewTimer(time.Duration(s.random.Int64N(int64(s.pace.load))))
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-ctx.Done():
	}
	err := kill()
	s.ended = s.clock()
	stop()
	clients.Wait()
	close(failures)
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	return cmp.Or(err, ctx.Err())
}

// count adds up what came of a round.
func (s *soak) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[model.Kind]string{model.Write: "changes", model.Read: "looks", model.Attest: "attestations", model.Ask: "releases"}
	for _, op := range s.ops {
		name := names[op.Kind]
		switch op.Outcome {
		case model.Lost:
			s.lost++
			continue
		case model.Refused, model.Busy:
			name = "refusals"
		}
		s.answered++
		s.kinds[name]++
	}
}

func (s *soak) summarize() {
	var kinds []string
	for _, name := range []string{"changes", "looks", "attestations", "releases", "refusals"} {
		kinds = append(kinds, fmt.Sprintf("%d %s", s.kinds[name], name))
	}
	fmt.Fprintf(s.out, "%d rounds, and %d in which it was killed while it started, in %s: %d operations answered (%s), %d lost; %d audit "+
		"records; the slowest start took %d ms. Nothing acknowledged was lost, store and audit agree, nothing was released that a "+
		"policy in force denied.\n", s.rounds, s.struck, time.Since(s.start).Round(time.Second), s.answered,
		strings.Join(kinds, ", "), s.lost, s.model.Last(), s.slowest.Milliseconds())
}
