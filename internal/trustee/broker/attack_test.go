// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
	"github.com/nacre-project/nacre/secret"
)

// memory is a plugin that needs no store.
type memory struct{}

func (memory) Access(string, []string) resource.Access { return resource.Release }

func (memory) Handle(context.Context, resource.Request) (resource.Answer, error) {
	return resource.Answer{Body: secret.New([]byte("hunter2"))}, nil
}

// startWithMemory starts a trustee that releases what the plugin memory has.
func startWithMemory(t *testing.T) *trustee {
	t.Helper()
	s := start(t, func(c *broker.Config) { c.Plugins = map[string]resource.Plugin{"memory": memory{}} })
	s.setRelease(memoryPolicy(t), kbs.ReleaseOptions{AllowSimulated: true})
	return s
}

// memoryPolicy lets the guest of an attempt have what the plugin memory has.
func memoryPolicy(t *testing.T) string {
	t.Helper()
	return "package policy\nimport rego.v1\ndefault allow := false\nallow if {\n\tdata.plugin == \"memory\"\n\t" +
		"input.submods.cpu0[\"ear.veraison.annotated-evidence\"].init_data == \"" + hexDigest(t, initDataText) + "\"\n}\n"
}

// What leaves can be read by the attested guest alone, whoever looks at the wire.
func TestAttackReadTheAnswer(t *testing.T) {
	s := startWithMemory(t)
	a := s.attempt()
	got := s.send("GET", "/kbs/v0/memory/a", nil, withBearer(s.token(a)))
	if got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	t.Run("as it is", func(t *testing.T) {
		if bytes.Contains(got.body, []byte("hunter2")) {
			t.Errorf("%s", got.body)
		}
	})
	t.Run("with another key", func(t *testing.T) {
		if value, err := open(t, teeKey(t, kbs.ECDHP256), got.body); err == nil {
			t.Errorf("%q", value)
		}
	})
	if value, err := open(t, a.key, got.body); err == nil && value != "hunter2" {
		t.Errorf("the guest itself got %q", value)
	}
}

