// SPDX-License-Identifier: Apache-2.0

// Package conformance holds the conformance programs; see README.md. It has a test of its own only: that they share
// nothing with what they ask.
package conformance

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nacre-project/nacre/"

// links are the packages that one links, and itself.
func links(t *testing.T, path string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module+path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// TestNothingIsShared looks at what the programs link of the project: their own rooms, and the signer of the simulated
// platform where evidence is made.
func TestNothingIsShared(t *testing.T) {
	servers := []string{module + "kbs", module + "ear", module + "api", module + "initdata", module + "policy",
		module + "internal", module + "sealed", "github.com/containerd/ttrpc", "github.com/go-jose/go-jose"}
	signer := links(t, "attest/simtee/signer")
	for program, allowed := range map[string][]string{"kbs": signer, "guest": nil} {
		for _, dep := range links(t, "test/conformance/"+program) {
			own := strings.HasPrefix(dep, module+"test/conformance/")
			if strings.HasPrefix(dep, module) && !own && !slices.Contains(allowed, dep) {
				t.Errorf("%s links %s", program, dep)
			}
			for _, server := range servers {
				if dep == server || strings.HasPrefix(dep, server+"/") {
					t.Errorf("%s links %s, which the servers are made of", program, dep)
				}
			}
		}
	}
}
