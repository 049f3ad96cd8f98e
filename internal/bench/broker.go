// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nacre-project/nacre/internal/bench/floor"
)

// clients is how many there are at the same time.
const clients = 32

// How many times as many requests a load has as Options.Requests says, because they cost less.
const (
	resourceFactor = 4
	splitFactor    = 4 // a profile has a hundred samples a second of CPU time
)

// evaluations is how often a policy is evaluated to find out what that costs.
const evaluations = 2000

// comparison is what came of a server and of what it is compared with, round by round.
type comparison struct {
	cpu, floorCPU       []time.Duration
	median, floorMedian []time.Duration
}

// add runs both, the floor first in every other round, since what runs second finds a machine that the first has
// warmed.
func (c *comparison) add(server, against func() (outcome, error)) error {
	run := func(f func() (outcome, error), cpu, median *[]time.Duration) error {
		r, err := f()
		*cpu, *median = append(*cpu, r.cpu), append(*median, r.median)
		return err
	}
	turns := []func() error{
		func() error { return run(server, &c.cpu, &c.median) },
		func() error { return run(against, &c.floorCPU, &c.floorMedian) },
	}
	if len(c.cpu)%2 == 1 {
		turns[0], turns[1] = turns[1], turns[0]
	}
	for _, turn := range turns {
		if err := turn(); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) cpuRow(name string) Result {
	return New(name, micros(median(c.cpu)), micros(median(c.floorCPU)), "µs")
}

func (c *comparison) latencyRow(name string) Result {
	return New(name, millis(median(c.median)), millis(median(c.floorMedian)), "ms")
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// requests measures what a request costs a trustee at many clients, and how long one client waits.
func (b *bench) requests(ctx context.Context) (rows []Result, err error) {
	st, err := b.newStage(ctx, "trustee", false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var attest, resource, firstResource comparison
	for round := range b.Rounds {
		b.progress("attest and resource requests at %d clients, round %d of %d", clients, round+1, b.Rounds)
		if err := st.round(ctx, clients, b.Requests, &attest, &resource, &firstResource); err != nil {
			return nil, err
		}
	}
	var attestAlone, resourceAlone, firstAlone comparison
	for round := range b.Rounds {
		b.progress("latency at one client, round %d of %d", round+1, b.Rounds)
		if err := st.round(ctx, 1, max(b.Requests/10, 1), &attestAlone, &resourceAlone, &firstAlone); err != nil {
			return nil, err
		}
	}
	return []Result{
		attest.cpuRow("attest request"),
		resource.cpuRow("resource request"),
		firstResource.cpuRow("resource request, the first of a token"),
		attestAlone.latencyRow("attest latency at one client"),
		resourceAlone.latencyRow("resource latency at one client"),
	}, nil
}

// round sends attestations, then requests for the secret, first with tokens that were not seen before and then with
// those of some guests again and again, to the trustee and to the floor.
func (st *stage) round(ctx context.Context, clients, count int, attest, resource, firstResource *comparison) error {
	guests, err := st.fleet.attestations(ctx, st.trustee, count)
	if err != nil {
		return err
	}
	answers := make([][]byte, count)
	evidence := requests(guests)
	if err := attest.add(
		func() (outcome, error) { return st.trustee.send(ctx, clients, evidence, answers) },
		func() (outcome, error) { return st.floor.send(ctx, clients, evidence, nil) },
	); err != nil {
		return err
	}
	asks, err := bearers(answers, count)
	if err != nil {
		return err
	}
	if err := firstResource.add(
		func() (outcome, error) { return st.trustee.send(ctx, clients, asks, nil) },
		func() (outcome, error) { return st.floor.send(ctx, clients, first(asks), nil) },
	); err != nil {
		return err
	}
	if asks, err = bearers(answers[:min(clients, count)], count*resourceFactor); err != nil {
		return err
	}
	return resource.add(
		func() (outcome, error) { return st.trustee.send(ctx, clients, asks, nil) },
		func() (outcome, error) { return st.floor.send(ctx, clients, asks, nil) },
	)
}

// processors measures what a request costs a trustee that may use two processors, against one that may use one.
func (b *bench) processors(ctx context.Context) (rows []Result, err error) {
	one, err := b.newStage(ctx, "one-processor", false, "GOMAXPROCS=1")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, one.close()) }()
	two, err := b.newStage(ctx, "two-processors", false, "GOMAXPROCS=2")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, two.close()) }()
	var attest, resource comparison
	for round := range b.Rounds {
		b.progress("requests at one and two processors, round %d of %d", round+1, b.Rounds)
		answers := map[*stage][][]byte{}
		evidence := map[*stage][]request{}
		for _, st := range []*stage{one, two} {
			guests, err := st.fleet.attestations(ctx, st.trustee, b.Requests)
			if err != nil {
				return nil, err
			}
			evidence[st], answers[st] = requests(guests), make([][]byte, b.Requests)
		}
		present := func(st *stage) func() (outcome, error) {
			return func() (outcome, error) { return st.trustee.send(ctx, clients, evidence[st], answers[st]) }
		}
		ask := func(st *stage) func() (outcome, error) {
			return func() (outcome, error) {
				asks, err := bearers(answers[st][:clients], b.Requests*resourceFactor)
				if err != nil {
					return outcome{}, err
				}
				return st.trustee.send(ctx, clients, asks, nil)
			}
		}
		if err := errors.Join(attest.add(present(two), present(one)), resource.add(ask(two), ask(one))); err != nil {
			return nil, err
		}
	}
	return []Result{
		attest.cpuRow("attest request at 2 processors, against 1"),
		resource.cpuRow("resource request at 2 processors, against 1"),
	}, nil
}

