// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"
)

// MaxConfig caps a configuration file, in bytes.
const MaxConfig = 1 << 20

// Setting is a setting of this trustee: a flag's name, and its value (string, bool, int64, []string or
// []IdentityProvider).
type Setting struct {
	Name  string
	Value any
}

// Conversion is what became of a configuration.
type Conversion struct {
	Settings []Setting
	Warnings []string // one for each key that means nothing here, or not the same
}

// UnsafeError says which keys make upstream's trustee unsafe in a way that has to be accepted by name.
type UnsafeError struct{ Keys, Why []string }

func (e *UnsafeError) Error() string {
	lines := make([]string, len(e.Keys))
	for i, key := range e.Keys {
		lines[i] = key + ": " + e.Why[i]
	}
	return "the configuration is unsafe: " + strings.Join(lines, "; ")
}

// Convert turns upstream's configuration, in TOML, into settings. Keys that are named in accept may be unsafe.
func Convert(text []byte, accept []string) (*Conversion, error) {
	if len(text) > MaxConfig {
		return nil, fmt.Errorf("the configuration has %d bytes, at most %d", len(text), MaxConfig)
	}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("parse the configuration: %w", err)
	}
	c := &converter{accept: accept, unsafe: &UnsafeError{}, known: map[string]bool{}}
	c.table("", tree)
	if c.err != nil {
		return nil, c.err
	}
	for _, key := range accept {
		if !c.known[key] {
			return nil, fmt.Errorf("%q is accepted as unsafe, but the configuration is not unsafe there", key)
		}
	}
	if len(c.unsafe.Keys) > 0 {
		return nil, c.unsafe
	}
	if len(c.providers) > 0 {
		for i := range c.providers {
			c.providers[i].Roles = c.roles
		}
		c.set("admin-identity-provider", c.providers)
	}
	slices.SortFunc(c.out.Settings, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) })
	return &c.out, nil
}

// converter walks a configuration.
type converter struct {
	accept    []string
	known     map[string]bool // accepted keys that were met
	out       Conversion
	providers []IdentityProvider
	roles     []string // of administrators
	unsafe    *UnsafeError
	err       error
}

// keyed is what becomes of a key.
type keyed func(c *converter, key string, value any)

// table converts the members of a table. Tables that keys name as a whole are not descended into.
func (c *converter) table(prefix string, table map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(table)) {
		key := prefix + name
		if convert, ok := keys[key]; ok {
			convert(c, key, table[name])
			continue
		}
		if below, ok := table[name].(map[string]any); ok {
			c.table(key+".", below)
			continue
		}
		c.warn(key, "is not a key of the KBS that is known here; it is left out")
	}
}

func (c *converter) warn(key, what string) {
	c.out.Warnings = append(c.out.Warnings, strings.Map(printable, key+" "+what))
}

// printable keeps foreign text within one line of a terminal and of a configuration file.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return ' '
	}
	return r
}

func (c *converter) set(name string, value any) {
	for i, s := range c.out.Settings {
		if s.Name != name {
			continue
		}
		more, ok := value.([]string)
		if list, isList := s.Value.([]string); isList && ok {
			c.out.Settings[i].Value = append(list, more...)
			return
		}
		c.out.Settings[i].Value = value
		return
	}
	c.out.Settings = append(c.out.Settings, Setting{name, value})
}

func (c *converter) fail(key string, value any, want string) {
	if c.err == nil {
		c.err = fmt.Errorf("%s is a %T, want %s", key, value, want)
	}
}

// dangerous notes a key that has to be accepted by name, and says whether it was.
func (c *converter) dangerous(key, why string) bool {
	if slices.Contains(c.accept, key) {
		c.known[key] = true
		return true
	}
	c.unsafe.Keys, c.unsafe.Why = append(c.unsafe.Keys, key), append(c.unsafe.Why, why)
	return false
}

// ignored is a key that means nothing here, and why.
func ignored(why string) keyed {
	return func(c *converter, key string, _ any) { c.warn(key, why) }
}

func textual(then func(c *converter, key, value string)) keyed {
	return func(c *converter, key string, value any) {
		if s, ok := value.(string); ok {
			then(c, key, s)
			return
		}
		c.fail(key, value, "a text")
	}
}

func named(name string) keyed {
	return textual(func(c *converter, _, value string) { c.set(name, value) })
}

func flagged(then func(c *converter, key string)) keyed {
	return func(c *converter, key string, value any) {
		if on, ok := value.(bool); !ok {
			c.fail(key, value, "true or false")
		} else if on {
			then(c, key)
		}
	}
}

