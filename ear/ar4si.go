// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"fmt"
	"math"
)

// Claim is a trustworthiness claim: how far an appraisal trusts one aspect of an attester
// (draft-ietf-rats-ar4si section 2.3).
type Claim int8

// Tier is the band that a claim falls into, and the status of a submodule. Its values are ordered: worse is greater.
type Tier uint8

// The tiers.
const (
	None            Tier = iota // nothing is claimed
	Affirming                   // the verifier affirms the attester's trustworthiness
	Warning                     // the verifier warns of it
	Contraindicated             // the verifier affirms that it is untrustworthy
)

var tierNames = [...]string{
	None:            "none",
	Affirming:       "affirming",
	Warning:         "warning",
	Contraindicated: "contraindicated",
}

// String is the tier's name in a token.
func (t Tier) String() string {
	if int(t) >= len(tierNames) {
		return fmt.Sprintf("tier(%d)", uint8(t))
	}
	return tierNames[t]
}

// MarshalText implements encoding.TextMarshaler.
func (t Tier) MarshalText() ([]byte, error) {
	if int(t) >= len(tierNames) {
		return nil, fmt.Errorf("no tier has the number %d", uint8(t))
	}
	return []byte(tierNames[t]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tier) UnmarshalText(text []byte) error {
	for tier, name := range tierNames {
		if string(text) == name {
			*t = Tier(tier)
			return nil
		}
	}
	return fmt.Errorf("%q is not a tier", clip(string(text)))
}

// Tier is the band of the claim's value: -1 to 1 none, 2 to 31 and -32 to -2 affirming, 32 to 95 and -96 to -33
// warning, the rest contraindicated.
func (c Claim) Tier() Tier {
	switch {
	case c >= -1 && c <= 1:
		return None
	case c >= -32 && c <= 31:
		return Affirming
	case c >= -96 && c <= 95:
		return Warning
	default:
		return Contraindicated
	}
}

// Vector is the trustworthiness vector: one claim for each aspect.
type Vector struct {
	InstanceIdentity Claim `json:"instance-identity"`
	Configuration    Claim `json:"configuration"`
	Executables      Claim `json:"executables"`
	FileSystem       Claim `json:"file-system"`
	Hardware         Claim `json:"hardware"`
	RuntimeOpaque    Claim `json:"runtime-opaque"`
	StorageOpaque    Claim `json:"storage-opaque"`
	SourcedData      Claim `json:"sourced-data"`
}

// claims are the vector's claims by name.
func (v *Vector) claims() map[string]*Claim {
	return map[string]*Claim{
		"instance-identity": &v.InstanceIdentity, "configuration": &v.Configuration, "executables": &v.Executables,
		"file-system": &v.FileSystem, "hardware": &v.Hardware, "runtime-opaque": &v.RuntimeOpaque,
		"storage-opaque": &v.StorageOpaque, "sourced-data": &v.SourcedData,
	}
}

// write writes the claims in the order of the type.
func (v *Vector) write(w *writer) {
	w.open()
	w.member("instance-identity", v.InstanceIdentity)
	w.member("configuration", v.Configuration)
	w.member("executables", v.Executables)
	w.member("file-system", v.FileSystem)
	w.member("hardware", v.Hardware)
	w.member("runtime-opaque", v.RuntimeOpaque)
	w.member("storage-opaque", v.StorageOpaque)
	w.member("sourced-data", v.SourcedData)
	w.close()
}

// Status is the worst tier in the vector.
func (v Vector) Status() Tier {
	worst := None
	for _, claim := range v.claims() {
		worst = max(worst, claim.Tier())
	}
	return worst
}

// integer is a JSON number as decoders hand it out.
type integer interface{ Int64() (int64, error) }

// ParseVector reads the trust claims that an appraisal policy answered with: an object of claim name to integer from
// -128 to 127. A claim that is not named is 0. An unknown name and an empty object are errors, since either is more
// likely a slip than a judgement.
func ParseVector(object map[string]any) (Vector, error) {
	if len(object) == 0 {
		return Vector{}, fmt.Errorf("trust claims: none")
	}
	var v Vector
	claims := v.claims()
	for name, value := range object {
		claim, known := claims[name]
		if !known {
			return Vector{}, fmt.Errorf("trust claims: %q is not a claim", clip(name))
		}
		number, ok := value.(integer)
		if !ok {
			return Vector{}, fmt.Errorf("trust claims: %s is a %T, want an integer", name, value)
		}
		n, err := number.Int64()
		if err != nil || n < math.MinInt8 || n > math.MaxInt8 {
			return Vector{}, fmt.Errorf("trust claims: %s is %v, want an integer from -128 to 127", name, value)
		}
		*claim = Claim(n)
	}
	return v, nil
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
