// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"

	"github.com/google/pprof/profile"
)

const ours = "github.com/nacre-project/nacre/"

func TestPartOf(t *testing.T) {
	const gcm = "crypto/internal/fips140/aes/gcm.seal"
	serve := []string{"net/http.(*conn).serve", ours + "internal/trustee/broker.(*Broker).ServeHTTP"}
	for name, c := range map[string]struct {
		stack []string
		want  part
	}{
		"a signature":            {append(serve, ours+"ear.(*Signer).Sign", "crypto/ecdsa.SignASN1"), partCryptography},
		"TLS":                    {[]string{"net/http.(*conn).serve", "crypto/tls.(*Conn).Write", gcm}, partRest},
		"an evaluation":          {append(serve, ours+"policy.(*Policy).Eval", "crypto/sha256.Sum256"), partPolicy},
		"an evaluation, cut off": {[]string{"github.com/open-policy-agent/opa/v1/topdown.(*eval).next"}, partPolicy},
		"sealing for the store":  {[]string{ours + "internal/trustee/store.(*Store).run", gcm}, partDurability},
		"the floor's journal":    {[]string{ours + "internal/bench/floor.(*journal).run"}, partDurability},
		"templates":              {append(serve, ours+"policy/templates.DenyAll"), partRest},
		"JSON":                   {append(serve, "encoding/json.Marshal"), partRest},
		"garbage":                {[]string{"runtime.gcBgMarkWorker"}, partRest},
		"nothing":                {nil, partRest},
	} {
		if got := partOf(c.stack); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// sampleOf is a sample with the functions of its stack, the innermost first.
func sampleOf(nanoseconds int64, names ...string) *profile.Sample {
	s := &profile.Sample{Value: []int64{1, nanoseconds}}
	for _, name := range names {
		s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: name}}}})
	}
	return s
}

func TestShares(t *testing.T) {
	inlined := sampleOf(20, "net/http.(*conn).serve")
	inlined.Location = append([]*profile.Location{{Line: []profile.Line{
		{Function: &profile.Function{Name: "crypto/sha256.block"}},
		{Function: &profile.Function{Name: ours + "policy.NewDocument"}},
	}}}, inlined.Location...)
	got, err := shares(&profile.Profile{Sample: []*profile.Sample{
		sampleOf(30, "crypto/ecdsa.Verify", "net/http.(*conn).serve"),
		inlined,
		sampleOf(50, "runtime.memmove"),
		sampleOf(1000, "crypto/rsa.GenerateKey", "main.main", "runtime.main"),
		sampleOf(1000),
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[part]float64{partCryptography: 0.3, partPolicy: 0.2, partRest: 0.5}
	for _, p := range parts {
		if got[p] != want[p] {
			t.Errorf("%s: %v, want %v", p, got[p], want[p])
		}
	}
	if _, err := shares(&profile.Profile{}); err == nil {
		t.Error("a profile without samples has shares")
	}
}
