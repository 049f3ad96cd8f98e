// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// size is how much a trustee holds.
type size struct{ resources, referenceValues int }

// What a trustee is compared with that holds little.
var (
	little = size{resources: 1000}
	much   = size{resources: 1_000_000, referenceValues: 100_000}
)

const (
	fillStep     = 10_000 // resources in a transaction
	registerStep = 5000   // reference values in a message
	fewSessions  = 1000
	manySessions = 4000
)

// crowds are how many clients there are at a time when latencies are measured.
var crowds = []int{1, clients, 256}

// scalePath is the path of one of many resources.
func scalePath(n int) []string { return []string{"scale", "item", strconv.Itoa(n)} }

// scalePolicy releases all of them to guests with the init-data.
const scalePolicy = `package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	array.slice(data["resource-path"], 0, 2) == ["scale", "item"]
	input.submods.cpu0["ear.status"] == "affirming"
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == %q
}
`

// scale measures what changes with the size of a trustee: what a request costs one that holds much, against one that
// holds little; what both take to start and to live; and how long clients wait when there are more and more of them.
func (b *bench) scale(ctx context.Context) (rows []Result, err error) {
	few, _, err := b.filledStage(ctx, "little", little)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	atRest, err := anonymous(few.server.pid())
	if err != nil {
		return nil, err
	}
	many, start, err := b.filledStage(ctx, "much", much)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	full, err := anonymous(many.server.pid())
	if err != nil {
		return nil, err
	}
	rows = append(rows, New("trustee start, 10⁶ resources and 10⁵ reference values", millis(start), 0, "ms"),
		New("trustee memory at rest", mebibytes(atRest), 0, "MiB"),
		New("trustee memory at rest, 10⁶ resources and 10⁵ reference values", mebibytes(full), 0, "MiB"))
	for _, sessions := range []int{fewSessions, manySessions} {
		b.progress("memory after %d sessions", sessions)
		guests, err := few.fleet.attestations(ctx, few.trustee, sessions)
		if err != nil {
			return nil, err
		}
		if _, err := few.trustee.send(ctx, clients, requests(guests), nil); err != nil {
			return nil, err
		}
		after, err := anonymous(few.server.pid())
		if err != nil {
			return nil, err
		}
		rows = append(rows, New(fmt.Sprintf("trustee memory after %d more sessions", sessions), mebibytes(after), 0, "MiB"))
	}
	compared, err := b.compareSizes(ctx, many, few)
	if err != nil {
		return nil, err
	}
	waits, err := b.latencies(ctx, many)
	return append(append(rows, compared...), waits...), err
}

// filledStage is a stage whose trustee holds so much, and the time that it takes to start with that.
func (b *bench) filledStage(ctx context.Context, name string, s size) (st *stage, start time.Duration, err error) {
	b.progress("a trustee with %d resources and %d reference values", s.resources, s.referenceValues)
	if st, err = b.newStage(ctx, name, false); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	a, err := st.installation.administrator(st.server)
	if err != nil {
		return nil, 0, err
	}
	defer a.close()
	policy := fmt.Sprintf(scalePolicy, fmt.Sprintf("%x", st.fleet.launch.HostData))
	if err := a.SetResourcePolicy(ctx, policy, kbs.ReleaseOptions{AllowSimulated: true}); err != nil {
		return nil, 0, err
	}
	for n := 0; n < s.referenceValues; n += registerStep {
		values := map[string]any{}
		for i := n; i < min(n+registerStep, s.referenceValues); i++ {
			values[fmt.Sprintf("scale_%d", i)] = []string{fmt.Sprintf("%096x", i)}
		}
		if err := a.RegisterReferenceValue(ctx, values); err != nil {
			return nil, 0, err
		}
	}
	st.trustee.close()
	if err := st.server.stop(); err != nil {
		return nil, 0, err
	}
	if err := st.installation.fill(ctx, s.resources); err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	if st.server, err = st.installation.start(ctx, ""); err != nil {
		return nil, 0, err
	}
	start = time.Since(begin)
	st.trustee = newCrowd(st.server, b.cert.pool, clients)
	return st, start, st.trustee.connect(ctx)
}

