// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func basicAuth(userAndPassword string) string {
	return base64.StdEncoding.EncodeToString([]byte(userAndPassword))
}

func TestAuthFile(t *testing.T) {
	entry := func(user string) string { return `{"auth":"` + basicAuth(user+":p") + `"}` }
	file, err := parseAuthFile([]byte(`{"credHelpers":{"x":"y"},"auths":{
		"quay.io": ` + entry("quay") + `, "quay.io/team": ` + entry("team") + `, "quay.io/team/app": ` + entry("app") + `,
		"https://index.docker.io/v1/": ` + entry("docker") + `,
		"https://reg.example:5000": ` + entry("port") + `,
		"other.example/ns": ` + entry("ns") + `,
		"members.example": {"username":"members","password":"p"},
		"newline.example": {"auth":"` + basicAuth("newline:p\n") + `"},
		"identity.example": {"identitytoken":"t"},
		"token.example": {"registrytoken":"t"},
		"helper.example": {}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		registry, repository, user, password string
		code                                 Code
	}{
		{"quay.io", "x", "quay", "p", ""},
		{"quay.io", "team/x", "team", "p", ""},
		{"quay.io", "team/app", "app", "p", ""},
		{"quay.io", "team/app/x", "app", "p", ""},
		{"quay.io", "teamx/app", "quay", "p", ""},
		{"QUAY.io:443", "x", "quay", "p", ""},
		{"index.docker.io", "library/nginx", "docker", "p", ""},
		{"reg.example:5000", "x", "port", "p", ""},
		{"reg.example", "x", "", "", ""},
		{"other.example", "ns/x", "ns", "p", ""},
		{"other.example", "else/x", "", "", ""}, // a credential for a part is not one for the whole
		{"evil.example", "quay.io", "", "", ""},
		{"members.example", "x", "members", "p", ""},
		{"newline.example", "x", "newline", "p", ""},
		{"helper.example", "x", "", "", CodeSettingsInvalid},
	}
	for _, tt := range tests {
		c, err := file.find(endpoint{registry: tt.registry, repository: tt.repository})
		if c == nil {
			c = &Credential{}
		}
		if c.User != tt.user || string(c.Password.Reveal()) != tt.password || CodeOf(err) != tt.code {
			t.Errorf("%s/%s: %q, %v; want %q", tt.registry, tt.repository, c.User, err, tt.user)
		}
	}
}

// A credential for one part of a registry is not shown when another is asked for.
func TestAttackNeighboursCredentials(t *testing.T) {
	file, err := parseAuthFile([]byte(`{"auths":{"quay.io/team":{"auth":"` + basicAuth("team:p") + `"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{"evil/app", "teams/app", "tea", "x/team"} {
		if c, err := file.find(endpoint{registry: "quay.io", repository: repository}); c != nil || err != nil {
			t.Errorf("%s: %s, %v", repository, c.User, err)
		}
	}
}

func TestAuthFileRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":       "hunter2",
		"no auths":      `{"quay.io":{"auth":"hunter2"}}`,
		"no base64":     `{"auths":{"quay.io":{"auth":"!hunter2"}}}`,
		"no password":   `{"auths":{"quay.io":{"auth":"` + basicAuth("hunter2") + `"}}}`,
		"another type":  `{"auths":{"quay.io":{"auth":["hunter2"]}}}`,
		"too long":      strings.Repeat(" ", maxAuthText+1),
		"a list":        `{"auths":["hunter2"]}`,
		"auths is null": `{"auths":null}`,
	} {
		if _, err := parseAuthFile([]byte(text)); CodeOf(err) != CodeSettingsInvalid || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPullWithTokens(t *testing.T) {
	for name, auth := range map[string]string{
		"identity": `"auth":"` + basicAuth("x:y") + `","identitytoken":"refresh"`, "registry": `"registrytoken":"granted"`,
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t, true)
			d, _ := reg.push(t, simple(t))
			reg.tamper = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/token" {
					if r.Method != http.MethodPost || r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") != "refresh" ||
						r.FormValue("scope") != "repository:"+repository+":pull" || r.FormValue("service") != "s" || r.Header.Get("Authorization") != "" {
						t.Errorf("asked %s %v", r.Method, r.Form)
					}
					_ = json.NewEncoder(w).Encode(map[string]string{"access_token": "granted"})
					return true
				}
				if r.Header.Get("Authorization") == "Bearer granted" {
					return false
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token",service="s"`, reg.host()))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			p := newPuller(t, reg, func(c *Config) { c.Credentials.Inline = `{"auths":{"` + reg.host() + `":{` + auth + `}}}` })
			if _, err := p.Pull(t.Context(), reg.ref(d)); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://quay.io/v2/":{"auth":"dTpw"},"a/b":{"username":"u"},"c":{"identitytoken":"t"}}}`), "quay.io", "a/b")
	f.Fuzz(func(t *testing.T, text []byte, registry, repository string) {
		file, err := parseAuthFile(text)
		if err != nil {
			return
		}
		c, err := file.find(endpoint{registry: registry, repository: repository})
		if err == nil && c != nil && c.User == "" && c.IdentityToken.Len() == 0 && c.RegistryToken.Len() == 0 {
			t.Error("a credential of nothing")
		}
	})
}
