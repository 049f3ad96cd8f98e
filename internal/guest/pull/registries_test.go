// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nacre-project/nacre/secret"
)

const aDigest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// places says where an image would be asked for: "host/repository", with "http:" before insecure ones.
func places(t *testing.T, config, ref string) ([]string, error) {
	t.Helper()
	r, err := parseRegistries([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	endpoints, err := r.endpoints(parsed)
	var all []string
	for _, e := range endpoints {
		text := e.registry + "/" + e.repository
		if e.insecure {
			text = "http:" + text
		}
		all = append(all, text)
	}
	return all, err
}

func TestRegistries(t *testing.T) {
	const config = `
unqualified-search-registries = ["docker.io", "quay.io"]
[[registry]]
prefix = "example.com/ns"
location = "local.example/other"
[[registry.mirror]]
location = "m1.example:5000/a"
insecure = true
[[registry.mirror]]
location = "m2.example"
[[registry.mirror]]
location = "m3.example"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "example.com/ns/deep"
[[registry]]
prefix = "*.wild.example"
location = "wild.local/x"
[[registry]]
prefix = "a.wild.example"
location = "tame.local"
[[registry]]
prefix = "blocked.example"
blocked = true
[[registry]]
location = "plain.example"
insecure = true
[[registry]]
prefix = "onlyprefix.example/a"
insecure = true
[[registry]]
prefix = "hub.example"
location = "docker.io/mirrored"
`
	tests := []struct {
		ref  string
		want []string
		code Code
	}{
		{"nginx", []string{"index.docker.io/library/nginx", "quay.io/nginx"}, ""},
		{"team/app", []string{"index.docker.io/team/app", "quay.io/team/app"}, ""},
		{"docker.io/nginx", []string{"index.docker.io/library/nginx"}, ""},
		{"other.example/a", []string{"other.example/a"}, ""},
		{"example.com/ns/a", []string{"http:m1.example:5000/a/a", "m2.example/a", "local.example/other/a"}, ""},
		{"example.com/ns/a:tag", []string{"http:m1.example:5000/a/a", "m2.example/a", "local.example/other/a"}, ""},
		{"example.com/ns/deep/a", []string{"example.com/ns/deep/a"}, ""},
		{"x.wild.example/ns/a", []string{"wild.local/x/ns/a"}, ""},
		{"x.y.wild.example/a", []string{"wild.local/x/a"}, ""},
		{"a.wild.example/b", []string{"tame.local/b"}, ""},
		{"plain.example/a", []string{"http:plain.example/a"}, ""},
		{"onlyprefix.example/a/b", []string{"http:onlyprefix.example/a/b"}, ""}, // which the stock guest ignores
		{"hub.example/a", []string{"index.docker.io/mirrored/a"}, ""},
		{"blocked.example/a", nil, CodeBlocked},
		// spec: the longest prefix wins, and it is a prefix
		{"example.com/nsx/a", []string{"example.com/nsx/a"}, ""},
		{"wild.example/a", []string{"wild.example/a"}, ""},
		{"evilwild.example/a", []string{"evilwild.example/a"}, ""},
		{"example.com:5000/ns/a", []string{"example.com:5000/ns/a"}, ""},
	}
	for _, tt := range tests {
		if got, err := places(t, config, tt.ref+aDigest); !slices.Equal(got, tt.want) || CodeOf(err) != tt.code {
			t.Errorf("%s: %q, %v; want %q", tt.ref, got, err, tt.want)
		}
	}
	if _, err := places(t, "unqualified-search-registries = []", "nginx"+aDigest); CodeOf(err) != CodeReferenceInvalid {
		t.Errorf("nothing to search: %v", err)
	}
	if _, err := places(t, "[[registry]]\nprefix = \"a.b/c\"\nlocation = \"d.e\"", "a.b/c"+aDigest); CodeOf(err) != CodeSettingsInvalid {
		t.Errorf("no repository left: %v", err)
	}
}

// A rule's prefix stands somewhere in the name, and not before it (the weakness W4 of the stock guest).
func TestAttackW4PrefixInTheMiddle(t *testing.T) {
	for _, prefix := range []string{"quay.io", "*.quay.io", "quay.io/x"} {
		config := "[[registry]]\nprefix = \"" + prefix + "\"\nlocation = \"trusted.example\"\ninsecure = true"
		for _, name := range []string{"evil.com/quay.io/x", "evil.example.com/a.quay.io/x", "quay.io.evil.com/x", "quay.io/xy", "quay.iox/x"} {
			if name == "quay.io/xy" && prefix == "quay.io" {
				continue
			}
			if got, err := places(t, config, name+aDigest); err != nil || !slices.Equal(got, []string{name}) {
				t.Errorf("%s is taken for %s: %q, %v", name, prefix, got, err)
			}
		}
	}
}

// A blocked registry is blocked however it is spelt.
func TestAttackBlockedRegistry(t *testing.T) {
	const config = "[[registry]]\nprefix = \"evil.example\"\nblocked = true\n[[registry]]\nprefix = \"docker.io\"\nblocked = true"
	for _, name := range []string{"evil.example/a", "evil.example:443/a", "EVIL.example/a", "index.docker.io/library/a", "a"} {
		parsed, err := parseReference(name + aDigest)
		if err != nil {
			continue // then it is not pulled either
		}
		r, err := parseRegistries([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.endpoints(parsed); CodeOf(err) != CodeBlocked {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestRegistriesAreStrict(t *testing.T) {
	for name, config := range map[string]string{
		"a word misspelt":         "[[registry]]\nprefix = \"a.b\"\nblockd = true",
		"no prefix":               "[[registry]]\nblocked = true",
		"a tag":                   "[[registry]]\nprefix = \"a.b/c:latest\"\nblocked = true",
		"a digest":                "[[registry]]\nprefix = \"a.b/c@sha256:x\"\nblocked = true",
		"a URL":                   "[[registry]]\nprefix = \"https://a.b\"",
		"a slash at the end":      "[[registry]]\nprefix = \"a.b/\"",
		"dots":                    "[[registry]]\nprefix = \"a.b/../c\"",
		"a wildcard with a path":  "[[registry]]\nprefix = \"*.a.b/c\"\nlocation = \"d.e\"",
		"a wildcard without any":  "[[registry]]\nprefix = \"*.a.b\"",
		"a wildcard inside":       "[[registry]]\nprefix = \"a.*.b\"\nlocation = \"d.e\"",
		"a location of no kind":   "[[registry]]\nprefix = \"a.b\"\nlocation = \"c d\"",
		"a mirror without":        "[[registry]]\nprefix = \"a.b\"\n[[registry.mirror]]\ninsecure = true",
		"a mirror for what":       "[[registry]]\nprefix = \"a.b\"\n[[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"x\"",
		"two of one prefix":       "[[registry]]\nprefix = \"a.b\"\n[[registry]]\nprefix = \"A.b:443\"",
		"credential helpers":      "credential-helpers = [\"x\"]",
		"aliases":                 "[aliases]\na = \"b.c/d\"",
		"a search with a path":    "unqualified-search-registries = [\"a.b/c\"]",
		"no TOML":                 "[[",
		"too many rules":          strings.Repeat("[[registry]]\nprefix = \"a.b\"\n", maxRules+1),
		"too many mirrors":        "[[registry]]\nprefix = \"a.b\"\n" + strings.Repeat("[[registry.mirror]]\nlocation = \"m\"\n", maxMirrors+1),
		"more bytes than allowed": strings.Repeat("#", maxRegistriesText+1),
	} {
		if r, err := parseRegistries([]byte(config)); CodeOf(err) != CodeSettingsInvalid {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func FuzzRegistries(f *testing.F) {
	f.Add("[[registry]]\nprefix = \"*.a.b\"\nlocation = \"c.d/e\"\n[[registry.mirror]]\nlocation = \"m.n:1/o\"", "x.a.b/y")
	f.Add("unqualified-search-registries = [\"quay.io\"]\n[[registry]]\nprefix = \"quay.io/x\"\nblocked = true", "x")
	f.Add("", "./a")
	f.Fuzz(func(t *testing.T, config, name string) {
		r, err := parseRegistries([]byte(config))
		if err != nil {
			return
		}
		ref, err := parseReference(name + aDigest)
		if err != nil {
			return
		}
		endpoints, err := r.endpoints(ref)
		for _, e := range endpoints {
			if err == nil && (!hostName.MatchString(e.registry) || !repositoryName.MatchString(e.repository)) {
				t.Errorf("%+v", e)
			}
		}
	})
}

// mirrored is a configuration in which names of example.com are served by mirrors first and by the last at the end.
func mirrored(insecure bool, hosts ...string) Text {
	config := "[[registry]]\nprefix = \"example.com\"\nlocation = \"" + hosts[len(hosts)-1] + "\"\n"
	for _, host := range hosts[:len(hosts)-1] {
		config += fmt.Sprintf("[[registry.mirror]]\nlocation = \"%s\"\ninsecure = %v\n", host, insecure)
	}
	return Text{Inline: config}
}

func both(a, b *testRegistry) []string { return append(a.roots(), b.roots()...) }

func TestMirrors(t *testing.T) {
	first, last := newRegistry(t, true), newRegistry(t, true)
	image := testImage{layers: []testLayer{large(t), {archive: archive(t, "a", "b"), compression: zstandard}}}
	d, manifest := first.push(t, image)
	last.push(t, image)
	whole := compressed(t, gzipped, large(t).archive)
	mirrorFails := map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"the mirror has all": nil,
		"it has nothing": func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusNotFound)
			return true
		},
		"it is out of order": func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		},
		"it wants credentials": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"it lacks a layer": blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
			w.WriteHeader(http.StatusNotFound)
		}),
		"it breaks off": blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
			breakOff(w, whole, whole[:len(whole)/2])
		}),
		"it has another layer": blobTamper(manifest.Layers[0].Digest, func(w http.ResponseWriter, r *http.Request, n int) {
			_, _ = w.Write(slices.Concat(whole[:len(whole)/2], whole))
		}),
		"it has another manifest": blobTamper(d, func(w http.ResponseWriter, r *http.Request, n int) {
			_, _ = w.Write([]byte(`{"schemaVersion":2}`))
		}),
	}
	for name, tamper := range mirrorFails {
		t.Run(name, func(t *testing.T) {
			first.tamper = tamper
			before := last.requests.Load()
			p := newPuller(t, last, func(c *Config) {
				c.ExtraRoots = both(first, last)
				c.Registries = mirrored(false, first.host(), last.host())
			})
			got, err := p.Pull(t.Context(), "example.com/"+repository+"@"+d.String())
			if err != nil {
				t.Fatal(err)
			}
			if text := content(t, got.Layers[1]+"/a"); text != "b" {
				t.Error(text)
			}
			if asked := last.requests.Load() > before; asked != (tamper != nil) {
				t.Errorf("the registry itself was asked: %v", asked)
			}
		})
	}
}

// What all of them said stands in the error, and the registry itself gives the code.
func TestMirrorsFailTogether(t *testing.T) {
	first, last := newRegistry(t, true), newRegistry(t, true)
	first.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	p := newPuller(t, last, func(c *Config) {
		c.ExtraRoots = both(first, last)
		c.Registries = mirrored(false, first.host(), "127.0.0.1:1", last.host())
	})
	err := refused(t, p, "example.com/a"+aDigest, CodeNotFound)
	for _, want := range []string{first.host(), "status 403", "127.0.0.1:1", "refused", last.host(), "status 404"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestInsecureRegistry(t *testing.T) {
	reg := newRegistry(t, false)
	d, _ := reg.push(t, simple(t))
	p := newPuller(t, reg, func(c *Config) {
		c.Registries = Text{Inline: "[[registry]]\nlocation = \"plain.example\"\ninsecure = true"}
	})
	dialTo(p, reg.Server)
	if _, err := p.Pull(t.Context(), "plain.example/"+repository+"@"+d.String()); err != nil {
		t.Error(err)
	}
	if n := reg.requests.Load(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestAttackInsecureRegistryGetsCredentials(t *testing.T) {
	reg := newRegistry(t, false)
	d, _ := reg.push(t, simple(t))
	p := newPuller(t, reg, func(c *Config) {
		c.Registries = Text{Inline: "[[registry]]\nlocation = \"" + reg.host() + "\"\ninsecure = true"}
		c.Credentials = credentials(reg)
	})
	refused(t, p, reg.ref(d), CodePlaintextRefused)
	if n := reg.requests.Load(); n != 0 {
		t.Errorf("%d requests in the clear", n)
	}
}

// The mirror is somebody else's: what was meant for the registry itself is not shown to it.
func TestAttackMirrorGetsTheRegistrysCredentials(t *testing.T) {
	first, last := newRegistry(t, true), newRegistry(t, true)
	d, _ := last.push(t, simple(t))
	leaked := atomic.Bool{}
	first.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	last.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			return false
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	p := newPuller(t, last, func(c *Config) {
		c.ExtraRoots = both(first, last)
		c.Registries = mirrored(false, first.host(), last.host())
		c.Credentials = credentials(last)
	})
	if _, err := p.Pull(t.Context(), "example.com/"+repository+"@"+d.String()); err != nil {
		t.Error(err)
	}
	if leaked.Load() {
		t.Error("the mirror got the registry's password")
	}
}

// trustee has resources, and counts who asks for them.
type trustee struct {
	values map[string]string
	asked  atomic.Int64
}

func (t *trustee) get(_ context.Context, uri string) (secret.Bytes, error) {
	t.asked.Add(1)
	value, ok := t.values[uri]
	if !ok {
		return secret.Bytes{}, errors.New("policy_denied")
	}
	return secret.New([]byte(value)), nil
}

func TestSettingsFromTheTrustee(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "user" && password == "password" {
			return false
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	const registriesURI, authURI = "kbs:///default/registries/1", "kbs:///default/credential/1"
	owner := &trustee{values: map[string]string{
		registriesURI: mirrored(false, reg.host()).Inline, authURI: credentials(reg).Inline,
	}}
	p := newPuller(t, reg, func(c *Config) {
		c.Registries, c.Credentials = Text{URI: registriesURI}, Text{URI: authURI}
		c.Resources = NewResources(owner.get, 0)
	})
	if n := owner.asked.Load(); n != 0 {
		t.Errorf("asked %d times before the first pull", n)
	}
	for range 2 {
		if _, err := p.Pull(t.Context(), "example.com/"+repository+"@"+d.String()); err != nil {
			t.Fatal(err)
		}
	}
	if n := owner.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

// Rotation is seen (the weakness W6 of the stock guest): what is older than its time is not used, even when the trustee
// does not answer any more.
func TestAttackW6StaleSettings(t *testing.T) {
	const uri = "kbs:///default/credential/1"
	owner := &trustee{values: map[string]string{uri: "old"}}
	r := NewResources(owner.get, time.Nanosecond)
	for _, want := range []string{"old", "new"} {
		owner.values[uri] = want
		if got, err := r.Get(t.Context(), uri); err != nil || string(got.Reveal()) != want {
			t.Errorf("%s, %v; want %s", got.Reveal(), err, want)
		}
	}
	delete(owner.values, uri)
	if got, err := r.Get(t.Context(), uri); err == nil {
		t.Errorf("what the owner took back is used: %s", got.Reveal())
	}
}

func TestAttackSettingsAreDenied(t *testing.T) {
	reg := newRegistry(t, true)
	d, _ := reg.push(t, simple(t))
	for name, change := range map[string]func(*Config){
		"registries":                   func(c *Config) { c.Registries.URI = "kbs:///a/b/c" },
		"credentials":                  func(c *Config) { c.Credentials.URI = "kbs:///a/b/c" },
		"registries without a trustee": func(c *Config) { c.Registries.URI, c.Resources = "kbs:///a/b/c", nil },
	} {
		p := newPuller(t, reg, func(c *Config) {
			c.Resources = NewResources((&trustee{}).get, 0)
			change(c)
		})
		refused(t, p, reg.ref(d), CodeSettingsUnavailable)
		if n := reg.requests.Load(); n != 0 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func TestResourcesOnce(t *testing.T) {
	owner := &trustee{values: map[string]string{"a": "1"}}
	r := NewResources(owner.get, time.Hour)
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := r.Get(t.Context(), "a")
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := owner.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.held["a"].turn <- struct{}{}
	if _, err := r.Get(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAttackManyBombs(t *testing.T) {
	reg := newRegistry(t, true)
	zeros := func(name string) testLayer {
		return testLayer{archive: archive(t, name, strings.Repeat("\x00", 1<<20)), compression: gzipped}
	}
	d, _ := reg.push(t, testImage{layers: []testLayer{zeros("a"), zeros("b"), zeros("c")}})
	_, err := newPuller(t, reg, func(c *Config) { c.Limits.UnpackedBytes, c.Parallel = 5<<19, 1 }).Pull(t.Context(), reg.ref(d))
	if CodeOf(err) != CodeTooLarge {
		t.Error(err)
	}
	if _, err := newPuller(t, reg, func(c *Config) { c.Limits.UnpackedBytes = 4 << 20 }).Pull(t.Context(), reg.ref(d)); err != nil {
		t.Error(err)
	}
}