// minutes converts a number of minutes, up to the most that there may be here.
func minutes(name string, most int64) keyed {
	return func(c *converter, key string, value any) {
		n, ok := value.(int64)
		if !ok || n < 1 {
			c.fail(key, value, "a number of minutes")
			return
		}
		if n > most {
			c.warn(key, fmt.Sprintf("is longer than what is possible here; %s is %d minutes", name, most))
			n = most
		}
		c.set(name, fmt.Sprintf("%dm", n))
	}
}

// file is the path of a file that upstream names by a path or a file URL.
func file(value string) (string, bool) {
	if path, ok := strings.CutPrefix(value, "file://"); ok {
		return path, true
	}
	return value, !strings.Contains(value, "://")
}

const (
	notVerified  = "is about a platform whose evidence is not verified here yet; guests of it are refused"
	fixedTLS     = "has no counterpart: TLS 1.2 and 1.3 are served, with the ciphers and groups that Go chooses"
	ownSigner    = "has no counterpart: the trustee makes and rotates the key that signs tokens; verifiers get it from /.well-known/jwks.json"
	fixedClaims  = "has no counterpart: this claim of tokens is fixed"
	ownStorage   = "has no counterpart: all is kept sealed below --data; `nacre-trustee import --local-fs` takes over a LocalFs store"
	otherTokens  = "has no counterpart: only tokens of this trustee count, and their keys are its own"
	otherService = "has no counterpart: evidence is verified and appraised in this process"
)

// keys are those of spec/trustee.md §2 and §3.3, by their paths. A table named as a whole is converted as one.
var keys = map[string]keyed{
	"http_server.sockets": func(c *converter, key string, value any) {
		list, ok := texts(value)
		if !ok || len(list) == 0 {
			c.fail(key, value, "a list of addresses")
			return
		}
		c.set("listen", list[0])
		if len(list) > 1 {
			c.warn(key, "has several addresses; the trustee listens on one, the first")
		}
	},
	"http_server.insecure_http": flagged(func(c *converter, key string) {
		if c.dangerous(key, "administrators' tokens would travel in the clear") {
			c.set("unsafe-http", true)
		}
	}),
	"http_server.private_key": named("tls-key"),
	"http_server.certificate": named("tls-cert"),
	"http_server.payload_request_size": func(c *converter, key string, value any) {
		if n, ok := value.(int64); ok && n >= 1 && n <= 1<<20 {
			c.set("body-limit", n<<20)
			return
		}
		c.fail(key, value, "a number of megabytes")
	},
	"http_server.worker_count":    ignored("has no counterpart: all processors are used; GOMAXPROCS in the environment bounds them"),
	"http_server.tls_profile":     ignored(fixedTLS),
	"http_server.tls_min_version": ignored(fixedTLS),
	"http_server.tls_max_version": ignored(fixedTLS),
	"http_server.tls_ciphers":     ignored(fixedTLS),
	"http_server.tls_groups":      ignored(fixedTLS),

	"attestation_token.trusted_jwk_sets":    ignored(otherTokens),
	"attestation_token.trusted_certs_paths": ignored(otherTokens),
	"attestation_token.extra_teekey_paths":  ignored(otherTokens),
	"attestation_token.insecure_header_jwk": flagged(func(c *converter, key string) {
		if c.dangerous(key, "tokens would be trusted by the key that they bring along; it is never done here, accept to go without") {
			c.warn(key, otherTokens)
		}
	}),

	"attestation_service.type": textual(func(c *converter, key, value string) {
		switch value {
		case "coco_as_builtin", "CoCoASBuiltIn":
		default:
			c.warn(key, otherService)
		}
	}),
	"attestation_service.timeout":                  minutes("session-lifetime", 60),
	"attestation_service.as_addr":                  ignored(otherService),
	"attestation_service.pool_size":                ignored(otherService),
	"attestation_service.base_url":                 ignored(otherService),
	"attestation_service.api_key":                  ignored(otherService),
	"attestation_service.certs_file":               ignored(otherService),
	"attestation_service.policy_ids":               ignored(otherService),
	"attestation_service.allow_unmatched_policy":   ignored(otherService),
	"attestation_service.storage_backend":          ignored(ownStorage),
	"attestation_service.rvps_config.type":         textual(builtinValues),
	"attestation_service.rvps_config.address":      ignored("has no counterpart: reference values are kept in this process; register them again, or import them"),
	"attestation_service.rvps_config.extractors":   ignored("has no counterpart: reference values are registered as values"),
	"attestation_service.rvps_config.storage_type": ignored(ownStorage),

	"attestation_service.attestation_token_broker.duration_min":   minutes("token-lifetime", 24*60),
	"attestation_service.attestation_token_broker.issuer_name":    ignored(fixedClaims),
	"attestation_service.attestation_token_broker.developer_name": ignored(fixedClaims),
	"attestation_service.attestation_token_broker.build_name":     ignored(fixedClaims),
	"attestation_service.attestation_token_broker.profile_name":   ignored(fixedClaims),
	"attestation_service.attestation_token_broker.verbose_token":  ignored(fixedClaims),
	"attestation_service.attestation_token_broker.signer":         ignored(ownSigner),

	"attestation_service.verifier_config.snp_verifier.vcek_sources": vcekSources,
	"attestation_service.verifier_config.nvidia_verifier":           ignored(notVerified),
	"attestation_service.verifier_config.dcap_verifier":             ignored(notVerified),
	"attestation_service.verifier_config.nvidia_dpu_verifier":       ignored(notVerified),
	"attestation_service.verifier_config.tpm_verifier":              ignored(notVerified),

	"admin.authorization_mode": textual(func(c *converter, key, value string) {
		switch value {
		case "AuthenticatedAuthorization":
		case "DenyAll":
			c.warn(key, "has no counterpart: there is always an administrator, whose key the first start writes to a file; throw it away to have none")
		case "InsecureAllowAll":
			if c.dangerous(key, "everybody would be an administrator; it is never so here, accept to use a key from now on") {
				c.warn(key, "has no counterpart: administrators show a token, signed with the key that the first start writes to a file")
			}
		default:
			c.fail(key, value, "AuthenticatedAuthorization, DenyAll or InsecureAllowAll")
		}
	}),
	"admin.type": textual(func(c *converter, key, value string) {
		switch value {
		case "DenyAll", "Simple":
			c.warn(key, "is of an older KBS; administrators show a token here")
		default:
			if c.dangerous(key, "everybody would be an administrator; it is never so here, accept to use a key from now on") {
				c.warn(key, "has no counterpart: administrators show a token here")
			}
		}
	}),
	"admin.insecure_api": flagged(func(c *converter, key string) {
		if c.dangerous(key, "everybody would be an administrator; it is never so here, accept to use a key from now on") {
			c.warn(key, "has no counterpart: administrators show a token here")
		}
	}),
	"admin.auth_public_key":                              textual(adminKey),
	"admin.authentication.bearer_jwt.identity_providers": identityProviders,
	"admin.authorization.regex_acl.acls":                 acls,

	"storage_backend.storage_type": textual(func(c *converter, key, _ string) { c.warn(key, ownStorage) }),
	"storage_backend.backends":     ignored(ownStorage),
	"session_storage_type":         ignored("has no counterpart: sessions travel sealed in the clients' cookies"),
	"plugins":                      plugins,
}

