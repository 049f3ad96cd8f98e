// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
)

// Config says which guests ask which trustee for what.
type Config struct {
	// Trustee is whom they ask. Attempts are not made again: a failure is counted.
	Trustee kbs.ClientConfig
	// Platform is the simulated machine that they run on; the trustee trusts its root.
	Platform *signer.Platform
	// Launch is how they were all started. Its host data follows from the init-data.
	Launch signer.Launch
	// InitData is what they were started with, nil for none.
	InitData []byte
	// Resource is what they ask for.
	Resource kbs.ResourceURI
	// Clients is how many guests there are.
	Clients int
}

// Guests are guests of a simulated machine; none is started, for what a trustee sees of them is what they send.
type Guests struct {
	config    Config
	processor *signer.Processor
	guests    []guest
}

// guest is one of them. It has a connection of its own, and a key of its own for each token.
type guest struct {
	client *kbs.Client
	key    *kbs.TEEKey
	token  string
}

// NewGuests makes guests that have not connected yet. They must be closed.
func NewGuests(c Config) (*Guests, error) {
	c.Trustee.Attempts = 1
	if c.InitData != nil {
		digest, err := initdata.Digest(c.InitData)
		if err != nil {
			return nil, fmt.Errorf("reading the init-data: %w", err)
		}
		c.Launch.HostData = snp.HostData(digest)
	}
	g := &Guests{config: c, processor: c.Platform.Launch(c.Launch), guests: make([]guest, c.Clients)}
	for i := range g.guests {
		var err error
		if g.guests[i].client, err = kbs.NewClient(c.Trustee); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Close closes their connections.
func (g *Guests) Close() {
	for _, one := range g.guests {
		one.client.Close()
	}
}

// Do is Load.Do. A guest that asks for a resource without a token, because its last one was refused, attests first.
func (g *Guests) Do(ctx context.Context, client int, operation Operation) error {
	one := &g.guests[client]
	if operation == Attest || one.token == "" {
		if err := g.attest(ctx, one); err != nil || operation == Attest {
			return err
		}
	}
	_, err := one.client.Resource(ctx, g.config.Resource, one.token, one.key)
	if status, ok := errors.AsType[*kbs.StatusError](err); ok && status.Status == http.StatusUnauthorized {
		one.token = ""
	}
	return err
}

// Connect lets each guest attest once, so that no request that is measured has to make a connection.
func (g *Guests) Connect(ctx context.Context) error {
	for i := range g.guests {
		if err := g.attest(ctx, &g.guests[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guests) attest(ctx context.Context, one *guest) error {
	key, err := kbs.GenerateTEEKey(kbs.ECDHP256)
	if err != nil {
		return err
	}
	var sent *kbs.InitData
	if g.config.InitData != nil {
		sent = &kbs.InitData{Format: kbs.InitDataFormat, Body: string(g.config.InitData)}
	}
	token, err := one.client.Attest(ctx, attest.SNP, key, func(_ context.Context, reportData []byte) (json.RawMessage, error) {
		return g.processor.Evidence(reportData)
	}, sent)
	if err != nil {
		return err
	}
	one.key, one.token = key, token
	return nil
}

// Provision does what an owner does so that the guests get their secret: the secret, the reference values by which
// they are affirming, and a release policy that lets such guests have it, and nothing else. It replaces the trustee's
// policy and those values.
func (g *Guests) Provision(ctx context.Context, a *kbs.Admin, value []byte) error {
	path := strings.Join(g.config.Resource.Path, "/")
	initData := hex.EncodeToString(g.config.Launch.HostData[:])
	release, err := templates.Affirming{Resources: []string{path}, InitData: []string{initData}}.Rego()
	if err != nil {
		return err
	}
	if err := a.RegisterReferenceValue(ctx, ReferenceValues(g.config.Platform, g.config.Launch)); err != nil {
		return err
	}
	if err := a.PutResource(ctx, path, value); err != nil {
		return err
	}
	return a.SetResourcePolicy(ctx, release, kbs.ReleaseOptions{AllowSimulated: true})
}

// ReferenceValues are those by which the default policy finds guests of a platform affirming that were launched so.
func ReferenceValues(platform *signer.Platform, launch signer.Launch) map[string]any {
	tcb := platform.TCB()
	return map[string]any{
		"snp_launch_measurement": []string{hex.EncodeToString(launch.Measurement[:])},
		"init_data":              []string{hex.EncodeToString(launch.HostData[:])},
		"snp_bootloader":         []int{int(tcb.Bootloader)}, "snp_tee_svn": []int{int(tcb.TEE)},
		"snp_snp_svn": []int{int(tcb.SNP)}, "snp_microcode": []int{int(tcb.Microcode)},
	}
}

// Code names an error in a report: the trustee's own code, the HTTP status of an answer without one, or what happened
// on the way.
func Code(err error) string {
	if status, ok := errors.AsType[*kbs.StatusError](err); ok {
		if status.Info.Code != "" {
			return status.Info.Code
		}
		return fmt.Sprintf("http_%d", status.Status)
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return "timeout"
	}
	return "connection"
}