// fill puts resources into the store of a trustee that does not run.
func (i installation) fill(ctx context.Context, count int) (err error) {
	s, err := store.Open(ctx, store.Options{Dir: i.path("data"), KeyFile: i.path("store.key")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	secrets := resource.Stored{Store: s}
	for n := 0; n < count; n += fillStep {
		if err := s.Update(ctx, func(tx *store.Tx) error {
			for item := n; item < min(n+fillStep, count); item++ {
				answer, err := secrets.Handle(ctx, resource.Request{Method: resource.Post, Path: scalePath(item),
					Body: []byte(secretValue)})
				if err == nil {
					err = answer.Change(tx)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// compareSizes measures what a request costs a trustee that holds much, against one that holds little. Each request for
// a resource is for another one.
func (b *bench) compareSizes(ctx context.Context, many, few *stage) ([]Result, error) {
	var attest, release comparison
	for round := range b.Rounds {
		b.progress("requests to a large and to a small trustee, round %d of %d", round+1, b.Rounds)
		evidence, asks := map[*stage][]request{}, map[*stage][]request{}
		answers := map[*stage][][]byte{}
		for st := range map[*stage]bool{many: true, few: true} {
			guests, err := st.fleet.attestations(ctx, st.trustee, b.Requests)
			if err != nil {
				return nil, err
			}
			evidence[st], answers[st] = requests(guests), make([][]byte, b.Requests)
		}
		present := func(st *stage) func() (outcome, error) {
			return func() (outcome, error) { return st.trustee.send(ctx, clients, evidence[st], answers[st]) }
		}
		if err := attest.add(present(many), present(few)); err != nil {
			return nil, err
		}
		for st, s := range map[*stage]size{many: much, few: little} {
			list, err := scaleRequests(answers[st][:clients], b.Requests*resourceFactor, s)
			if err != nil {
				return nil, err
			}
			asks[st] = list
		}
		ask := func(st *stage) func() (outcome, error) {
			return func() (outcome, error) { return st.trustee.send(ctx, clients, asks[st], nil) }
		}
		if err := release.add(ask(many), ask(few)); err != nil {
			return nil, err
		}
	}
	return []Result{
		attest.cpuRow("attest request, 10⁶ resources and 10⁵ reference values, against few"),
		release.cpuRow("resource request, any of 10⁶ resources, against any of 10³"),
	}, nil
}

// scaleRequests are requests for resources all over the store, by the guests of some attestations in turn.
func scaleRequests(answers [][]byte, count int, s size) ([]request, error) {
	const stride = 7919 // prime to both sizes, so that all are asked for before one is asked for again
	list, err := bearers(answers, count)
	for n := range list {
		list[n].path = "/kbs/v0/resource/" + strings.Join(scalePath(n*stride%s.resources), "/")
	}
	return list, err
}

// latencies measures how long clients wait, by how many they are.
func (b *bench) latencies(ctx context.Context, st *stage) (rows []Result, err error) {
	for _, count := range crowds {
		b.progress("latency at %d clients", count)
		trustee := newCrowd(st.server, b.cert.pool, count)
		floor := newCrowd(st.floorServer, b.cert.pool, count)
		waits, err := b.latenciesOf(ctx, st, trustee, floor)
		trustee.close()
		floor.close()
		if err != nil {
			return nil, err
		}
		rows = append(rows, waits...)
	}
	return rows, nil
}

func (b *bench) latenciesOf(ctx context.Context, st *stage, trustee, floor *crowd) ([]Result, error) {
	if err := errors.Join(trustee.connect(ctx), floor.connect(ctx)); err != nil {
		return nil, err
	}
	count := len(trustee.clients)
	guests, err := st.fleet.attestations(ctx, trustee, max(b.Requests, 4*count))
	if err != nil {
		return nil, err
	}
	evidence, answers := requests(guests), make([][]byte, len(guests))
	attest, err := trustee.send(ctx, count, evidence, answers)
	if err != nil {
		return nil, err
	}
	attestFloor, err := floor.send(ctx, count, evidence, nil)
	if err != nil {
		return nil, err
	}
	asks, err := scaleRequests(answers[:min(count, clients)], len(guests)*resourceFactor, much)
	if err != nil {
		return nil, err
	}
	release, err := trustee.send(ctx, count, asks, nil)
	if err != nil {
		return nil, err
	}
	for i := range asks {
		asks[i].path = resourcePath // the only one that the floor has
	}
	releaseFloor, err := floor.send(ctx, count, asks, nil)
	if err != nil {
		return nil, err
	}
	var rows []Result
	for _, of := range []struct {
		name         string
		took, atBest outcome
	}{{"attest", attest, attestFloor}, {"resource", release, releaseFloor}} {
		rows = append(rows,
			New(fmt.Sprintf("%s latency at %d clients, median", of.name, count), millis(of.took.median),
				millis(of.atBest.median), "ms"),
			New(fmt.Sprintf("%s latency at %d clients, 99 of 100", of.name, count), millis(of.took.worst),
				millis(of.atBest.worst), "ms"))
	}
	return rows, nil
}

// anonymous is how much memory of its own a process has, in bytes (proc_pid_status(5), RssAnon).
func anonymous(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("the status of process %d has no RssAnon", pid)
}