// split tells what requests spend their time on, by the CPU profiles of a trustee and a floor that do nothing else.
// Keys and cookies outlive a restart, so what was prepared with one trustee process is sent to the next.
func (b *bench) split(ctx context.Context, name, suffix string, padded bool) (rows []Result, err error) {
	b.progress("what requests spend their time on%s", suffix)
	st, err := b.newStage(ctx, name, padded)
	if err != nil {
		return nil, err
	}
	count := b.Requests * splitFactor
	guests, err := st.fleet.attestations(ctx, st.trustee, count)
	tokens := make([][]byte, clients)
	if err == nil {
		_, err = st.trustee.send(ctx, clients, requests(guests)[:clients], tokens)
	}
	if err = errors.Join(err, st.close()); err != nil {
		return nil, err
	}
	asks, err := bearers(tokens, count*resourceFactor)
	if err != nil {
		return nil, err
	}
	for _, load := range []struct {
		name string
		list []request
	}{{"attest", requests(guests)[clients:]}, {"resource", asks}} {
		trustee, err := b.profiled(ctx, st, load.name+"-trustee", load.list, func(profile string) (*server, error) {
			return st.installation.start(ctx, profile)
		})
		if err != nil {
			return nil, err
		}
		against, err := b.profiled(ctx, st, load.name+"-floor", load.list, func(profile string) (*server, error) {
			return b.startFloor(ctx, st, profile)
		})
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			rows = append(rows, New(fmt.Sprintf("%s%s: %s", load.name, suffix, p), trustee[p], against[p], "µs"))
		}
	}
	return rows, nil
}

// starter starts a server that writes its CPU profile to a path.
type starter func(profile string) (*server, error)

// profiled sends requests to a server that profiles itself, and returns what each part of a request costs, in µs.
func (b *bench) profiled(ctx context.Context, st *stage, name string, list []request,
	start starter,
) (map[part]float64, error) {
	profile := st.installation.path(name + ".pprof")
	s, err := start(profile)
	if err != nil {
		return nil, err
	}
	c := newCrowd(s, b.cert.pool, clients)
	var run outcome
	if err = c.connect(ctx); err == nil {
		run, err = c.send(ctx, clients, list, nil)
	}
	c.close()
	if err := errors.Join(err, s.stop()); err != nil {
		return nil, err
	}
	costs, err := readShares(profile)
	for p := range costs {
		costs[p] *= micros(run.cpu)
	}
	return costs, err
}

// policies measures one evaluation of each policy in this process.
func (b *bench) policies(ctx context.Context) ([]Result, error) {
	var rows []Result
	for _, of := range []struct {
		name, stage string
		route       int
	}{
		{"policy evaluation (default appraisal)", splitDefault, 0},
		{"policy evaluation (release template)", splitDefault, 1},
		{"policy evaluation (400-line appraisal)", splitPadded, 0},
		{"policy evaluation (400-line release)", splitPadded, 1},
	} {
		settings, err := floor.ReadSettings(filepath.Join(b.Dir, of.stage, "floor.json"))
		if err != nil {
			return nil, err
		}
		evaluate, err := settings.Routes[of.route].Evaluation(ctx)
		if err != nil {
			return nil, err
		}
		took, err := cost(ctx, evaluate)
		if err != nil {
			return nil, err
		}
		rows = append(rows, New(of.name, micros(took), 0, "µs"))
	}
	return rows, nil
}

// cost is the CPU time of one call, garbage collection included.
func cost(ctx context.Context, f func(context.Context) error) (time.Duration, error) {
	for range evaluations / 10 {
		if err := f(ctx); err != nil {
			return 0, err
		}
	}
	before, err := CPUTime(os.Getpid())
	if err != nil {
		return 0, err
	}
	for range evaluations {
		if err := f(ctx); err != nil {
			return 0, err
		}
	}
	after, err := CPUTime(os.Getpid())
	return (after - before) / evaluations, err
}
