// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/kbs"
)

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name, text string
		want       Config
		fails      string
	}{
		{"nothing", "", Config{}, ""},
		{"a stock file", `
[token_configs]
[token_configs.coco_as]
url = "http://as:8080"
[token_configs.kbs]
url = "https://broker:8080"
cert = """
PEM"""
[eventlog_config]
init_pcr = 17
enable_eventlog = true
[log]
level = "info"
`, Config{Broker: kbs.ClientConfig{URL: "https://broker:8080", PinnedCert: []byte("PEM")}, EventLog: true}, ""},
		{"a key algorithm", "[token_configs.kbs]\nurl = \"https://b\"\ntee_key_algorithm = \"RSA-OAEP-256\"",
			Config{Broker: kbs.ClientConfig{URL: "https://b", PinnedCert: []byte{}}, KeyAlgorithm: kbs.RSAOAEP256}, ""},
		{"plain HTTP", "[token_configs.kbs]\nurl = \"http://b\"\nunsafe_http = true",
			Config{Broker: kbs.ClientConfig{URL: "http://b", PinnedCert: []byte{}, UnsafeHTTP: true}}, ""},
		{"no URL", "[token_configs.kbs]\ncert = \"x\"", Config{}, "no url"},
		{"an unknown algorithm", "[token_configs.kbs]\nurl = \"https://b\"\ntee_key_algorithm = \"RSA1_5\"", Config{}, "RSA1_5"},
		{"no TOML", "{", Config{}, "aa.toml"},
		{"a key twice", "[token_configs.kbs]\nurl = \"https://b\"\nurl = \"https://c\"", Config{}, "aa.toml"},
		{"another type", "[token_configs.kbs]\nurl = 1", Config{}, "aa.toml"},
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

func FuzzConfig(f *testing.F) {
	f.Add([]byte("[token_configs.kbs]\nurl = \"https://b\"\ncert = \"\"\"\nPEM\"\"\"\n[eventlog_config]\nenable_eventlog = true"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil && !reflect.DeepEqual(c, Config{}) {
			t.Errorf("an error, and %+v", c)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("e30." + encode(`{"iat":1000,"exp":1300}`) + ".c2ln")
	f.Fuzz(func(t *testing.T, token string) {
		if d := life(times(token)); d < 0 || d > longestLife {
			t.Errorf("lasts %v", d)
		}
	})
}
