// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attester"
	"github.com/nacre-project/nacre/attester/snp"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/internal/guest/agent"
	"github.com/nacre-project/nacre/internal/guest/cdh"
	"github.com/nacre-project/nacre/internal/guest/pull"
	"github.com/nacre-project/nacre/internal/guest/rest"
	"github.com/nacre-project/nacre/internal/guest/socket"
	"github.com/nacre-project/nacre/internal/transport"
)

// Where things are in the guest.
const (
	defaultPolicyFile = "/etc/nacre/default-policy.rego" // in the measured root image
	imageDir          = "/run/nacre/image"               // unpacked layers, in memory
)

// deviceWait is how long the kernel may take to show a device.
const deviceWait = 10 * time.Second

// agentMain is the agent process. It returns its exit status.
func agentMain(ctx context.Context) (status int) {
	defer func() {
		if r := recover(); r != nil {
			report(os.Stderr, refuse(CodePanic, "the agent: %v", r))
			status = exitReported
		}
	}()
	if err := runAgent(ctx, logger()); err != nil {
		report(os.Stderr, err)
		return exitReported
	}
	return 0
}

// guest is what is known once the init-data is bound: nothing that follows depends on the host any more.
type guest struct {
	log      *slog.Logger
	image    Image
	clock    *Clock
	platform attester.Attester // nil where there is none
	raw      []byte            // init-data text, bound; nil is none
	data     *initdata.Data    // what is in it
	hub      *cdh.Service      // from startServices on
}

// runAgent goes from the hardware to the listener, each step given what the one before it has established.
func runAgent(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What the container runtime leaves behind, containers' first processes, become children of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of containers: %w", err)
	}
	g, err := bind(ctx, log)
	if err != nil {
		return err
	}
	gate, err := g.gate(ctx)
	if err != nil {
		return err
	}
	images, err := g.startServices(ctx)
	if err != nil {
		return err
	}
	return g.serve(ctx, gate, images)
}

// bind opens the platform and binds the init-data to it.
func bind(ctx context.Context, log *slog.Logger) (*guest, error) {
	img, err := readImage(imageFile)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("reading the kernel command line: %w", err)
	}
	line, err := parseCmdline(string(text))
	if err != nil {
		return nil, err
	}
	g := &guest{log: log, image: img, clock: newClock(img)}
	if g.platform, err = openPlatform(ctx, line); err != nil {
		return nil, err
	}
	if g.raw, err = findInitData("/sys/class/block", "/dev"); err != nil {
		return nil, err
	}
	if g.data, err = bindInitData(ctx, g.platform, g.raw); err != nil {
		return nil, err
	}
	return g, nil
}

// openPlatform opens the machine's platform; nil, without error, where there is none. A simulated one is used when the
// measured command line says so, and then it must be there.
func openPlatform(ctx context.Context, line cmdline) (attester.Attester, error) {
	var options snp.Options
	if line.simulatedSNP {
		device, err := transport.FindPort(ctx, simtee.PortName, deviceWait)
		if err != nil {
			return nil, refuse(CodeAttester, "the command line says %s=%s: %w", teeParameter, simulatedSNP, err)
		}
		options.SimulatedDevice = device
	}
	platform, err := snp.Open(ctx, options)
	switch {
	case err == nil:
		return platform, nil
	case errors.Is(err, attester.ErrNoTEE) && !line.simulatedSNP:
		return nil, nil
	}
	return nil, refuse(CodeAttester, "opening the platform: %w", err)
}

// gate compiles the agent policy: the init-data's, or the image's when that brings none.
func (g *guest) gate(ctx context.Context) (*agent.Gate, error) {
	rego, ok := g.file(initdata.AgentPolicy)
	if !ok {
		baked, err := os.ReadFile(defaultPolicyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the image's agent policy: %w", err)
		}
		rego = string(baked)
	}
	gate, err := agent.NewGate(ctx, rego, g.log)
	if err != nil {
		return nil, refuse(CodePolicyInvalid, "%w", err)
	}
	return gate, nil
}

