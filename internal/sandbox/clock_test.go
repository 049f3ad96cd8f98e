// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox_test

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/test/brokertest"
)

const asksForTheTime = `
  restartPolicy: Never
  containers:
  - name: main
    image: "IMAGE"
    command: [sh, -c, "wget -qO- http://127.0.0.1:8006/cdh/resource/default/db/password; echo; /bin/busybox date -u +%s"]
`

// The host sets the clock that a guest starts with. Whatever it sets, the secret arrives, because the broker is known by its key and not by
// its certificate's dates; and from the broker's token on the guest knows what time it is.
func TestAttackClockTenYearsOff(t *testing.T) {
	for name, years := range map[string]int{"ten years slow": -10, "ten years fast": 10} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			broker := brokertest.New(t)
			broker.Resources["default/db/password"] = "arrived"
			cfg.Platform = brokertest.Platform(t)
			cfg.Tamper.Clock = time.Now().AddDate(years, 0, 0)
			cfg.InitData = initDataFor(t, broker)

			code, printed, err := run(t, start(t, cfg), asksForTheTime, nil)
			if err != nil || code != 0 {
				t.Fatalf("exit code %d, error %v, printed %q", code, err, printed)
			}
			secret, clock, _ := strings.Cut(strings.TrimSpace(printed["main"]), "\n")
			if secret != "arrived" {
				t.Errorf("the container got %q in place of the secret", secret)
			}
			seconds, err := strconv.ParseInt(clock, 10, 64)
			if err != nil {
				t.Fatalf("the container printed %q", printed["main"])
			}
			if off := time.Since(time.Unix(seconds, 0)).Abs(); off > time.Hour {
				t.Errorf("after the token the guest's clock is still off by %v", off)
			}
		})
	}
}

// initDataFor is init-data that names the broker as the guest sees it, and allows the pod and the reading of its output.
func initDataFor(t *testing.T, broker *brokertest.Broker) []byte {
	t.Helper()
	p, err := pod.Parse([]byte(manifest(t, asksForTheTime)))
	if err != nil {
		t.Fatal(err)
	}
	requests, err := pod.CreateRequests(p)
	if err != nil {
		t.Fatal(err)
	}
	rego, err := policygen.Pod{Requests: requests, AllowLogs: true}.Rego()
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(broker.URL)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("https://%s", net.JoinHostPort("10.0.2.2", at.Port()))
	agentConfig, err := toml.Marshal(map[string]any{"token_configs": map[string]any{"kbs": map[string]any{"url": address, "cert": broker.Pin}}})
	if err != nil {
		t.Fatal(err)
	}
	hubConfig, err := toml.Marshal(map[string]any{"kbc": map[string]any{"name": "cc_kbc", "url": address, "kbs_cert": broker.Pin}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256, Files: map[string]string{
		initdata.AgentConfig: string(agentConfig), initdata.DataConfig: string(hubConfig), initdata.AgentPolicy: rego,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
