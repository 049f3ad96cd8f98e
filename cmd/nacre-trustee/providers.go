// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/internal/trustee/admin"
)

// provider is a named identity provider of administrators' tokens, as configured: a table of the file, or a flag.
type provider struct {
	Name      string   `toml:"name"`
	PublicKey string   `toml:"public-key"` // PEM file
	JWKSet    string   `toml:"jwk-set"`    // JSON file
	Issuer    string   `toml:"issuer"`
	Audience  string   `toml:"audience"`
	Roles     []string `toml:"roles"`

	UnsafeAnyLifetime bool `toml:"unsafe-any-lifetime"`
}

// providers is a flag that may be given several times.
type providers []provider

// String writes all that is configured, in the form that Set reads.
func (l *providers) String() string {
	var all []string
	for _, p := range *l {
		var parts []string
		for _, m := range p.members() {
			if *m.value != "" {
				parts = append(parts, m.name+"="+*m.value)
			}
		}
		for _, role := range p.Roles {
			parts = append(parts, "role="+role)
		}
		if p.UnsafeAnyLifetime {
			parts = append(parts, "unsafe-any-lifetime")
		}
		all = append(all, strings.Join(parts, ","))
	}
	return strings.Join(all, "; ")
}

type providerMember struct {
	name  string
	value *string
}

func (p *provider) members() []providerMember {
	return []providerMember{{"name", &p.Name}, {"public-key", &p.PublicKey}, {"jwk-set", &p.JWKSet},
		{"issuer", &p.Issuer}, {"audience", &p.Audience}}
}

// Set reads one provider, "name=…,public-key=…" and so on.
func (l *providers) Set(s string) error {
	var p provider
	for part := range strings.SplitSeq(s, ",") {
		name, value, has := strings.Cut(part, "=")
		i := slices.IndexFunc(p.members(), func(m providerMember) bool { return m.name == name })
		switch {
		case name == "unsafe-any-lifetime" && !has:
			p.UnsafeAnyLifetime = true
		case name == "role" && value != "":
			p.Roles = append(p.Roles, value)
		case i >= 0 && value != "" && *p.members()[i].value == "":
			*p.members()[i].value = value
		default:
			return fmt.Errorf("%q: want name=…, public-key=…, jwk-set=…, issuer=…, audience=… once each, role=… any "+
				"number of times, or unsafe-any-lifetime", part)
		}
	}
	*l = append(*l, p)
	return nil
}

// check refuses providers that mean nothing, or that cannot be told apart in the log.
func (l providers) check() error {
	names := map[string]bool{}
	for _, p := range l {
		switch {
		case !plainName(p.Name):
			return fmt.Errorf("--admin-identity-provider: name %q: want 1 to 64 letters, digits, . _ or -", p.Name)
		case names[p.Name]:
			return fmt.Errorf("--admin-identity-provider: two of them are named %s", p.Name)
		case p.PublicKey == "" && p.JWKSet == "":
			return fmt.Errorf("--admin-identity-provider: %s has neither public-key nor jwk-set, so no token can be its",
				p.Name)
		case slices.Contains(p.Roles, ""):
			return fmt.Errorf("--admin-identity-provider: %s has a role without a name", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

func plainName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// files are those that the providers' keys come from.
func (l providers) files() []string {
	var files []string
	for _, p := range l {
		files = append(files, p.PublicKey, p.JWKSet)
	}
	return files
}

// load reads the providers' keys.
func (l providers) load() ([]admin.Provider, error) {
	var all []admin.Provider
	for _, p := range l {
		keys, err := p.keys()
		if err != nil {
			return nil, fmt.Errorf("read a key of the identity provider %s: %w", p.Name, err)
		}
		all = append(all, admin.Provider{Name: p.Name, Keys: keys, Issuer: p.Issuer, Audience: p.Audience, Roles: p.Roles,
			UnsafeAnyLifetime: p.UnsafeAnyLifetime})
	}
	return all, nil
}

func (p provider) keys() ([]admin.ProviderKey, error) {
	var keys []admin.ProviderKey
	if p.PublicKey != "" {
		text, err := readCapped(p.PublicKey, admin.MaxKeyFile)
		if err != nil {
			return nil, err
		}
		key, err := admin.ParseProviderKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.PublicKey, err)
		}
		keys = append(keys, key)
	}
	if p.JWKSet != "" {
		text, err := readCapped(p.JWKSet, admin.MaxKeyFile)
		if err != nil {
			return nil, err
		}
		set, err := admin.ParseKeySet(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.JWKSet, err)
		}
		keys = append(keys, set...)
	}
	if len(keys) == 0 {
		return nil, errors.New("it has none")
	}
	return keys, nil
}

// warn says what is weaker about a provider than about an owner's key.
func (l providers) warn(log *slog.Logger) {
	for _, p := range l {
		if p.UnsafeAnyLifetime {
			log.Warn("tokens of an identity provider count for as long as they say: one that leaks can be taken back only "+
				"with the provider's key", "provider", p.Name)
		}
	}
}