func builtinValues(c *converter, key, value string) {
	if value != "BuiltIn" {
		c.warn(key, "has no counterpart: reference values are kept in this process")
	}
}

func texts(value any) ([]string, bool) {
	list, ok := value.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, len(list))
	for i, v := range list {
		if out[i], ok = v.(string); !ok {
			return nil, false
		}
	}
	return out, true
}

// tables is an array of tables.
func tables(value any) ([]map[string]any, bool) {
	list, ok := value.([]any)
	if !ok {
		return nil, false
	}
	out := make([]map[string]any, len(list))
	for i, v := range list {
		if out[i], ok = v.(map[string]any); !ok {
			return nil, false
		}
	}
	return out, true
}

// vcekSources converts where certificates of AMD's chips come from. Here a directory is always looked at first.
func vcekSources(c *converter, key string, value any) {
	list, ok := tables(value)
	if !ok {
		c.fail(key, value, "a list of tables")
		return
	}
	online := false
	for i, source := range list {
		switch kind, _ := source["type"].(string); kind {
		case "KDS":
			online = true
			if url, ok := source["base_url"].(string); ok {
				c.set("kds-url", url)
			}
		case "OfflineStore":
			path, ok := source["path"].(string)
			if !ok {
				path = "/opt/confidential-containers/attestation-service/kds-store/vcek"
			}
			c.set("kds-store", path)
			if i > 0 {
				c.warn(key, "has the directory after the service; here the directory is looked at first")
			}
		default:
			c.warn(fmt.Sprintf("%s[%d].type", key, i), "is not known here; it is left out")
		}
	}
	if !online {
		c.set("kds-url", "")
	}
}

func adminKey(c *converter, key, value string) {
	path, ok := file(value)
	if !ok {
		c.warn(key, "is fetched from the network; here a public key is a file: save it and name it with --admin-public-key")
		return
	}
	c.set("admin-public-key", []string{path})
	c.warn(key, "must be an Ed25519 public key in PEM here")
}

// IdentityProvider is an identity provider of administrators' tokens, as a table of the configuration.
type IdentityProvider struct {
	Name              string   `toml:"name"`
	PublicKey         string   `toml:"public-key,omitempty"`
	JWKSet            string   `toml:"jwk-set,omitempty"`
	Issuer            string   `toml:"issuer,omitempty"`
	Audience          string   `toml:"audience,omitempty"`
	Roles             []string `toml:"roles,omitempty"`
	UnsafeAnyLifetime bool     `toml:"unsafe-any-lifetime,omitempty"`
}

