// SPDX-License-Identifier: Apache-2.0

package ear_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/nacre-project/nacre/ear"
)

// Every claim value there is, against the bands written out.
func TestClaimTiers(t *testing.T) {
	for value := math.MinInt8; value <= math.MaxInt8; value++ {
		want := ear.Contraindicated
		switch {
		case value >= -1 && value <= 1:
			want = ear.None
		case value >= 2 && value <= 31, value >= -32 && value <= -2:
			want = ear.Affirming
		case value >= 32 && value <= 95, value >= -96 && value <= -33:
			want = ear.Warning
		}
		if got := ear.Claim(value).Tier(); got != want {
			t.Errorf("%d: %s, want %s", value, got, want)
		}
	}
}

func TestStatusIsTheWorstTier(t *testing.T) {
	for _, c := range []struct {
		vector ear.Vector
		want   ear.Tier
	}{
		{ear.Vector{}, ear.None},
		{ear.Vector{InstanceIdentity: 1, Hardware: -1}, ear.None},
		{ear.Vector{Hardware: 2}, ear.Affirming},
		{ear.Vector{Hardware: 2, Configuration: 36}, ear.Warning},
		{ear.Vector{Hardware: 2, Configuration: 36, Executables: -97}, ear.Contraindicated},
		{ear.Vector{SourcedData: 96}, ear.Contraindicated},
	} {
		if got := c.vector.Status(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.vector, got, c.want)
		}
	}
}

// One claim alone decides, whichever it is.
func TestEveryClaimCounts(t *testing.T) {
	for _, name := range []string{"instance-identity", "configuration", "executables", "file-system", "hardware", "runtime-opaque",
		"storage-opaque", "sourced-data"} {
		v, err := ear.ParseVector(map[string]any{name: json.Number("97")})
		if err != nil || v.Status() != ear.Contraindicated {
			t.Errorf("%s: %+v is %s, %v", name, v, v.Status(), err)
		}
	}
}

func TestParseVectorRefuses(t *testing.T) {
	for name, object := range map[string]map[string]any{
		"nothing":      nil,
		"empty":        {},
		"unknown":      {"hardwear": json.Number("2")},
		"another case": {"Hardware": json.Number("2")},
		"too large":    {"hardware": json.Number("128")}, "too small": {"hardware": json.Number("-129")},
		"wraps around": {"hardware": json.Number("258")}, "fraction": {"hardware": json.Number("2.5")},
		"exponent": {"hardware": json.Number("2e0")},
		"text":     {"hardware": "2"},
		"null":     {"hardware": nil},
		"list":     {"hardware": []any{}},
	} {
		if v, err := ear.ParseVector(object); err == nil {
			t.Errorf("%s: accepted as %+v", name, v)
		}
	}
}

func TestTierText(t *testing.T) {
	for tier, name := range map[ear.Tier]string{ear.None: "none", ear.Affirming: "affirming", ear.Warning: "warning",
		ear.Contraindicated: "contraindicated"} {
		text, err := json.Marshal(tier)
		if err != nil || string(text) != `"`+name+`"` || tier.String() != name {
			t.Errorf("%d: %s, %v", tier, text, err)
		}
		var back ear.Tier
		if err := json.Unmarshal(text, &back); err != nil || back != tier {
			t.Errorf("%s: %v, %v", name, back, err)
		}
	}
	if _, err := json.Marshal(ear.Tier(9)); err == nil || ear.Tier(9).String() != "tier(9)" {
		t.Error("a ninth tier")
	}
}
