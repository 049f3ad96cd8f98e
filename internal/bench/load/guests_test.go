// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"net/http"
	"testing"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/test/brokertest"
)

// Guests really attest, really open what they get, and attest again when a token is refused.
func TestGuests(t *testing.T) {
	broker := brokertest.New(t)
	broker.Resources["bench/load/secret"] = "a secret"
	initData, err := initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGuests(Config{Trustee: broker.Client(), Platform: brokertest.Platform(t), InitData: initData, Clients: 2,
		Resource: kbs.ResourceURI{Plugin: "resource", Path: []string{"bench", "load", "secret"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Operation{Attest, Resource, Resource} {
		if err := g.Do(t.Context(), 1, o); err != nil {
			t.Errorf("%s: %v", o, err)
		}
	}
	if a, r := broker.Attested.Load(), broker.Released.Load(); a != 3 || r != 2 {
		t.Errorf("%d attestations, %d releases", a, r)
	}
	broker.Forget(t)
	if err := g.Do(t.Context(), 1, Resource); Code(err) != "http_401" {
		t.Errorf("with a token of another key: %v", err)
	}
	if err := g.Do(t.Context(), 1, Resource); err != nil || broker.Attested.Load() != 4 {
		t.Errorf("after a refused token: %v, %d attestations", err, broker.Attested.Load())
	}
	broker.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
		brokertest.Refuse(w, http.StatusForbidden, kbs.ErrorInformation{Code: "policy_denied"})
		return true
	}
	if err := g.Do(t.Context(), 1, Resource); Code(err) != "policy_denied" {
		t.Errorf("refused: %v", err)
	}
	broker.Close()
	if err := g.Do(t.Context(), 0, Attest); Code(err) != "connection" {
		t.Errorf("nobody listens: %v", err)
	}
	if code := Code(errors.New("anything")); code != "connection" {
		t.Error(code)
	}
}

func TestGuestsOfInitDataThatIsNone(t *testing.T) {
	if _, err := NewGuests(Config{Platform: brokertest.Platform(t), InitData: []byte("no init-data")}); err == nil {
		t.Error("there are guests")
	}
}
