// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/test/machine"
)

// The trustee's side with real processes and few requests: its rows come, with floors. What they say is nobody's
// business here.
func TestTrusteeSide(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts programs; not with -short")
	}
	programs := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", programs, "./cmd/nacre-trustee",
		"./internal/bench/floor/nacre-floor")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	platform, err := machine.Lazy("bench")()
	if err != nil {
		t.Fatal(err)
	}
	var progress strings.Builder
	report, err := Run(t.Context(), Options{
		Dir: filepath.Join(t.TempDir(), "bench"), Only: Trustee, Requests: 2 * clients, Rounds: 1, Log: &progress,
		Trustee: filepath.Join(programs, "nacre-trustee"), Floor: filepath.Join(programs, "nacre-floor"), Platform: platform,
		InitData: func(trusteeURL string, cert []byte, manifest string) ([]byte, error) {
			if trusteeURL == "" || len(cert) == 0 || !strings.Contains(manifest, "kind: Pod") {
				t.Errorf("init-data for %q, %q, %q", trusteeURL, cert, manifest)
			}
			return initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256, Files: map[string]string{
				initdata.AgentPolicy: "package agent_policy\n\nCreateContainerRequest := false\n",
			}})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(report.Machine, "Measured on ") || progress.Len() == 0 {
		t.Errorf("%q, %q", report.Machine, &progress)
	}
	compared := map[string]bool{
		"attest request": true, "resource request": true, "resource request, the first of a token": true,
		"attest latency at one client": true, "resource latency at one client": true,
		"attest request at 2 processors, against 1": true, "resource request at 2 processors, against 1": true,
		"policy evaluation (default appraisal)": false, "policy evaluation (400-line appraisal)": false,
	}
	for _, r := range report.Results {
		if r.Value < 0 || r.Unit == "" {
			t.Errorf("%+v", r)
		}
		if floored, ok := compared[r.Name]; ok && (r.Value <= 0 || (r.Floor > 0) != floored) {
			t.Errorf("%+v", r)
		}
		delete(compared, r.Name)
	}
	for name := range compared {
		t.Errorf("there is no row %q", name)
	}
}
