// SPDX-License-Identifier: Apache-2.0

package appraisal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

var now = time.Unix(1_800_000_000, 0)

const (
	measurement = "6a6519d757e6"
	authorised  = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"
)

func snapshot(t testing.TB, values map[string]any) *refvalue.Snapshot {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(dir, "data"),
		KeyFile: filepath.Join(dir, "key")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r, err := refvalue.Open(t.Context(), s, time.Hour, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if len(values) == 0 {
		return r.Snapshot()
	}
	payload, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	m, err := refvalue.ParseMessage([]byte(`{"type":"sample","payload":"` +
		base64.StdEncoding.EncodeToString(payload) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Register(t.Context(), m, func(*store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return r.Snapshot()
}

// references are what an owner registers for the guest of snpClaims.
func references() map[string]any {
	return map[string]any{
		"snp_launch_measurement": []string{"ffff", measurement},
		"snp_bootloader":         []int{9, 10},
		"snp_microcode":          []int{25},
		"snp_snp_svn":            []int{23},
		"snp_tee_svn":            []int{0},
		"init_data":              []string{authorised},
	}
}

func settings() map[string]any {
	r := references()
	maps.Copy(r, map[string]any{
		"snp_smt_enabled": true, "snp_tsme_enabled": false, "snp_guest_abi_major": 0, "snp_guest_abi_minor": 31,
		"snp_single_socket": false, "snp_smt_allowed": true,
	})
	return r
}

func snpClaims() *attest.Claims {
	return &attest.Claims{TEE: attest.SNP, Class: attest.ClassCPU, Root: "AMD ARK-Genoa", Values: map[string]any{
		"measurement": measurement, "report_data": "aabb", "init_data": authorised, "chip_id": "00",
		"product":                 "Genoa",
		"reported_tcb_bootloader": int64(10), "reported_tcb_tee": int64(0),
		"reported_tcb_snp": int64(23), "reported_tcb_microcode": int64(25),
		"policy_abi_major": int64(0), "policy_abi_minor": int64(31),
		"policy_smt_allowed": true, "policy_migrate_ma": false, "policy_debug_allowed": false,
		"policy_single_socket": false, "platform_tsme_enabled": false, "platform_smt_enabled": true,
	}}
}

// digestOfNothing is the SHA-256 of an empty text.
const digestOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// turin makes the guest one on a machine with one more level of firmware, which is registered too.
func turin(c *attest.Claims, r map[string]any) {
	c.Values["product"], c.Values["reported_tcb_fmc"] = "Turin", int64(5)
	r["snp_fmc"] = []int{5}
}

// showing is init-data that shows itself to policies as the claims given.
func showing(t testing.TB, claims map[string]any) *InitData {
	t.Helper()
	d, err := newInitData(nil, claims)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func defaultPolicy(t testing.TB) *Policy {
	t.Helper()
	text, ok := DefaultText(attest.ClassCPU)
	if !ok {
		t.Fatal("no default policy for CPUs")
	}
	p, err := Compile(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultPolicyAffirmsWhatTheOwnerRegistered(t *testing.T) {
	p := defaultPolicy(t)
	evidence := Evidence{Claims: snpClaims(), RuntimeData: map[string]any{"nonce": "n"},
		InitData: showing(t, map[string]any{"f": "x"})}
	for name, c := range map[string]struct {
		references map[string]any
		want       ear.Claim
	}{"init-data registered": {references(), 3}, "settings registered too": {settings(), 2}} {
		s, err := p.Appraise(t.Context(), evidence, snapshot(t, c.references), now)
		if err != nil {
			t.Fatal(err)
		}
		if want := (ear.Vector{Executables: 3, Hardware: 2, Configuration: c.want}); s.Vector != want ||
			s.Status != ear.Affirming {
			t.Errorf("%s: %v, %+v; want %+v", name, s.Status, s.Vector, want)
		}
		other, ok := s.Extensions[UnauthorisedInitData].(map[string]any)
		if want := (ear.Vector{Executables: 3, Hardware: 2, Configuration: 36}); !ok ||
			other["ear.status"] != ear.Warning ||
			other["ear.trustworthiness-vector"] != want {
			t.Errorf("%s: with other init-data: %v", name, other)
		}
		wantEvidence := map[string]any{"snp": map[string]any{}, "report_data": "aabb", "init_data": authorised,
			"runtime_data_claims": map[string]any{"nonce": "n"}, "init_data_claims": map[string]any{"f": "x"}}
		tee := snpClaims().Values
		delete(tee, "report_data")
		delete(tee, "init_data")
		wantEvidence["snp"] = tee
		if !reflect.DeepEqual(s.Evidence, wantEvidence) {
			t.Errorf("%s: annotated evidence %v", name, s.Evidence)
		}
		written, err := json.Marshal(s)
		if s.Encoded = nil; err != nil {
			t.Error(err)
		}
		if anew, err := json.Marshal(s); err != nil || !bytes.Equal(written, anew) {
			t.Errorf("%s: written\n%s, want\n%s, %v", name, written, anew, err)
		}
	}
	if _, changed := snpClaims().Values["init_data"]; !changed {
		t.Error("the claims were changed")
	}
}

func TestDefaultPolicyAffirmsTurin(t *testing.T) {
	claims, refs := snpClaims(), references()
	turin(claims, refs)
	s, err := defaultPolicy(t).Appraise(t.Context(), Evidence{Claims: claims}, snapshot(t, refs), now)
	if err != nil || s.Status != ear.Affirming {
		t.Errorf("%v, %v", s.Status, err)
	}
}

// Each case deviates in one thing from what is affirming.
func TestAttackDefaultPolicy(t *testing.T) {
	claim := func(name string, value any) func(*attest.Claims, map[string]any) {
		return func(c *attest.Claims, _ map[string]any) { c.Values[name] = value }
	}
	without := func(name string) func(*attest.Claims, map[string]any) {
		return func(_ *attest.Claims, r map[string]any) { delete(r, name) }
	}
	for name, c := range map[string]struct {
		deviate func(*attest.Claims, map[string]any)
		want    ear.Tier
	}{
		"nothing registered":         {func(_ *attest.Claims, r map[string]any) { clear(r) }, ear.Contraindicated},
		"another measurement":        {claim("measurement", "6a6519d757e7"), ear.Warning},
		"measurement not registered": {without("snp_launch_measurement"), ear.Warning},
		"measurement a prefix":       {claim("measurement", measurement[:10]), ear.Warning},
		"older boot loader":          {claim("reported_tcb_bootloader", int64(8)), ear.Contraindicated},
		"older microcode":            {claim("reported_tcb_microcode", int64(24)), ear.Contraindicated},
		"older SNP firmware":         {claim("reported_tcb_snp", int64(22)), ear.Contraindicated},
		"other TEE version":          {claim("reported_tcb_tee", int64(1)), ear.Contraindicated},
		"TCB not registered":         {without("snp_tee_svn"), ear.Contraindicated},
		"debug allowed":              {claim("policy_debug_allowed", true), ear.Warning},
		"migration allowed":          {claim("policy_migrate_ma", true), ear.Warning},
		"debug not claimed": {func(c *attest.Claims, _ map[string]any) {
			delete(c.Values, "policy_debug_allowed")
		}, ear.Warning},
		"bound, unauthorised data": {claim("init_data", strings.Repeat("ab", 32)), ear.Warning},
		"no init-data":             {claim("init_data", digestOfNothing), ear.Warning},
		"zeros, registered": {func(c *attest.Claims, r map[string]any) {
			c.Values["init_data"] = strings.Repeat("00", 32)
			r["init_data"] = []string{strings.Repeat("00", 32)}
		}, ear.Warning},
		"Turin, its FMC level not registered": {func(c *attest.Claims, r map[string]any) {
			turin(c, r)
			delete(r, "snp_fmc")
		}, ear.Contraindicated},
		"Turin, older FMC": {func(c *attest.Claims, r map[string]any) {
			turin(c, r)
			c.Values["reported_tcb_fmc"] = int64(4)
		}, ear.Contraindicated},
		"a product not known":      {claim("product", "Venice"), ear.Contraindicated},
		"init-data not registered": {without("init_data"), ear.Warning},
		"an unknown platform": {func(c *attest.Claims, _ map[string]any) { c.TEE = "unheard-of" },
			ear.Contraindicated},
		"the sample platform": {func(c *attest.Claims, _ map[string]any) { c.TEE = attest.Sample },
			ear.Contraindicated},
	} {
		t.Run(name, func(t *testing.T) {
			claims, refs := snpClaims(), references()
			c.deviate(claims, refs)
			s, err := defaultPolicy(t).Appraise(t.Context(), Evidence{Claims: claims}, snapshot(t, refs), now)
			if err != nil || s.Status != c.want || s.Vector.Status() != c.want {
				t.Errorf("%v, %v; want %v", s.Status, err, c.want)
			}
		})
	}
	t.Run("values whose time is over", func(t *testing.T) {
		s, err := defaultPolicy(t).Appraise(t.Context(), Evidence{Claims: snpClaims()}, snapshot(t, references()),
			now.Add(time.Hour))
		if err != nil || s.Status != ear.Contraindicated {
			t.Errorf("%v, %v", s.Status, err)
		}
	})
}

func TestSimulatedEvidenceSaysSo(t *testing.T) {
	p := defaultPolicy(t)
	claims := snpClaims()
	claims.Simulated = true
	s, err := p.Appraise(t.Context(), Evidence{Claims: claims}, snapshot(t, references()), now)
	if err != nil || s.Evidence[ear.SimulatedClaim] != true || s.Status != ear.Affirming {
		t.Errorf("%v, %v, %v", s.Status, s.Evidence[ear.SimulatedClaim], err)
	}
	s, err = p.Appraise(t.Context(), Evidence{Claims: snpClaims()}, snapshot(t, references()), now)
	if _, present := s.Evidence[ear.SimulatedClaim]; err != nil || present {
		t.Errorf("real evidence has the marker: %v", err)
	}
}

func TestIdentifiers(t *testing.T) {
	p := defaultPolicy(t)
	data := `{"containers":[{"OCI":{"Annotations":{"io.kubernetes.cri.image-name":"bitnami/nginx:latest"},"Process":{"User":{"UID":65535}}}},
		{"OCI":{"Annotations":{},"Process":{"User":{"UID":1001}}}}]}`
	claims := InitDataClaims(&initdata.Data{Files: map[string]string{initdata.AgentPolicy: "package x\npolicy_data := " + data + "\n"}})
	s, err := p.Appraise(t.Context(), Evidence{Claims: snpClaims(), InitData: showing(t, claims)},
		snapshot(t, references()), now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s.Extensions["ear.trustee.identifiers"])
	if want := `{"validated":{"container_images":["bitnami/nginx:latest"],"container_uids":[65535,1001]}}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	s, err = p.Appraise(t.Context(), Evidence{Claims: snpClaims()}, snapshot(t, references()), now)
	if got, _ := json.Marshal(s.Extensions["ear.trustee.identifiers"]); err != nil ||
		string(got) != `{"validated":{}}` {
		t.Errorf("without init-data: %s, %v", got, err)
	}
}

func TestPoliciesWithoutAUsableAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		fine bool
	}{
		"no trust claims":   {`package policy`, true},
		"another package":   {"package other\ntrust_claims := {\"hardware\": 2}", true},
		"empty":             {"package policy\ntrust_claims := {}", false},
		"unknown name":      {"package policy\ntrust_claims := {\"hardwear\": 2}", false},
		"not an integer":    {"package policy\ntrust_claims := {\"hardware\": 2.5}", false},
		"too large":         {"package policy\ntrust_claims := {\"hardware\": 128}", false},
		"a string":          {"package policy\ntrust_claims := \"affirming\"", false},
		"conflict":          {"package policy\ntrust_claims := {\"hardware\": 2}\ntrust_claims := {\"hardware\": 3} if input.snp", false},
		"extension unnamed": {"package policy\nextensions := [{\"value\": 1}]", false},
		"extension of our name": {"package policy\nextensions := [{\"name\": \"" + UnauthorisedInitData +
			"\", \"value\": 1}]", false},
		"extensions no array": {"package policy\nextensions := {}", false},
	} {
		p, err := Compile(t.Context(), c.text)
		if err != nil {
			if c.fine {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		s, err := p.Appraise(t.Context(), Evidence{Claims: snpClaims()}, snapshot(t, nil), now)
		if c.fine && (err != nil || s.Status != ear.None) || !c.fine && !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v, %v", name, s.Status, err)
		}
	}
}

func TestInitDataClaims(t *testing.T) {
	got := InitDataClaims(&initdata.Data{Files: map[string]string{
		"aa.toml":    "[token_configs.kbs]\nurl = \"https://x\"\nt = 2026-01-02T03:04:05Z\nn = nan\nlist = [1, 2.5]\n",
		"cdh.toml":   "not [ toml",
		"other.toml": "a = 1", "policy.rego": "package agent_policy\npolicy_data := {\"a\": 1}\n",
	}})
	want := map[string]any{
		"aa.toml": map[string]any{"token_configs": map[string]any{"kbs": map[string]any{
			"url": "https://x", "t": "2026-01-02T03:04:05Z", "n": "not a number", "list": []any{int64(1), 2.5}}}},
		"cdh.toml": "not [ toml", "other.toml": "a = 1", "agent_policy_claims": map[string]any{"a": json.Number("1")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for name, text := range map[string]string{
		"no data": "package p", "text after it": "policy_data := {} x", "not JSON": "policy_data := {a}",
		"nested too deep": "",
	} {
		got := InitDataClaims(&initdata.Data{Files: map[string]string{initdata.AgentPolicy: text,
			initdata.AgentConfig: strings.Repeat("a.", 100) + "a = 1"}})
		if got[initdata.AgentPolicy] != text || got[agentPolicyClaims] != nil {
			t.Errorf("%s: %v", name, got)
		}
		if _, isText := got[initdata.AgentConfig].(string); !isText {
			t.Errorf("a hundred levels became an object")
		}
	}
}

func FuzzInitDataClaims(f *testing.F) {
	f.Add("a = 1", "policy_data := {\"a\": [1]}")
	f.Add("a = inf\nb = 1979-05-27T07:32:00", "policy_data := {")
	f.Fuzz(func(t *testing.T, config, agentPolicy string) {
		claims := InitDataClaims(&initdata.Data{Files: map[string]string{initdata.AgentConfig: config,
			initdata.AgentPolicy: agentPolicy}})
		if _, err := json.Marshal(claims); err != nil {
			t.Errorf("the claims are not JSON: %v", err)
		}
	})
}

// What no policy looks at does not make a guest another one, and what is remembered stays as it is.
func TestRatingsAreRemembered(t *testing.T) {
	p, refs := defaultPolicy(t), snapshot(t, settings())
	asked := func() int { return p.memory.ratings.Len() }
	first := Evidence{Claims: snpClaims(), RuntimeData: map[string]any{"nonce": "1"}}
	second := Evidence{Claims: snpClaims(), RuntimeData: map[string]any{"nonce": "2"}}
	second.Claims.Values["report_data"], second.Claims.Values["report_id"] = "ccdd", "eeff"
	a, err := p.Appraise(t.Context(), first, refs, now)
	if err != nil {
		t.Fatal(err)
	}
	a.Extensions["nacre.root-of-trust"] = "of the first only"
	b, err := p.Appraise(t.Context(), second, refs, now.Add(time.Second-1))
	if err != nil || asked() != 1 {
		t.Errorf("%d ratings remembered, want 1, %v", asked(), err)
	}
	if a.Vector != b.Vector || b.Extensions["nacre.root-of-trust"] != nil || b.Evidence["report_data"] != "ccdd" ||
		b.Extensions[UnauthorisedInitData] == nil {
		t.Errorf("the first %+v, the second %+v", a, b)
	}
	second.Claims.Values["measurement"] = strings.Repeat("a", rememberedMax)
	if _, err := p.Appraise(t.Context(), second, refs, now); err != nil || asked() != 1 {
		t.Errorf("%d ratings remembered, want 1, %v", asked(), err)
	}
	whole, err := Compile(t.Context(), "package policy\ntrust_claims := {\"hardware\": count(input)}")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Evidence{first, {Claims: snpClaims()}} {
		s, err := whole.Appraise(t.Context(), e, refs, now)
		if err != nil || int(s.Vector.Hardware) != len(s.Evidence) {
			t.Errorf("%d of %d, %v", s.Vector.Hardware, len(s.Evidence), err)
		}
	}
}

func BenchmarkAppraise(b *testing.B) {
	p := defaultPolicy(b)
	refs := snapshot(b, settings())
	evidence := Evidence{Claims: snpClaims(), RuntimeData: map[string]any{"nonce": "n"},
		InitData: showing(b, map[string]any{"f": "x"})}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Appraise(b.Context(), evidence, refs, now); err != nil {
			b.Fatal(err)
		}
	}
}
