// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/kbs"
)

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name, text string
		want       Config
		fails      string
	}{
		{"nothing", "", Config{}, ""},
		{"a stock file", `
socket = "unix:///run/confidential-containers/cdh.sock"
skip_sealed_secret_verification = false
[kbc]
name = "cc_kbc"
url = "https://broker:8080"
kbs_cert = "PEM"
[image]
work_dir = "/run/image-rs"
max_concurrent_layer_downloads_per_image = 5
extra_root_certificates = ["A", "B"]
[image.image_pull_proxy]
https_proxy = "http://p:1"
http_proxy = "http://p:2"
no_proxy = "10.0.0.0/8"
`, Config{
			Broker: kbs.ClientConfig{URL: "https://broker:8080", PinnedCert: []byte("PEM")},
			Image: Image{ExtraRoots: []string{"A", "B"}, HTTPSProxy: "http://p:1", HTTPProxy: "http://p:2", NoProxy: "10.0.0.0/8",
				Parallel: 5},
		}, ""},
		{"texts of images", `
[image]
image_security_policy = "{}"
sigstore_config_uri = "kbs:///default/sigstore-config/test"
authenticated_registry_credentials_uri = "kbs:///default/credential/test"
[image.registry_config]
unqualified-search-registries = ["quay.io"]
[[image.registry_config.registry]]
prefix = "a.b"
blocked = true
`, Config{Image: Image{
			Policy: Text{Inline: "{}"}, Signatures: Text{URI: "kbs:///default/sigstore-config/test"},
			Credentials: Text{URI: "kbs:///default/credential/test"},
			Registries: Text{Inline: "# registry_config\nunqualified-search-registries = ['quay.io']\n\n" +
				"[[registry]]\nblocked = true\nprefix = 'a.b'\n"},
		}}, ""},
		{"texts twice", `
[image]
image_security_policy = "{}"
image_security_policy_uri = "kbs:///default/security-policy/test"
registry_configuration_uri = "kbs:///default/registries/test"
registry_config = {}
`, Config{Image: Image{
			Policy: Text{URI: "kbs:///default/security-policy/test"}, Registries: Text{Inline: "# registry_config\n"},
		}}, ""},
		{"a text from a file", "[image]\nimage_security_policy_uri = \"file:///etc/policy.json\"", Config{}, "only the trustee"},
		{"a text from a path", "[image]\nauthenticated_registry_credentials_uri = \"/run/auth.json\"", Config{}, "only the trustee"},
		{"another broker", "[kbc]\nname = \"offline_fs_kbc\"", Config{}, "cc_kbc"},
		{"no kind of broker", "[kbc]\nurl = \"https://b\"", Config{}, "cc_kbc"},
		{"no URL", "[kbc]\nname = \"cc_kbc\"", Config{}, "no url"},
		{"too parallel", "[image]\nmax_concurrent_layer_downloads_per_image = 100", Config{}, "want 1 to"},
		{"too many roots", "[image]\nextra_root_certificates = [" + strings.Repeat("\"\",", maxRoots+1) + "]", Config{}, "more than"},
		{"no TOML", "{", Config{}, "cdh.toml"},
		{"another type", "[kbc]\nname = 1", Config{}, "cdh.toml"},
		{"too long", strings.Repeat("#", maxConfig+1), Config{}, "more than"},
	}
	for _, tt := range tests {
		got, err := ParseConfig([]byte(tt.text))
		if (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("%s: %v", tt.name, err)
		} else if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// The owner asked for a protection: a guest that does not know it must not start as if it did.
func TestAttackProtectionIsSkipped(t *testing.T) {
	for _, text := range []string{
		"[[credentials]]\npath = \"x\"\nresource_uri = \"kbs:///a/b/c\"",
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A policy of nothing must not pass for none.
func TestAttackEmptyImagePolicy(t *testing.T) {
	for _, key := range []string{"image_security_policy", "image_security_policy_uri", "sigstore_config", "authenticated_registry_credentials_uri",
		"registry_configuration_uri"} {
		if _, err := ParseConfig([]byte("[image]\n" + key + " = \"\"")); err == nil || !strings.Contains(err.Error(), "is empty") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("[kbc]\nname = \"cc_kbc\"\nurl = \"https://b\"\n" +
		"[image]\nextra_root_certificates = [\"x\"]\n[image.image_pull_proxy]\nhttps_proxy = \"y\""))
	f.Add([]byte("[[credentials]]\npath = \"x\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil && !reflect.DeepEqual(c, Config{}) {
			t.Errorf("an error, and %+v", c)
		}
		if len(c.Image.ExtraRoots) > maxRoots || c.Image.Parallel > maxParallel {
			t.Errorf("%+v", c.Image)
		}
	})
}
