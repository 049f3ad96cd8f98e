// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/secret"
)

// Caps on a file of credentials.
const (
	maxAuthText    = 1 << 20
	maxAuthEntries = 1024
)

// Credential is what a registry is shown: a user's name and password, or a token in their place.
type Credential struct {
	User     string
	Password secret.Bytes
	// IdentityToken is exchanged for a registry's token (OAuth2's refresh token), and wins over a password.
	IdentityToken secret.Bytes
	// RegistryToken is shown as it is, and wins over both.
	RegistryToken secret.Bytes
}

func (c *Credential) basic() string {
	return base64.StdEncoding.EncodeToString([]byte(c.User + ":" + string(c.Password.Reveal())))
}

// authFile is docker's auth.json (containers-auth.json(5)), by its keys.
type authFile map[string]authEntry

type authEntry struct {
	Credential
	empty bool // it leaves the credential to a program on its author's machine
}

// parseAuthFile parses an auth.json. Its errors quote nothing of it but keys.
func parseAuthFile(text []byte) (authFile, error) {
	if len(text) > maxAuthText {
		return nil, refuse(CodeSettingsInvalid, "registry credentials of %d bytes, more than %d", len(text), maxAuthText)
	}
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
			RegistryToken string `json:"registrytoken"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, refuse(CodeSettingsInvalid, "the registry credentials are no auth.json") // err may quote them
	}
	if file.Auths == nil {
		return nil, refuse(CodeSettingsInvalid, `the registry credentials have no "auths"`)
	}
	if len(file.Auths) > maxAuthEntries {
		return nil, refuse(CodeSettingsInvalid, "registry credentials with %d entries, more than %d", len(file.Auths), maxAuthEntries)
	}
	parsed := authFile{}
	for key, e := range file.Auths {
		c := Credential{
			User: e.Username, Password: secret.New([]byte(e.Password)),
			IdentityToken: secret.New([]byte(e.IdentityToken)), RegistryToken: secret.New([]byte(e.RegistryToken)),
		}
		if e.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Auth))
			user, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return nil, refuse(CodeSettingsInvalid, `the registry credentials for %q: "auth" is not base64 of user:password`, key)
			}
			c.User, c.Password = user, secret.New([]byte(strings.TrimRight(password, "\r\n")))
		}
		parsed[key] = authEntry{c, c.User == "" && c.IdentityToken.Len() == 0 && c.RegistryToken.Len() == 0}
	}
	return parsed, nil
}

// find returns the credential for an endpoint, nil when there is none: that of the repository, of what the repository
// lies in, of the registry, and last of a key that is the registry's address.
func (a authFile) find(e endpoint) (*Credential, error) {
	host := canonical(e.registry)
	for key := host + "/" + e.repository; ; {
		if entry, ok := a[key]; ok {
			return entry.credential(key)
		}
		end := strings.LastIndexByte(key, '/')
		if end < 0 {
			break
		}
		key = key[:end]
	}
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if address, ok := asAddress(key); ok && address == host {
			return a[key].credential(key)
		}
	}
	return nil, nil
}

// asAddress returns the registry that a key names by its address or by another spelling of it. The path of an address
// is its API's. The path of a name is a repository's, and a credential for it is not one for its neighbours.
func asAddress(key string) (host string, ok bool) {
	_, rest, isURL := strings.Cut(key, "://")
	if !isURL {
		rest = key
	}
	host, path, _ := strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	return canonical(host), isURL || path == "" || path == "v1" || path == "v2"
}

func (e authEntry) credential(key string) (*Credential, error) {
	if e.empty {
		return nil, refuse(CodeSettingsInvalid, "the registry credentials for %q are empty: a credential helper has them, "+
			"and the guest has no such programs; put the credential itself into the file", key)
	}
	return &e.Credential, nil
}
