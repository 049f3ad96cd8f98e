// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/pprof/profile"
)

// part is what a server spends its time on.
type part string

// The parts of a request.
const (
	partCryptography part = "cryptography" // but TLS, which is in the rest
	partPolicy       part = "policy"       // evaluating it, and preparing what it sees
	partDurability   part = "durability"   // the store, or the floor's journal
	partRest         part = "rest"         // TLS, HTTP, JSON, logging, memory
)

// parts in the order of the table.
var parts = []part{partCryptography, partPolicy, partDurability, partRest}

// marks are functions, by the beginnings of their names, that belong to a part together with all that they call.
var marks = []struct {
	prefix string
	part   part
}{
	{"crypto/tls.", partRest},
	{"crypto/", partCryptography},
	{"github.com/nacre-project/nacre/policy.", partPolicy},
	{"github.com/nacre-project/nacre/internal/trustee/appraisal.", partPolicy},
	{"github.com/nacre-project/nacre/internal/trustee/release.", partPolicy},
	{"github.com/nacre-project/nacre/internal/trustee/store.", partDurability},
	{"github.com/nacre-project/nacre/internal/bench/floor.(*journal).", partDurability},
	// Stacks deeper than profiles go have lost their callers; the policy engine's are.
	{"github.com/open-policy-agent/opa/", partPolicy},
}

// readShares reads a CPU profile and says which share of the whole each part has. What the program did to start is
// left out.
func readShares(path string) (map[part]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := profile.Parse(f)
	if err != nil {
		return nil, fmt.Errorf("reading the profile %s: %w", path, err)
	}
	return shares(p)
}

func shares(p *profile.Profile) (map[part]float64, error) {
	sums := map[part]float64{}
	total := 0.0
	for _, s := range p.Sample {
		stack := callers(s)
		if len(s.Value) == 0 || len(stack) == 0 || stack[0] == "runtime.main" {
			continue
		}
		time := float64(s.Value[len(s.Value)-1]) // samples, then nanoseconds
		sums[partOf(stack)] += time
		total += time
	}
	if total == 0 {
		return nil, fmt.Errorf("the profile has no samples")
	}
	for name := range sums {
		sums[name] /= total
	}
	return sums, nil
}

// callers are the names of the functions of a sample, the outermost first.
func callers(s *profile.Sample) []string {
	var names []string
	for i := len(s.Location) - 1; i >= 0; i-- {
		lines := s.Location[i].Line // what was inlined comes first
		for j := len(lines) - 1; j >= 0; j-- {
			if lines[j].Function != nil {
				names = append(names, lines[j].Function.Name)
			}
		}
	}
	return names
}

// partOf says which part a stack belongs to: that of the outermost function that has a mark.
func partOf(stack []string) part {
	for _, name := range stack {
		for _, m := range marks {
			if strings.HasPrefix(name, m.prefix) {
				return m.part
			}
		}
	}
	return partRest
}
