// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/internal/guest/cdh"
	"github.com/nacre-project/nacre/internal/guest/pull"
	"github.com/nacre-project/nacre/internal/guest/signature"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

const (
	accepts = `{"default":[{"type":"insecureAcceptAnything"}]}`
	rejects = `{"default":[{"type":"reject"}]}`
)

// resources is a hub that has these.
type resources map[string]string

func (r resources) Resource(_ context.Context, uri kbs.ResourceURI) (secret.Bytes, error) {
	value, ok := r[uri.String()]
	if !ok {
		return secret.Bytes{}, &cdh.Error{Kind: cdh.NotFound, Code: cdh.CodeNotFound, Err: errors.New("none")}
	}
	return secret.New([]byte(value)), nil
}

func TestImagePolicy(t *testing.T) {
	const uri = "kbs:///default/security-policy/test"
	manifest := []byte(`{"schemaVersion":2}`)
	name, err := reference.ParseNormalizedNamed("quay.io/a/b@" + digest.FromBytes(manifest).String())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		text cdh.Text
		has  resources
		want bool
	}{
		{"inline, accepts", cdh.Text{Inline: accepts}, nil, true},
		{"inline, rejects", cdh.Text{Inline: rejects}, nil, false},
		{"from the trustee, accepts", cdh.Text{URI: uri}, resources{uri: accepts}, true},
		{"from the trustee, rejects", cdh.Text{URI: uri}, resources{uri: rejects}, false},
		{"the trustee has none", cdh.Text{URI: uri}, resources{}, false},
		{"the trustee's is malformed", cdh.Text{URI: uri}, resources{uri: "{"}, false},
	}
	for _, tt := range tests {
		p := imagePolicy{policy: pull.Text(tt.text), resources: pull.NewResources(owner{tt.has}.resource, 0)}
		if err := p.Verify(t.Context(), name, signature.Image{Manifest: manifest}); (err == nil) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// The owner demanded signatures: a guest must not start with a puller that does not ask for them.
func TestAttackImagePolicyIsSkipped(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, policy := range map[string]cdh.Text{
		"malformed": {Inline: "{"}, "unknown": {Inline: `{"default":[{"type":"acceptEverything"}]}`}, "no requirement": {Inline: `{"default":[]}`},
	} {
		if _, err := newPuller(cdh.Image{Policy: policy}, resources{}, t.TempDir(), log); signature.CodeOf(err) != signature.CodePolicyMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImageSettingsThatCannotBeHad(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	sha := "@" + digest.FromString("x").String()
	p, err := newPuller(cdh.Image{
		Registries: cdh.Text{URI: "kbs:///default/registries/none"},
	}, resources{}, t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Pull(t.Context(), "127.0.0.1:1/a"+sha); pull.CodeOf(err) != pull.CodeSettingsUnavailable || !errors.Is(err, signature.ErrNotFound) {
		t.Error(err)
	}
}

// The policy rejects everything, and the registry has an image.
func TestAttackImagePolicyIsNotAsked(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` +
		digest.FromString("x").String() + `","size":1},"layers":[]}`)
	registry := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(manifest) }))
	defer registry.Close()
	const uri = "kbs:///default/security-policy/test"
	for name, policy := range map[string]cdh.Text{"inline": {Inline: rejects}, "the trustee's": {URI: uri}} {
		p, err := newPuller(cdh.Image{
			Policy:     policy,
			ExtraRoots: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw}))},
		}, resources{uri: rejects}, t.TempDir(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Pull(t.Context(), registry.Listener.Addr().String()+"/a@"+digest.FromBytes(manifest).String())
		if pull.CodeOf(err) != pull.CodePolicyRefused || signature.CodeOf(err) != signature.CodeRejected {
			t.Errorf("%s: %v", name, err)
		}
	}
}
