// SPDX-License-Identifier: Apache-2.0

package release

import (
	"strings"
	"testing"

	"github.com/nacre-project/nacre/ear"
)

// Whatever a policy answers but true is a denial, and so is no answer. The guest is one that would be released to, and
// the owner accepts any init-data: nothing but the answer stands in the way.
func TestAttackAnswerThatIsNoYes(t *testing.T) {
	endless := "package policy\nimport rego.v1\nallow if {\n\tsome a in numbers.range(1, 100000)\n\tsome b in numbers.range(1, 100000)\n" +
		"\tsome c in numbers.range(1, 100000)\n\ta + b + c == 0\n}\n"
	for name, text := range map[string]string{
		"no rule":                "package policy\n",
		"a rule that fails":      "package policy\nimport rego.v1\nallow if input.nothing\n",
		"a rule elsewhere":       "package policy.more\nallow := true\n",
		"null":                   "package policy\nallow := null\n",
		"a text":                 "package policy\nallow := \"true\"\n",
		"a number":               "package policy\nallow := 1\n",
		"a list":                 "package policy\nallow := [true]\n",
		"an object":              "package policy\nallow := {\"allowed\": true}\n",
		"two answers, a mistake": "package policy\nimport rego.v1\nallow := true if input.iat\nallow := false if input.iat\n",
		"an answer too late":     endless,
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(t, Record{Text: text, UnsafeAnyInitData: true}, affirmed(), wanted); got == "" {
				t.Error("released")
			}
		})
	}
}

// A template's policy is only as good as each of its lines.
func TestAttackTemplate(t *testing.T) {
	warned := affirmed()
	warned.vector.Hardware = 32
	foreign := affirmed()
	foreign.initData = strings.Repeat("ab", 32)
	foreign.unauthorised = ear.Vector{Executables: 3, Hardware: 2, Configuration: 36}
	for name, g := range map[string]guest{
		"a guest that is not affirmed":              warned,
		"an affirmed guest with other init-data":    foreign,
		"an affirmed guest that tells no init-data": {vector: affirmed().vector, unauthorised: affirmed().unauthorised},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(t, Record{Text: affirming(t)}, g, wanted); got != CodePolicyDenied {
				t.Errorf("%q", got)
			}
		})
	}
}
