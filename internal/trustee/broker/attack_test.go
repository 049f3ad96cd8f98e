// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
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
	s.setRelease("package policy\nimport rego.v1\ndefault allow := false\nallow if {\n\tdata.plugin == \"memory\"\n\t"+
		"input.submods.cpu0[\"ear.veraison.annotated-evidence\"].init_data == \""+hexDigest(t, initDataText)+"\"\n}\n",
		kbs.ReleaseOptions{AllowSimulated: true})
	return s
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
