// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/sandbox"
)

const (
	// guestRounds is how often a guest is started in each way.
	guestRounds = 3
	// decisions is how many requests the agent's policy decides before the agent's memory is looked at.
	decisions = 100
)

// guests measures what a guest takes to start and to live, and what `nacre run` adds to a bare boot.
func (b *bench) guests(ctx context.Context) ([]Result, error) {
	initData, err := b.guestInitData()
	if err != nil {
		return nil, err
	}
	manifest, err := b.writePod(initData)
	if err != nil {
		return nil, err
	}
	var starts, bare, runs []time.Duration
	var anonymous, file []float64
	for round := range guestRounds {
		b.progress("guests, round %d of %d", round+1, guestRounds)
		took, err := b.startGuest(ctx, initData)
		if err != nil {
			return nil, err
		}
		starts = append(starts, took)
		took, memory, err := b.bootBare(ctx, initData)
		if err != nil {
			return nil, err
		}
		bare = append(bare, took)
		anonymous, file = append(anonymous, memory["anonymous"]), append(file, memory["file"])
		if took, err = b.runPod(ctx, manifest); err != nil {
			return nil, err
		}
		runs = append(runs, took)
	}
	return []Result{
		New("guest start, from the kernel's Run /init to listening", millis(median(starts)), 0, "ms"),
		New("guest memory, anonymous (Pss of nacre-guest)", mebibytes(median(anonymous)), 0, "MiB"),
		New("guest memory, file (Pss of nacre-guest)", mebibytes(median(file)), 0, "MiB"),
		New("nacre run to first output, against a bare boot", median(runs).Seconds(), median(bare).Seconds(), "s"),
	}, nil
}

// metricsRule lets the host ask for the agent's metrics, which no generated policy does.
const metricsRule = "\ndefault GetMetricsRequest := true\n"

// guestInitData is the init-data of a pod's guest, which also tells its metrics.
func (b *bench) guestInitData() ([]byte, error) {
	raw, err := b.InitData(trusteeURL, b.cert.pem, podOf(b.PodImage))
	if err != nil {
		return nil, err
	}
	data, err := initdata.Parse(raw)
	if err != nil {
		return nil, err
	}
	data.Files[initdata.AgentPolicy] += metricsRule
	return initdata.Format(data)
}

// writePod writes the manifest of the pod that is run, annotated with the init-data.
func (b *bench) writePod(initData []byte) (path string, err error) {
	value, err := initdata.EncodeAnnotation(initData)
	if err != nil {
		return "", err
	}
	path = filepath.Join(b.Dir, "pod.yaml")
	annotations := fmt.Sprintf("metadata:\n  annotations:\n    %s: %s\n", initdata.Annotation, value)
	manifest := strings.Replace(podOf(b.PodImage), "metadata:\n", annotations, 1)
	return path, os.WriteFile(path, []byte(manifest), 0o600)
}

// guest is the configuration of the guests that are started, which is that of `nacre run`.
func (b *bench) guest(initData []byte) sandbox.Config {
	return sandbox.Config{Image: b.Image, Platform: b.Platform, QEMU: b.QEMU, CacheDir: b.CacheDir, InitData: initData}
}

// startGuest boots a guest whose kernel tells what it does, and returns the time from the end of the kernel's part
// until the agent listens.
func (b *bench) startGuest(ctx context.Context, initData []byte) (time.Duration, error) {
	cfg := b.guest(initData)
	// Of several, the last level counts. The guest is measured differently for it, which nobody looks at here.
	cfg.Tamper.ExtraCmdline = "loglevel=7"
	seen := &sighting{text: []byte("Run /init as init process")}
	cfg.Console = seen
	vm, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return 0, err
	}
	listening := time.Now()
	vm.Stop()
	at, ok := seen.time()
	if !ok {
		return 0, errors.New("the guest's kernel did not say that it runs /init")
	}
	return listening.Sub(at), nil
}

// sighting is a console that notes when a text was printed first.
type sighting struct {
	text []byte

	mu   sync.Mutex
	tail []byte
	at   time.Time
}

// Write implements io.Writer.
func (s *sighting) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() {
		s.tail = append(s.tail, p...)
		if bytes.Contains(s.tail, s.text) {
			s.at = time.Now()
		}
		s.tail = s.tail[max(0, len(s.tail)-len(s.text)):]
	}
	return len(p), nil
}

func (s *sighting) time() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, !s.at.IsZero()
}

// bootBare boots a guest and nothing else, and returns the time from the start of the machine until the agent
// listens, and what the agent costs the guest once it has decided about requests.
func (b *bench) bootBare(ctx context.Context, initData []byte) (boot time.Duration, _ metrics, err error) {
	cfg := b.guest(initData)
	cfg.Events = func(e sandbox.Event) {
		if e.Step == sandbox.StepBoot && e.Done {
			boot = e.Took
		}
	}
	vm, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return 0, nil, err
	}
	defer vm.Stop()
	b.accel = string(vm.Accel())
	for range decisions {
		// Allowed or not: a refusal is a decision too.
		if _, err := vm.Agent().GetMetrics(ctx, &agent.GetMetricsRequest{}); err != nil {
			return 0, nil, fmt.Errorf("asking the guest for its metrics: %w", vm.Explain(err))
		}
	}
	answer, err := vm.Agent().GetMetrics(ctx, &agent.GetMetricsRequest{})
	if err != nil {
		return 0, nil, fmt.Errorf("asking the guest for its metrics: %w", vm.Explain(err))
	}
	memory, err := parseMetrics(answer.GetMetrics())
	return boot, memory, err
}

// metrics are the agent's memory in bytes, by kind.
type metrics map[string]float64

// parseMetrics reads the agent's Prometheus text, of which only a few lines matter.
func parseMetrics(text string) (metrics, error) {
	m := metrics{}
	for line := range strings.Lines(text) {
		name, number, ok := strings.Cut(strings.TrimSpace(line), `"} `)
		kind, ours := strings.CutPrefix(name, `nacre_guest_pss_bytes{kind="`)
		if !ok || !ours {
			continue
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the guest's metrics: %w", err)
		}
		m[kind] = value
	}
	for _, kind := range []string{"anonymous", "file"} {
		if _, ok := m[kind]; !ok {
			return nil, fmt.Errorf("reading the guest's metrics: no memory of kind %q: "+
				"is the guest image older than this program?", kind)
		}
	}
	return m, nil
}

// runPod types `nacre run` and returns the time until the pod's first output.
func (b *bench) runPod(ctx context.Context, manifest string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, b.Nacre, append([]string{"run", manifest}, b.RunArgs...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	seen := &sighting{text: []byte(podOutput)}
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = seen, &complaints
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		err = errors.Join(err, context.Cause(ctx))
		return 0, fmt.Errorf("nacre run: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	at, ok := seen.time()
	if !ok {
		return 0, fmt.Errorf("nacre run: the pod printed nothing: %s", bytes.TrimSpace(complaints.Bytes()))
	}
	return at.Sub(begin), nil
}

func mebibytes[T ~int64 | ~float64](n T) float64 { return float64(n) / (1 << 20) }