// identityProviders converts those whose keys are in files. That their tokens may live as long as they say has to be
// accepted by name; else they are converted without.
func identityProviders(c *converter, key string, value any) {
	list, ok := tables(value)
	if !ok {
		c.fail(key, value, "a list of tables")
		return
	}
	anyLifetime := slices.Contains(c.accept, key)
	c.known[key] = anyLifetime
	for i, from := range list {
		here := fmt.Sprintf("%s[%d].", key, i)
		p := IdentityProvider{Name: fmt.Sprintf("provider-%d", i+1), UnsafeAnyLifetime: anyLifetime}
		for _, name := range slices.Sorted(maps.Keys(from)) {
			text, ok := from[name].(string)
			if !ok {
				c.fail(here+name, from[name], "a text")
				return
			}
			switch name {
			case "public_key_uri", "jwk_set_uri":
				path, ok := file(text)
				switch {
				case !ok:
					c.warn(here+name, "is fetched from the network; here keys are in files: save it and name the file in the "+
						"provider's public-key or jwk-set")
				case name == "jwk_set_uri":
					p.JWKSet = path
				default:
					p.PublicKey = path
				}
			case "audience":
				p.Audience = text
			case "issuer":
				p.Issuer = text
			default:
				c.warn(here+name, "is not a key of the KBS that is known here; it is left out")
			}
		}
		if p.PublicKey == "" && p.JWKSet == "" {
			c.warn(fmt.Sprintf("%s[%d]", key, i), "has no key in a file, so it is left out")
			continue
		}
		c.providers = append(c.providers, p)
	}
	if !anyLifetime && len(c.providers) > 0 {
		c.warn(key, "gives tokens of any life; here they may live for 5 minutes (admin-longest-lifetime) and need iat, "+
			"unless the provider has unsafe-any-lifetime: convert with --unsafe-accept "+key)
	}
}

// everything are the access rules that allow all.
var everything = []string{"^/kbs/.*$", "^/kbs/v0/.*$", "^/kbs.*$"}

// acls converts access rules: which roles identity providers' tokens may have. An administrator may do everything here,
// so one who might not needs to be accepted.
func acls(c *converter, key string, value any) {
	list, ok := tables(value)
	if !ok {
		c.fail(key, value, "a list of tables")
		return
	}
	if len(list) == 0 && !c.dangerous(key, "nobody may do anything; here the role admin may") {
		return
	}
	for i, rule := range list {
		role, _ := rule["role"].(string)
		allowed, _ := rule["allowed_endpoints"].(string)
		if !slices.Contains(everything, allowed) &&
			!c.dangerous(key, "a role may not do everything; here each administrator may") {
			return
		}
		if role == "" {
			c.fail(fmt.Sprintf("%s[%d].role", key, i), rule["role"], "a text")
			return
		}
		if role != "admin" && len(c.providers) == 0 { // providers' keys come before these
			c.warn(fmt.Sprintf("%s[%d].role", key, i), "is not admin, which is the one role that an owner's tokens have here")
		}
		if !slices.Contains(c.roles, role) {
			c.roles = append(c.roles, role)
		}
	}
}

func plugins(c *converter, key string, value any) {
	list, ok := tables(value)
	if !ok {
		c.fail(key, value, "a list of tables")
		return
	}
	for i, plugin := range list {
		name, ok := plugin["name"].(string)
		if !ok {
			c.err = errors.Join(c.err, fmt.Errorf("%s[%d] has no name", key, i))
			return
		}
		backend, _ := plugin["storage_backend_type"].(string)
		switch {
		case name != "resource":
			c.warn(fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("is the plugin %q, which there is not here; requests to it are answered with 404", name))
		case backend != "" && backend != "kvstorage":
			c.warn(fmt.Sprintf("%s[%d].storage_backend_type", key, i), "is a back end that there is not here: put its resources into this trustee")
		}
	}
}

// Format writes settings as this trustee's configuration file, with the warnings as comments.
func (c *Conversion) Format() ([]byte, error) {
	var out strings.Builder
	for _, w := range c.Warnings {
		fmt.Fprintf(&out, "# %s\n", w)
	}
	for _, s := range c.Settings {
		// Tables inline, so that settings may follow them.
		err := toml.NewEncoder(&out).SetTablesInline(true).Encode(map[string]any{s.Name: s.Value})
		if err != nil {
			return nil, fmt.Errorf("write the setting %s: %w", s.Name, err)
		}
	}
	return []byte(out.String()), nil
}