// file returns a file of the init-data.
func (g *guest) file(name string) (string, bool) {
	if g.data == nil {
		return "", false
	}
	text, ok := g.data.Files[name]
	return text, ok
}

// startServices starts what the pod's containers ask for secrets, and makes the puller of images.
func (g *guest) startServices(ctx context.Context) (*pull.Puller, error) {
	var hubConfig cdh.Config
	var agentConfig aa.Config
	var err error
	if text, ok := g.file(initdata.DataConfig); ok {
		if hubConfig, err = cdh.ParseConfig([]byte(text)); err != nil {
			return nil, refuse(CodeInitDataInvalid, "%w", err)
		}
	}
	if text, ok := g.file(initdata.AgentConfig); ok {
		if agentConfig, err = aa.ParseConfig([]byte(text)); err != nil {
			return nil, refuse(CodeInitDataInvalid, "%w", err)
		}
	}
	var tokens cdh.Tokens // nil without a platform: then there is no init-data and no broker either
	if g.platform != nil {
		attestation, err := aa.New(aa.Options{
			Config: agentConfig, Attester: g.platform, InitData: g.raw, OnToken: g.setClock, Log: g.log,
		})
		if err != nil {
			return nil, refuse(CodeInitDataInvalid, "%w", err)
		}
		if err := g.serveSocket(ctx, socket.AttestationAgent, attestation.Register); err != nil {
			return nil, err
		}
		tokens = attestation
	}
	hub, err := cdh.New(hubConfig, tokens, g.log)
	if err != nil {
		return nil, refuse(CodeInitDataInvalid, "%w", err)
	}
	g.hub = hub
	if err := g.serveSocket(ctx, socket.ConfidentialDataHub, hub.Register); err != nil {
		return nil, err
	}
	info := rest.Info{Version: g.version()}
	if g.platform != nil {
		info.TEE = g.platform.TEE()
	}
	if err := g.serveREST(ctx, hub, info); err != nil {
		return nil, err
	}
	images, err := newPuller(hubConfig.Image, hub, imageDir, g.log)
	if err != nil {
		return nil, refuse(CodeInitDataInvalid, "%w", err)
	}
	return images, nil
}

func (g *guest) setClock(issued time.Time) {
	if err := g.clock.SetFromToken(issued); err != nil {
		g.log.Warn("the clock was not set by the broker's token", "error", err)
	}
}

func (g *guest) serveSocket(ctx context.Context, path string, register func(*ttrpc.Server)) error {
	l, err := socket.Listen(path)
	if err != nil {
		return err
	}
	go func() {
		if err := socket.Serve(ctx, l, register); err != nil {
			g.log.Error("a service inside the guest has ended", "error", err)
		}
	}()
	return nil
}

func (g *guest) serveREST(ctx context.Context, hub *cdh.Service, info rest.Info) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", rest.Address)
	if err != nil {
		return fmt.Errorf("listening for the pod's requests at %s: %w", rest.Address, err)
	}
	go func() {
		if err := rest.Serve(ctx, l, rest.Handler(hub, info, g.log), g.log); err != nil {
			g.log.Error("the pod's requests are no longer answered", "error", err)
		}
	}()
	return nil
}

// serve listens for the host. It is the only place that does, and takes the gate that decides what it may do.
func (g *guest) serve(ctx context.Context, gate *agent.Gate, images *pull.Puller) error {
	l, err := transport.ListenGuest(ctx, transport.AgentPort, deviceWait, g.log)
	if err != nil {
		return err
	}
	defer l.Close()
	go debug.FreeOSMemory() // what compiling the policy left behind, while the host makes up its first request
	a := agent.New(agent.Config{
		Gate: gate, Images: images, Log: g.log, Version: g.version(), Unsealer: g.hub,
	})
	return a.Serve(ctx, l)
}

func (g *guest) version() string { return fmt.Sprintf("nacre/%d", g.image.Version) }