// The disk is full, say: what cannot be recorded does not leave, though everything else is there.
func TestAttackReleaseWithoutARecord(t *testing.T) {
	s := startWithMemory(t)
	token := s.token(s.attempt())
	if got := s.send("GET", "/kbs/v0/memory/a", nil, withBearer(token)); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.send("GET", "/kbs/v0/memory/a", nil, withBearer(token)); got.status != 500 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// A guest asks again and again for what it may not have.
func TestAttackFillTheDiskWithRefusals(t *testing.T) {
	s := startWithMemory(t)
	token := s.token(s.attempt())
	before := s.last().ID
	s.setRelease(templates.DenyAll(), kbs.ReleaseOptions{})
	for range 300 {
		if got := s.send("GET", "/kbs/v0/memory/a", nil, withBearer(token)); got.status != 403 || got.info.Code != "policy_denied" {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	if n := refusals(s.records(before)); n != 256 {
		t.Errorf("%d records of one token", n)
	}
	if text := string(s.send("GET", "/metrics", nil, nil).body); !strings.Contains(text, "\nnacre_release_refusals_unrecorded_total 44\n") {
		t.Error("the others are not counted")
	}
	// Another token's refusals are recorded all the same.
	before = s.last().ID
	s.send("GET", "/kbs/v0/memory/a", nil, withBearer(s.token(s.attempt())))
	if n := refusals(s.records(before)); n != 1 {
		t.Errorf("%d records of another token", n)
	}
}

func refusals(trail []kbs.AuditRecord) (n int) {
	for _, r := range trail {
		if r.Decision == "refused" {
			n++
		}
	}
	return n
}

// A challenge is asked for with a few words, by anybody.
func TestAttackLongRequestForAChallenge(t *testing.T) {
	s := start(t)
	for body, want := range map[string]int{
		authBody + strings.Repeat(" ", kbs.MaxRequestSize-len(authBody)):   200,
		authBody + strings.Repeat(" ", kbs.MaxRequestSize-len(authBody)+1): 413,
	} {
		if got := s.send("POST", "/kbs/v0/auth", []byte(body), nil); got.status != want {
			t.Errorf("%d bytes: %d %s", len(body), got.status, got.body)
		}
	}
}

// The init-data comes back in the token, which guests send as a header.
func TestAttackTokenTooLongForAHeader(t *testing.T) {
	s := start(t)
	for size, want := range map[int]int{100 << 10: 200, 200 << 10: 413} {
		text := initDataText + "\"large\" = '" + strings.Repeat("x", size) + "'\n"
		a := s.attempt()
		a.launch, a.initData.Body = launchOf(t, text), text
		got := s.attest(a)
		if got.status != want || want == 413 && (got.info.Code != "too_large" || !strings.Contains(got.info.Detail, "shrink the init-data")) {
			t.Errorf("%d bytes: %d %.200s", size, got.status, got.body)
		}
	}
}

// Who is no administrator does not learn from the answer why not.
func TestAttackLearnWhatAnAdministratorIs(t *testing.T) {
	s := start(t)
	expired, err := s.owner.Token(s.now().Add(-time.Hour), time.Minute, "nacre-trustee", "admin")
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.owner.Token(s.now(), time.Minute, "another", "admin")
	if err != nil {
		t.Fatal(err)
	}
	none := s.send("GET", "/nacre/v1/audit", nil, nil)
	for name, token := range map[string]string{"expired": expired, "of another audience": other, "no token": "x"} {
		t.Run(name, func(t *testing.T) {
			got := s.send("GET", "/nacre/v1/audit", nil, withBearer(token))
			if got.status != 401 || got.info.Detail != none.info.Detail {
				t.Errorf("%d %q, without a token %q", got.status, got.info.Detail, none.info.Detail)
			}
		})
	}
	if !strings.Contains(s.log.String(), "expired at") {
		t.Error("the log does not say why")
	}
}

// refusing is a verifier that refuses everything.
type refusing struct{}

func (refusing) Verify(context.Context, json.RawMessage, attest.Expected) (*attest.Claims, error) {
	return nil, &attest.Error{Code: attest.CodeSignatureInvalid}
}

// Anybody can send a text of many keys; what is made of it for policies is made when its guest is known to be genuine.
func TestAttackInitDataOfNobody(t *testing.T) {
	s := start(t)
	text := strings.Replace(initDataText, "[token_configs.kbs]", strings.Repeat("[[a]]\n", 10_000)+"[token_configs.kbs]", 1)
	allocated := func() uint64 {
		a := s.attempt()
		a.launch, a.initData.Body = launchOf(t, text), text
		body := a.body(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie))
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	genuine := allocated()
	s = start(t, func(c *broker.Config) {
		c.Platforms = map[attest.TEE]broker.Platform{attest.SNP: {Verifier: refusing{}}}
	})
	refused := allocated()
	if refused > genuine/4 {
		t.Errorf("%d bytes for what is refused, %d for what is genuine", refused, genuine)
	}
}

// A path that leads to nothing, or to nothing that can be, tells a guest as much as one that leads to something that
// it may not have.
func TestAttackFindOutWhatThereIs(t *testing.T) {
	s := start(t)
	s.provision()
	if err := s.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Put("repository", "default/db/there", nil) }); err != nil {
		t.Fatal(err)
	}
	token := s.token(s.attempt())
	there := s.get("default/db/there", withBearer(token))
	for name, path := range map[string]string{"what there is not": "default/db/none", "what cannot be": "default/db"} {
		t.Run(name, func(t *testing.T) {
			if got := s.get(path, withBearer(token)); got.status != there.status || got.info.Code != there.info.Code {
				t.Errorf("%d %s, and %d %s for what there is", got.status, got.info.Code, there.status, there.info.Code)
			}
		})
	}
}
