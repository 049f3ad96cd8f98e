// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/bench"
	"github.com/nacre-project/nacre/internal/bench/load"
	"github.com/nacre-project/nacre/kbs"
)

// Defaults of `nacre bench load`.
const (
	loadClients  = 32
	loadDuration = 30 * time.Second
	loadMix      = "attest=1,resource=9"
	loadResource = "bench/load/secret"
	loadTimeout  = 30 * time.Second
	// loadSecret is the length of the secret that is put in, in bytes.
	loadSecret = 32
)

// loadFlags are what `nacre bench load` is told.
type loadFlags struct {
	owner                    owner
	host                     host
	rate, mix, resource      string
	initData, measurement    string
	clients                  int
	duration                 time.Duration
	provision, asJSON, quiet bool
}

func newBenchLoad() *cobra.Command {
	var l loadFlags
	c := &cobra.Command{
		Use:   "load --trustee URL [--rate 200/s] [--clients 32] [--duration 30s] [--mix attest=1,resource=9]",
		Short: "Send a trustee the requests of many guests, and tell how long they wait",
		Long: `bench load asks a trustee for tokens and for a secret, as guests of the simulated platform do: every attestation is
a handshake with evidence that is really signed. The trustee must trust that platform (` + "`nacre simtee root`" + ` prints its root,
nacre-trustee --allow-simulated-root takes it) and release to it.

Without --rate, each of the clients sends its next request when it has its last answer: what the trustee can do. With
--rate, requests are due evenly, whatever the trustee does, and latency counts from when a request was due.

--provision first does what the owner does: it puts a secret at --resource, registers the reference values of the
guests, and REPLACES THE RELEASE POLICY by one that releases that secret to them. It is for a trustee of its own.

Ctrl-C ends it early, and prints what there is.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return l.run(c) },
	}
	l.owner.flags(c)
	f := c.Flags()
	f.StringVar(&l.host.simteeDir, "simtee-dir", "", "the simulated platform's keys (else below $XDG_STATE_HOME/nacre; made if not there)")
	f.StringVar(&l.rate, "rate", "", "requests a second, such as 200/s, that are due whatever the trustee does")
	f.IntVar(&l.clients, "clients", loadClients, "guests, each with a connection and a token of its own")
	f.DurationVar(&l.duration, "duration", loadDuration, "how long requests are sent")
	f.StringVar(&l.mix, "mix", loadMix, "how many of the requests are attestations, and how many for the resource")
	f.StringVar(&l.resource, "resource", loadResource, "what is asked for")
	f.StringVar(&l.initData, "init-data", "", "the guests' init-data, TOML (else one that says nothing)")
	f.StringVar(&l.measurement, "measurement", "", "the guests' launch measurement, hex (else one of no guest)")
	f.BoolVar(&l.provision, "provision", false, "set the trustee up for it first, as its owner; replaces its release policy")
	f.BoolVar(&l.asJSON, "json", false, "print the result as JSON, times in milliseconds")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "no line each second")
	return c
}

func (l *loadFlags) run(c *cobra.Command) error {
	run := load.Load{Clients: l.clients, Duration: l.duration, Code: load.Code}
	var err error
	if run.Mix, err = load.ParseMix(l.mix); err != nil {
		return &exitError{2, err}
	}
	if run.Rate, err = parseRate(l.rate); err != nil {
		return &exitError{2, err}
	}
	if l.clients < 1 || l.duration <= 0 {
		return &exitError{2, errors.New("--clients and --duration must be more than nothing")}
	}
	guests, err := l.guests()
	if err != nil {
		return err
	}
	defer guests.Close()
	if l.provision {
		if err := l.provide(c.Context(), guests); err != nil {
			return err
		}
	}
	err = guests.Connect(c.Context())
	if _, refused := errors.AsType[*kbs.StatusError](err); refused {
		return fmt.Errorf("%w; the trustee must trust the root that `nacre simtee root` prints (nacre-trustee --allow-simulated-root)", err)
	} else if err != nil {
		return err
	}
	run.Do = guests.Do
	if !l.quiet {
		run.Progress = func(s load.Second) {
			fmt.Fprintf(c.ErrOrStderr(), "%4.0f s  %6d answered  %4d failed  p50 %8.2f ms  p99 %8.2f ms\n", s.Elapsed.Seconds(),
				s.Requests, s.Errors, float64(s.P50)/float64(time.Millisecond), float64(s.P99)/float64(time.Millisecond))
		}
	}
	report, err := run.Run(c.Context())
	if err != nil {
		return err
	}
	report.Machine = bench.Machine()
	if l.asJSON {
		return printJSON(c.OutOrStdout(), report)
	}
	return report.Print(c.OutOrStdout())
}

// guests are the load's guests, by the flags.
func (l *loadFlags) guests() (*load.Guests, error) {
	resolved, err := l.owner.resolve()
	if err != nil {
		return nil, err
	}
	cert, err := resolved.pinned()
	if err != nil {
		return nil, err
	}
	config := load.Config{
		Trustee: kbs.ClientConfig{URL: resolved.Trustee, PinnedCert: cert, HTTPTimeout: loadTimeout},
		Clients: l.clients,
	}
	config.Resource = kbs.ResourceURI{Plugin: "resource", Path: strings.Split(l.resource, "/")}
	if err := kbs.ValidPath(config.Resource.Path); err != nil {
		return nil, &exitError{2, fmt.Errorf("--resource %s: %w", l.resource, err)}
	}
	if config.Launch, err = parseLaunch(l.measurement); err != nil {
		return nil, &exitError{2, err}
	}
	if l.initData == "" {
		config.InitData, err = initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256})
	} else {
		config.InitData, err = os.ReadFile(l.initData)
	}
	if err != nil {
		return nil, err
	}
	if config.Platform, err = l.host.platform(); err != nil {
		return nil, err
	}
	return load.NewGuests(config)
}

// provide makes the trustee release to the guests.
func (l *loadFlags) provide(ctx context.Context, guests *load.Guests) error {
	a, err := l.owner.admin()
	if err != nil {
		return err
	}
	defer a.Close()
	value := make([]byte, loadSecret)
	rand.Read(value)
	return guests.Provision(ctx, a, value)
}

// parseRate reads a rate such as "200/s" or "200"; empty is 0.
func parseRate(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	rate, err := strconv.ParseFloat(strings.TrimSuffix(text, "/s"), 64)
	if err != nil || !(rate > 0) || rate > 1e6 {
		return 0, fmt.Errorf("--rate %s: want a number of requests a second, such as 200/s", text)
	}
	return rate, nil
}

// parseLaunch reads a launch measurement; an empty one is that of no guest.
func parseLaunch(text string) (signer.Launch, error) {
	var launch signer.Launch
	if text == "" {
		copy(launch.Measurement[:], "a launch measurement; it has to be the same only")
		return launch, nil
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(launch.Measurement) {
		return launch, fmt.Errorf("--measurement: want %d bytes in hex, as `nacre measure` prints them", len(launch.Measurement))
	}
	copy(launch.Measurement[:], raw)
	return launch, nil
}
