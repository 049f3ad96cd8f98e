// SPDX-License-Identifier: Apache-2.0

package upstream_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/nacre-project/nacre/internal/trustee/upstream"
)

// The stories of both commands are in cmd/nacre-trustee/testdata; here is what does not fit into a story.

func TestConvert(t *testing.T) {
	for name, c := range map[string]struct{ text, setting, warning string }{
		"nothing":             {"", "", ""},
		"an offline store":    {"[attestation_service.verifier_config.snp_verifier]\nvcek_sources = [{type='OfflineStore', path='/v'}]", "kds-url = ''", ""},
		"another source":      {"[attestation_service.verifier_config.snp_verifier]\nvcek_sources = [{type='X'}]", "kds-url = ''", "vcek_sources[0].type"},
		"a remote verifier":   {"[attestation_service]\ntype='intel_ta'\napi_key='hunter2'", "", "attestation_service.api_key"},
		"long sessions":       {"[attestation_service]\ntimeout=600", "session-lifetime = '60m'", "longer than what is possible"},
		"a key on the net":    {"[admin.authentication.bearer_jwt]\nidentity_providers=[{public_key_uri='https://x/y'}]", "", "fetched from the network"},
		"two administrators":  {"[admin.authentication.bearer_jwt]\nidentity_providers=[{public_key_uri='/a'},{public_key_uri='/b'}]", "[{name = 'provider-1', public-key = '/a'}, {name = 'provider-2', public-key = '/b'}]", ""},
		"two audiences":       {"[admin.authentication.bearer_jwt]\nidentity_providers=[{audience='a',public_key_uri='/a'},{issuer='i',jwk_set_uri='file:///b'}]", "audience = 'a'}, {name = 'provider-2', jwk-set = '/b', issuer = 'i'}]", "unless the provider has unsafe-any-lifetime"},
		"an older KBS":        {"[admin]\nauth_public_key='/old.pub'\ntype='Simple'", "admin-public-key = ['/old.pub']", "older KBS"},
		"nobody administers":  {"[admin]\nauthorization_mode='DenyAll'", "", "throw it away"},
		"an unknown table":    {"[colour]\nblue=1", "", "colour.blue is not a key"},
		"lines in a key":      {"\"a\\nb\" = 1", "", "# a b is not a key"},
		"a role of its own":   {"[admin.authorization.regex_acl]\nacls=[{role='root', allowed_endpoints='^/kbs/.*$'}]", "", "acls[0].role"},
		"safe by being false": {"[http_server]\ninsecure_http=false\n[attestation_token]\ninsecure_header_jwk=false", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			conversion, err := upstream.Convert([]byte(c.text), nil)
			if err != nil {
				t.Fatal(err)
			}
			out, err := conversion.Format()
			if err != nil || !strings.Contains(string(out), c.setting) || !strings.Contains(string(out), c.warning) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	for name, text := range map[string]string{
		"not TOML": "=", "a text for a number": "[http_server]\npayload_request_size='2'",
		"a number for a text": "[http_server]\ncertificate=1", "no addresses": "[http_server]\nsockets=[]",
		"addresses of numbers": "[http_server]\nsockets=[1]", "a mode that is none": "[admin]\nauthorization_mode='x'",
		"a plugin without a name": "[[plugins]]\nmodule='x'", "plugins of numbers": "plugins=[1]",
		"no minutes": "[attestation_service]\ntimeout=0", "too long": "# " + strings.Repeat("x", upstream.MaxConfig),
	} {
		if _, err := upstream.Convert([]byte(text), nil); err == nil {
			t.Errorf("%s: converted", name)
		}
	}
}

// No value of the old configuration, of which some are passwords, is said where it does not become a setting.
func TestS15NoPasswordIsRepeated(t *testing.T) {
	const text = `session_storage_type = "hunter2"
unknown = "hunter2"
[storage_backend]
storage_type = "hunter2"
[storage_backend.backends.postgres]
password = "hunter2"
[storage_backend.backends.redis]
url = "redis://kbs:hunter2@db"
[attestation_service]
type = "hunter2"
api_key = "hunter2"
[attestation_service.rvps_config]
address = "http://x:hunter2@y"
[[plugins]]
name = "resource"
storage_backend_type = "Vault"
token = "hunter2"
[[plugins]]
name = "pkcs11"
pin = "hunter2"
`
	c, err := upstream.Convert([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Format()
	if err != nil || strings.Contains(string(out), "hunter2") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, bad := range []string{"[http_server]\ninsecure_http='hunter2'", "[admin]\nauthorization_mode='hunter2'"} {
		if _, err := upstream.Convert([]byte(bad), nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

// Whoever could write upstream's store leads the reader elsewhere, or makes it read without end.
func TestAttackStore(t *testing.T) {
	for name, build := range map[string]func(dir string) error{
		"a link out of it": func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, `a\x2Fb\x2Fc`)) },
		"a device":         func(dir string) error { return os.Symlink("/dev/zero", filepath.Join(dir, `a\x2Fb\x2Fc`)) },
		"dots in a key":    func(dir string) error { return os.WriteFile(filepath.Join(dir, `..\x2F..\x2Fc`), nil, 0o600) },
		"one key twice": func(dir string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o700), os.WriteFile(filepath.Join(dir, "a/b/c"), nil, 0o600),
				os.WriteFile(filepath.Join(dir, `a\x2Fb\x2Fc`), nil, 0o600))
		},
		"a file of 16 MiB": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, `a\x2Fb\x2Fc`), []byte(strings.Repeat("x", 16<<20)), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := t.TempDir()
			dir := filepath.Join(store, "repository")
			if err := errors.Join(os.Mkdir(dir, 0o700), build(dir)); err != nil {
				t.Fatal(err)
			}
			if c, err := upstream.ReadLocalFs(store, time.Now()); err == nil {
				t.Errorf("read %d resources", len(c.Resources))
			}
		})
	}
}

func FuzzConvert(f *testing.F) {
	f.Add("[http_server]\nsockets=['a']\n[[plugins]]\nname='resource'")
	f.Add("[admin.authorization.regex_acl]\nacls=[{}]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := upstream.Convert([]byte(text), nil)
		if err != nil {
			return
		}
		out, err := c.Format()
		if err != nil {
			return
		}
		var settings map[string]any
		if err := toml.Unmarshal(out, &settings); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func FuzzReferenceValue(f *testing.F) {
	f.Add(`{"version":"0.1.0","name":"a","expiration":"2099-01-01T00:00:00Z","value":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		store := t.TempDir()
		dir := filepath.Join(store, "reference_value")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "a"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		c, err := upstream.ReadLocalFs(store, time.Unix(1_800_000_000, 0))
		if err == nil && len(c.Values) == 1 && (c.Values[0].Name != "a" || len(c.Values[0].Value) == 0) {
			t.Errorf("%+v", c.Values[0])
		}
	})
}
