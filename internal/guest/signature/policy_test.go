// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
)

// someManifest is all that a policy without signatures needs of an image.
var someManifest = []byte(`{"schemaVersion":2}`)

// pinned is the name of someManifest in a repository, which may have a tag.
func pinned(t testing.TB, repository string) reference.Named {
	t.Helper()
	return withDigest(t, repository, digest.FromBytes(someManifest))
}

func withDigest(t testing.TB, repository string, d digest.Digest) reference.Named {
	t.Helper()
	name, err := reference.ParseNormalizedNamed(repository + "@" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func mustParse(t testing.TB, text string, keys Keys) *Policy {
	t.Helper()
	p, err := Parse([]byte(text), keys)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantCode(t *testing.T, err error, want Code, mention ...string) {
	t.Helper()
	if CodeOf(err) != want {
		t.Fatalf("got %v, want the code %q", err, want)
	}
	for _, m := range mention {
		if !strings.Contains(err.Error(), m) {
			t.Errorf("%v\ndoes not mention %q", err, m)
		}
	}
}

const (
	accept = `[{"type":"insecureAcceptAnything"}]`
	reject = `[{"type":"reject"}]`
)

func TestScopes(t *testing.T) {
	d := digest.FromBytes(someManifest).String()
	const app = "registry.example.com/team/app"
	for _, c := range []struct{ name, scope string }{
		{app, app + "@" + d},
		{app + ":v1", app + "@" + d},
		{app + ":v1", app + ":v1@" + d},
		{app + ":v1", app + ":v1"},
		{app, app},
		{app, "registry.example.com/team"},
		{app, "registry.example.com"},
		{app, "*.example.com"},
		{app, "*.com"},
		{app, ""},
		{"busybox", "docker.io/library/busybox"},
		{"busybox", "docker.io/library"},
		{"busybox", "docker.io"},
		{"localhost:5000/x", "localhost:5000"},
		{"registry.example.com:5000/x", "*.example.com"},
		{"REGISTRY.Example.com/team/app", "registry.example.com/team"},
	} {
		p := mustParse(t, `{"default":`+reject+`,"transports":{"docker":{"`+c.scope+`":`+accept+`}}}`, nil)
		if err := p.Verify(t.Context(), pinned(t, c.name), Image{Manifest: someManifest}); err != nil {
			t.Errorf("%s under the scope %q: %v", c.name, c.scope, err)
		}
	}
}

// TestMostSpecificScope lets one scope after the other be the one that differs from all that are less specific.
func TestMostSpecificScope(t *testing.T) {
	name, err := written(pinned(t, "registry.example.com/team/app:v1"))
	if err != nil {
		t.Fatal(err)
	}
	order := append(scopes(name), "")
	for i, scope := range order {
		var members []string
		for _, less := range order[i+1:] {
			members = append(members, `"`+less+`":`+reject)
		}
		members = append(members, `"`+scope+`":`+accept)
		p := mustParse(t, `{"default":`+reject+`,"transports":{"docker":{`+strings.Join(members, ",")+`}}}`, nil)
		if err := p.Verify(t.Context(), name, Image{Manifest: someManifest}); err != nil {
			t.Errorf("%q: %v", scope, err)
		}
	}
}

// TestAttackScopeNotAnchored has names in which a trusted scope is a part, and nothing more.
func TestAttackScopeNotAnchored(t *testing.T) {
	p := mustParse(t, `{"default":`+reject+`,"transports":{"docker":{
		"quay.io":`+accept+`, "registry.example.com/team":`+accept+`, "*.trusted.example":`+accept+`}}}`, nil)
	for _, name := range []string{
		"evil.com/quay.io/x",
		"evil.com/quay.io/x:quay.io",
		"quay.io.evil.com/x",
		"notquay.io/x",
		"quay.io:5000/x",
		"registry.example.com/teams/app",
		"registry.example.com/tea/m",
		"evil.com/registry.example.com/team/app",
		"trusted.example/x",
		"untrusted.example/x",
		"trusted.example.evil.com/x",
		"evil.com/a.trusted.example/x",
	} {
		wantCode(t, p.Verify(t.Context(), pinned(t, name), Image{Manifest: someManifest}), CodeRejected, "scope default")
	}
}

// TestAttackNothingSaid has policies that say nothing about an image.
func TestAttackNothingSaid(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"transports":{}}`, `{"transports":{"docker":{}}}`,
		`{"transports":{"docker":{"registry.example.com/other":` + accept + `}}}`,
		`{"transports":{"docker-daemon":{"":` + accept + `}}}`,
	} {
		err := mustParse(t, text, nil).Verify(t.Context(), pinned(t, "registry.example.com/app"), Image{Manifest: someManifest})
		wantCode(t, err, CodeRejected, "no default")
	}
	wantCode(t, new(Policy).Verify(t.Context(), pinned(t, "registry.example.com/app"), Image{Manifest: someManifest}), CodeRejected)
}

// TestAttackHostInCapitals writes the host of an image in another way, for which the policy has no scope.
func TestAttackHostInCapitals(t *testing.T) {
	p := mustParse(t, `{"default":`+accept+`,"transports":{"docker":{"quay.io":`+reject+`}}}`, nil)
	for _, name := range []string{"quay.io/x", "QUAY.IO/x", "Quay.io/x"} {
		wantCode(t, p.Verify(t.Context(), pinned(t, name), Image{Manifest: someManifest}), CodeRejected, "scope quay.io")
	}
}

// TestAttackScopeOfNothing has scopes that were meant to restrict images, and which no image's name matches.
func TestAttackScopeOfNothing(t *testing.T) {
	for _, scope := range []string{"busybox", "library/busybox", "quay.io/", "https://quay.io", "Quay.io", "quay.io/*", "index.docker.io"} {
		_, err := Parse([]byte(`{"default":`+accept+`,"transports":{"docker":{"`+scope+`":`+reject+`}}}`), nil)
		wantCode(t, err, CodePolicyMalformed, scope)
	}
}

func TestDefaultOnly(t *testing.T) {
	p := mustParse(t, `{"default":`+accept+`}`, nil)
	if err := p.Verify(t.Context(), pinned(t, "registry.example.com/app"), Image{Manifest: someManifest}); err != nil {
		t.Error(err)
	}
}

// TestAttackManifest hands over other manifests than the name pins.
func TestAttackManifest(t *testing.T) {
	p := mustParse(t, `{"default":`+accept+`}`, nil)
	other := []byte(`{"schemaVersion":2,"mediaType":"other"}`)
	index := []byte(`{"manifests":[{"digest":"` + digest.FromBytes(someManifest).String() + `"},{"digest":"bogus"}]}`)
	ofIndex := withDigest(t, "registry.example.com/app", digest.FromBytes(index))
	if err := p.Verify(t.Context(), ofIndex, Image{Manifest: index, Instance: someManifest}); err != nil {
		t.Fatal(err)
	}
	t.Run("another manifest", func(t *testing.T) {
		wantCode(t, p.Verify(t.Context(), pinned(t, "registry.example.com/app"), Image{Manifest: other}), CodeDigest)
	})
	t.Run("instance that is not listed", func(t *testing.T) {
		wantCode(t, p.Verify(t.Context(), ofIndex, Image{Manifest: index, Instance: other}), CodeDigest, "does not list")
	})
	t.Run("instance of no index", func(t *testing.T) {
		wantCode(t, p.Verify(t.Context(), pinned(t, "registry.example.com/app"), Image{Manifest: someManifest, Instance: other}), CodeDigest)
	})
	t.Run("tag instead of a digest", func(t *testing.T) {
		name, err := reference.ParseNormalizedNamed("registry.example.com/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, p.Verify(t.Context(), name, Image{Manifest: someManifest}), CodeReferenceInvalid, "no digest")
	})
	wantCode(t, p.Verify(t.Context(), nil, Image{Manifest: someManifest}), CodeReferenceInvalid)
}

func TestParseRefuses(t *testing.T) {
	scope := func(s string) string { return `{"transports":{"docker":{"` + s + `":` + accept + `}}}` }
	for _, c := range []struct{ name, text, mention string }{
		{"no JSON", `default: accept`, "not JSON"},
		{"no object", `[]`, ""},
		{"two values", `{} {}`, ""},
		{"two defaults", `{"default":` + accept + `,"default":` + reject + `}`, "default"},
		{"two scopes", `{"transports":{"docker":{"quay.io":` + accept + `,"quay.io":` + reject + `}}}`, "quay.io"},
		{"two types", `{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}`, "type"},
		{"a default in another case", `{"Default":` + accept + `}`, `"Default"`},
		{"an unknown member", `{"default":` + accept + `,"defaults":[]}`, `"defaults"`},
		{"too large", `{"default":` + accept + `}` + strings.Repeat(" ", maxPolicy), ""},
		{"transports no object", `{"transports":[]}`, "transports"},
		{"docker no object", `{"transports":{"docker":[]}}`, "transports.docker"},
		{"requirements no list", `{"default":{"type":"reject"}}`, "scope default"},
		{"null", `{"default":null}`, "empty"},
		{"an empty list", `{"default":[]}`, "empty list"},
		{"an empty list in a scope", `{"transports":{"docker":{"quay.io":[]}}}`, "scope quay.io"},
		{"a requirement no object", `{"default":["reject"]}`, "requirement 1 of 1"},
		{"no type", `{"default":[{}]}`, `"type"`},
		{"an unknown type", `{"default":[{"type":"reject"},{"type":"signed"}]}`, "requirement 2 of 2, signed"},
		{"accept with a key", `{"default":[{"type":"insecureAcceptAnything","keyData":"x"}]}`, "no members"},
		{"a short name", scope("busybox"), "docker.io/library/busybox"},
		{"a host without a dot", scope("registry/team"), ""},
		{"a URL", scope("https://quay.io/x"), ""},
		{"a slash at the end", scope("quay.io/x/"), ""},
		{"a wildcard in a path", scope("quay.io/x/*"), ""},
		{"a wildcard with a path", scope("*.example.com/x"), "wildcard"},
		{"a wildcard with a port", scope("*.example.com:5000"), "wildcard"},
		{"a wildcard in the middle", scope("a.*.example.com"), ""},
		{"capital letters", scope("Quay.io"), "small letters"},
		{"a space", scope(" quay.io"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.text), nil)
			wantCode(t, err, CodePolicyMalformed, c.mention)
		})
	}
}

func TestAttackKeysFromFiles(t *testing.T) {
	for _, path := range []string{"/etc/keys/cosign.pub", "file:///etc/keys/cosign.pub", "cosign.pub", "https://example.com/cosign.pub", "kbs://host/default/key/1", "kbs:///../key/1", ""} {
		for _, text := range []string{
			`{"type":"sigstoreSigned","keyPath":"` + path + `"}`,
			`{"type":"sigstoreSigned","keyPaths":["kbs:///default/key/1","` + path + `"]}`,
			`{"type":"sigstoreSigned","keyPath":"kbs:///default/key/1","rekorPublicKeyPath":"` + path + `"}`,
			`{"type":"sigstoreSigned","fulcio":{"caPath":"` + path + `","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"kbs:///default/key/1"}`,
			`{"type":"sigstoreSigned","pki":{"caRootsPath":"` + path + `","subjectEmail":"e"}}`,
			`{"type":"signedBy","keyType":"GPGKeys","keyPath":"` + path + `"}`,
		} {
			_, err := Parse([]byte(`{"default":[`+text+`]}`), nil)
			wantCode(t, err, CodePolicyMalformed, "put the key into the trustee")
		}
	}
}

func TestErrorText(t *testing.T) {
	err := &Error{Code: CodeRequired, Scope: "quay.io/x", Requirement: "requirement 1 of 2, sigstoreSigned", Detail: "none", Err: errors.New("cause")}
	if got, want := err.Error(), "signature_required: scope quay.io/x, requirement 1 of 2, sigstoreSigned: none: cause"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if CodeOf(errors.New("x")) != "" || !errors.Is(failed(CodeInvalid, context.Canceled, ""), context.Canceled) {
		t.Error("codes or causes are lost")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"default":` + accept + `}`, `{"default":` + reject + `,"transports":{"docker":{"quay.io/x":` + accept + `,"*.example.com":` + reject + `}}}`,
		`{"default":[{"type":"sigstoreSigned","keyPath":"kbs:///default/key/1"}]}`,
		`{"default":[{"type":"sigstoreSigned","keyDatas":["-----BEGIN PUBLIC KEY-----\n"],"signedIdentity":{"type":"matchExact"}}]}`,
		`{"default":[{"type":"sigstoreSigned","keyData":[]}]}`,
		`{"default":[{"type":"sigstoreSigned","fulcio":{"caData":"eA==","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyData":"eA=="}]}`,
		`{"default":[{"type":"sigstoreSigned","pki":{"caRootsPath":"kbs:///a/b/c","subjectEmail":"e"}}]}`,
		`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///default/key/1","signedIdentity":{"type":"remapIdentity","prefix":"a.b","signedPrefix":"c.d"}}]}`,
	} {
		f.Add([]byte(text))
	}
	name := pinned(f, "registry.example.com/team/app:v1")
	keys := func(context.Context, string) ([]byte, error) { return []byte("no key"), nil }
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text, keys)
		if err != nil {
			if CodeOf(err) == "" {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		canonical, err := written(name)
		if err != nil {
			t.Fatal(err)
		}
		// What was parsed never runs an image that no requirement speaks of, and accepts an unsigned one only in so many words.
		_, list := p.choose(canonical)
		all := len(list) > 0 && !slices.ContainsFunc(list, func(r requirement) bool { return r.kind != typeAccept })
		if err := p.Verify(t.Context(), name, Image{Manifest: someManifest}); (err == nil) != all {
			t.Fatalf("accepted: %v, by %q", err == nil, text)
		}
	})
}
