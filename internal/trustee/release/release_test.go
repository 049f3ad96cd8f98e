// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/appraisal"
	"github.com/nacre-project/nacre/policy/templates"
)

var (
	digest = strings.Repeat("c0ffee00", 8)
	now    = time.Unix(1_800_000_000, 0)
)

// guest is what a token is made of.
type guest struct {
	vector, unauthorised ear.Vector
	withoutRating        bool // as a foreign appraisal would leave it
	initData             string
	simulated            any
	claims               map[string]any // init-data claims
}

// affirmed is the guest that a shipped template releases to: the appraisal would have warned of other init-data.
func affirmed() guest {
	return guest{vector: ear.Vector{Executables: 3, Hardware: 2, Configuration: 3}, initData: digest,
		unauthorised: ear.Vector{Executables: 3, Hardware: 2, Configuration: 36}}
}

// token makes the guest's token and verifies it, so that claims have the form that they have in the trustee.
func (g guest) token(t testing.TB) *Token {
	t.Helper()
	evidence := map[string]any{"snp": map[string]any{"measurement": "aa"}}
	if g.initData != "" {
		evidence["init_data"] = g.initData
	}
	if g.simulated != nil {
		evidence["simulated"] = g.simulated
	}
	if g.claims != nil {
		evidence["init_data_claims"] = g.claims
	}
	submod := ear.Submod{Vector: g.vector, PolicyID: "default", Evidence: evidence}
	if !g.withoutRating {
		submod.Extensions = map[string]any{appraisal.UnauthorisedInitData: map[string]any{
			"ear.status": g.unauthorised.Status(), "ear.trustworthiness-vector": g.unauthorised}}
	}
	signer, err := ear.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(ear.Token{Profile: ear.Profile, IssuedAt: now, Expiry: now.Add(time.Minute), ID: "1",
		Submods: map[string]ear.Submod{ear.PrimarySubmod: submod}})
	if err != nil {
		t.Fatal(err)
	}
	verified, claims, err := ear.Verify(jws, []ear.Key{signer.Public()}, now, ear.Options{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := NewToken(verified, claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func affirming(t testing.TB) string {
	t.Helper()
	text, err := templates.Affirming{Resources: []string{"db/password/1"}, InitData: []string{digest}}.Rego()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const (
	statusOnly  = "package policy\nimport rego.v1\ndefault allow := false\nallow if input.submods.cpu0[\"ear.status\"] == \"affirming\"\n"
	allowAll    = "package policy\nallow := true\n"
	evidence    = "input.submods.cpu0[\"ear.veraison.annotated-evidence\"]"
	pinOnly     = "package policy\nimport rego.v1\nallow if " + evidence + ".init_data == \"%s\"\n"
	claimExists = "package policy\nimport rego.v1\nallow if " + evidence + ".init_data_claims\n"
	denyList    = "package policy\nimport rego.v1\nallow if not " + evidence + ".init_data == \"00\"\n"
)

var wanted = Request{Plugin: "resource", Path: []string{"db", "password", "1"}}

func decide(t testing.TB, r Record, g guest, request Request) Code {
	t.Helper()
	p, err := Compile(t.Context(), r, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	err = p.Decide(t.Context(), g.token(t), request)
	if err == nil {
		return ""
	}
	denial, ok := errors.AsType[*Denial](err)
	if !ok {
		t.Fatalf("not a denial: %v", err)
	}
	return denial.Code
}

func TestDecisions(t *testing.T) {
	pinned := fmt.Sprintf(pinOnly, digest)
	simulated := affirmed()
	simulated.simulated = true
	for name, c := range map[string]struct {
		record Record
		guest  guest
		want   Code
	}{
		"template":                   {Record{Text: affirming(t)}, affirmed(), ""},
		"status, rated by init-data": {Record{Text: statusOnly}, affirmed(), ""},
		"digest alone":               {Record{Text: pinned}, affirmed(), ""},
		"simulated, allowed":         {Record{Text: pinned, AllowSimulated: true}, simulated, ""},
		"any init-data, accepted":    {Record{Text: allowAll, UnsafeAnyInitData: true}, affirmed(), ""},
		"deny all":                   {Record{Text: templates.DenyAll()}, affirmed(), CodePolicyDenied},
		"no rule":                    {Record{Text: "package policy"}, affirmed(), CodePolicyDenied},
		"not a boolean":              {Record{Text: "package policy\nallow := \"true\""}, affirmed(), CodePolicyDenied},
		"conflict":                   {Record{Text: "package policy\nimport rego.v1\nallow := true\nallow := false if input.iat"}, affirmed(), CodePolicyError},
	} {
		if got := decide(t, c.record, c.guest, wanted); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAttackSimulatedGuest(t *testing.T) {
	for _, marker := range []any{true, "yes", "", 0, map[string]any{}, []any{false}} {
		for name, record := range map[string]Record{"template": {Text: affirming(t)},
			"allow all": {Text: allowAll, UnsafeAnyInitData: true}} {
			t.Run(fmt.Sprintf("%s, marked %#v", name, marker), func(t *testing.T) {
				g := affirmed()
				g.simulated = marker
				if got := decide(t, record, g, wanted); got != CodeSimulatedNotAllowed {
					t.Errorf("%q", got)
				}
			})
		}
	}
}

// The guest attests with init-data of the host's choice; each policy looks safe and is not.
func TestAttackInitDataOfTheHostsChoice(t *testing.T) {
	host := strings.Repeat("ab", 32)
	rated := affirmed() // the owner's own appraisal policy affirms whatever the init-data
	rated.unauthorised = rated.vector
	rated.initData = host
	foreign := affirmed()
	foreign.withoutRating = true
	foreign.initData = host
	claimed := affirmed()
	claimed.initData, claimed.claims = host, map[string]any{"policy.rego": "package agent_policy\ndefault allow := true"}
	for name, c := range map[string]struct {
		text  string
		guest guest
	}{
		"allow all": {allowAll, affirmed()},
		"status, appraised whatever the init-data":   {statusOnly, rated},
		"status, by an appraisal that does not tell": {statusOnly, foreign},
		"a list of what is not wanted":               {denyList, claimed},
		"that there are claims":                      {claimExists, claimed},
		"template's status alone, whatever init-data": {strings.ReplaceAll(affirming(t),
			"init_data in init_data_digests", "init_data"), rated},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(t, Record{Text: c.text}, c.guest, wanted); got != CodeInitDataNotPinned {
				t.Errorf("%q, want %q", got, CodeInitDataNotPinned)
			}
			if got := decide(t, Record{Text: c.text, UnsafeAnyInitData: true}, c.guest, wanted); got != "" {
				t.Errorf("accepted by the owner: %q", got)
			}
		})
	}
	t.Run("template", func(t *testing.T) {
		g := affirmed()
		g.initData = host
		if got := decide(t, Record{Text: affirming(t)}, g, wanted); got != CodePolicyDenied {
			t.Errorf("%q", got)
		}
	})
}

func TestAttackAnotherResource(t *testing.T) {
	r := Record{Text: affirming(t)}
	for name, request := range map[string]Request{
		"tag":      {Plugin: "resource", Path: []string{"db", "password", "2"}},
		"joined":   {Plugin: "resource", Path: []string{"db", "password/1"}},
		"longer":   {Plugin: "resource", Path: []string{"db", "password", "1", ""}},
		"plugin":   {Plugin: "other", Path: []string{"db", "password", "1"}},
		"query":    {Plugin: "resource", Path: []string{"db", "password", "1"}, Query: map[string]string{"a": "b"}},
		"no path":  {Plugin: "resource"},
		"nothing":  {},
		"capitals": {Plugin: "resource", Path: []string{"DB", "password", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(t, r, affirmed(), request); got != CodePolicyDenied {
				t.Errorf("%q", got)
			}
		})
	}
}

// Removing any claim from a token never widens what is released.
func TestFewerClaimsReleaseNoMore(t *testing.T) {
	p, err := Compile(t.Context(), Record{Text: affirming(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	full := map[string]any{"submods": map[string]any{"cpu0": map[string]any{
		"ear.status": "affirming", "ear.veraison.annotated-evidence": map[string]any{"init_data": digest},
		appraisal.UnauthorisedInitData: map[string]any{"ear.status": "warning"},
	}}}
	released := func(claims map[string]any) bool {
		token, err := NewToken(&ear.Token{}, claims)
		if err != nil {
			t.Fatal(err)
		}
		return p.Decide(t.Context(), token, wanted) == nil
	}
	if !released(full) {
		t.Fatal("the full claims are refused")
	}
	var walk func(node map[string]any, path string)
	walk = func(node map[string]any, path string) {
		for _, name := range append([]string{}, sortedKeys(node)...) {
			value := node[name]
			delete(node, name)
			// The rating for other init-data is a reason to refuse less, not to release more: the policy pins the
			// digest itself.
			if released(full) && name != appraisal.UnauthorisedInitData &&
				!strings.HasPrefix(path, "/submods/cpu0/"+appraisal.UnauthorisedInitData) {
				t.Errorf("released without %s/%s", path, name)
			}
			node[name] = value
			if inner, ok := value.(map[string]any); ok {
				walk(inner, path+"/"+name)
			}
		}
	}
	walk(full, "")
}

func sortedKeys(m map[string]any) (keys []string) {
	for k := range maps.Keys(m) {
		keys = append(keys, k)
	}
	return keys
}

func TestAttackPolicyWhenSet(t *testing.T) {
	for name, c := range map[string]struct {
		record Record
		wrong  string
	}{
		"template":                 {Record{Text: affirming(t)}, ""},
		"deny all":                 {Record{Text: templates.DenyAll()}, ""},
		"deny all, in the old way": {Record{Text: "package policy\ndefault allow = false"}, ""},
		"digest in a rule":         {Record{Text: fmt.Sprintf(pinOnly, digest)}, ""},
		"digest by brackets": {Record{Text: "package policy\nimport rego.v1\nallow if " + evidence +
			"[\"init_data\"] == \"1\""}, ""},
		"Rego v0": {Record{Text: "package policy\ndefault allow = false\nallow { " + evidence +
			".init_data == \"1\" }"}, ""},
		"allow all, accepted":        {Record{Text: allowAll, UnsafeAnyInitData: true}, ""},
		"allow all":                  {Record{Text: allowAll}, "unsafe_any_initdata"},
		"status only":                {Record{Text: statusOnly}, "unsafe_any_initdata"},
		"in a comment only":          {Record{Text: "# init_data\n" + statusOnly}, "unsafe_any_initdata"},
		"part of a longer name only": {Record{Text: claimExists}, "unsafe_any_initdata"},
		"false, else true":           {Record{Text: "package policy\nimport rego.v1\nallow := false if input.x else := true"}, "unsafe_any_initdata"},
		"not Rego":                   {Record{Text: "allow everything"}, "policy"},
		"empty":                      {Record{}, "empty"},
		"another package":            {Record{Text: "package release\nallow := true"}, "package policy"},
		"another rule":               {Record{Text: "package policy\nallowed := true"}, "package policy"},
		"the network": {Record{Text: "package policy\nallow if http.send({\"url\": \"http://x\"})"},
			"http.send"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(t.Context(), c.record)
			if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
				t.Errorf("%v, want an error about %q", err, c.wrong)
			}
		})
	}
}

func TestRecords(t *testing.T) {
	for _, r := range []Record{{}, {Text: "package policy"}, {Text: "x", AllowSimulated: true},
		{Text: "y", UnsafeAnyInitData: true}} {
		text, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseRecord(text); err != nil || got != r {
			t.Errorf("%+v, %v; want %+v", got, err, r)
		}
	}
	if _, err := ParseRecord([]byte("{")); err == nil {
		t.Error("half a record was parsed")
	}
}

func FuzzDecide(f *testing.F) {
	f.Add([]byte(`{"submods":{"cpu0":{"ear.status":"affirming","ear.veraison.annotated-evidence":{"init_data":"`+digest+`"}}}}`), "resource", "db/password/1")
	f.Add([]byte(`{"submods":[]}`), "", "")
	p, err := Compile(f.Context(), Record{Text: affirming(f)}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, plugin, path string) {
		var claims map[string]any
		if json.Unmarshal(text, &claims) != nil {
			return
		}
		token, err := NewToken(&ear.Token{}, claims)
		if err != nil {
			return
		}
		request := Request{Plugin: plugin, Path: strings.Split(path, "/")}
		if p.Decide(t.Context(), token, request) != nil {
			return
		}
		submods, _ := claims["submods"].(map[string]any)
		cpu, _ := submods["cpu0"].(map[string]any)
		annotated, _ := cpu[ear.AnnotatedEvidence].(map[string]any)
		if cpu["ear.status"] != "affirming" || annotated["init_data"] != digest || plugin != "resource" ||
			path != "db/password/1" {
			t.Errorf("released %s %s to %s", plugin, path, text)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p, err := Compile(b.Context(), Record{Text: affirming(b)}, func() time.Time { return now })
	if err != nil {
		b.Fatal(err)
	}
	token := affirmed().token(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Decide(b.Context(), token, wanted); err != nil {
			b.Fatal(err)
		}
	}
}
