// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Caps on a registry configuration.
const (
	maxRegistriesText = 1 << 20
	maxRules          = 256
	maxMirrors        = 16
	maxSearch         = 16
)

const (
	dockerName = "docker.io"       // as names say it
	dockerHost = "index.docker.io" // as the network does
)

// registries says where images are fetched from: the part of containers-registries.conf(5) that concerns images which
// are named by their digest. What comes from a mirror is verified like all else, so a mirror needs no trust.
type registries struct {
	search []string // registries for names that have none
	rules  []rule
}

type rule struct {
	prefix            string // host[:port][/path], or *.domain[:port]
	location          string // host[:port][/path] instead of the prefix; "" is the name as it is
	insecure, blocked bool
	mirrors           []mirror
}

type mirror struct {
	location string
	insecure bool
}

// endpoint is one place to fetch an image from.
type endpoint struct {
	registry   string // host[:port]
	repository string
	insecure   bool // speaks plain HTTP, as its owner says
}

var (
	hostName = regexp.MustCompile(`^(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)(:[0-9]{1,5})?$`)
	// defaultRegistries is what holds without a configuration.
	defaultRegistries = registries{search: []string{dockerName}}
)

// parseRegistries parses a registry configuration. It is strict: a rule with a word misspelt would not block what its
// author wanted blocked.
func parseRegistries(text []byte) (*registries, error) {
	r, err := readRegistries(text)
	if err != nil {
		return nil, failed(CodeSettingsInvalid, err, "the registry configuration")
	}
	return r, nil
}

func readRegistries(text []byte) (*registries, error) {
	if len(text) > maxRegistriesText {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), maxRegistriesText)
	}
	var file struct {
		Search        *[]string `toml:"unqualified-search-registries"`
		ShortNameMode string    `toml:"short-name-mode"` // nobody could be asked
		Rules         []struct {
			Prefix       string `toml:"prefix"`
			Location     string `toml:"location"`
			Insecure     bool   `toml:"insecure"`
			Blocked      bool   `toml:"blocked"`
			ByDigestOnly bool   `toml:"mirror-by-digest-only"` // as all is here
			Mirrors      []struct {
				Location string `toml:"location"`
				Insecure bool   `toml:"insecure"`
				For      string `toml:"pull-from-mirror"`
			} `toml:"mirror"`
		} `toml:"registry"`
	}
	decoder := toml.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	r := defaultRegistries
	if file.Search != nil {
		r.search = slices.Clone(*file.Search)
	}
	if len(r.search) > maxSearch || len(file.Rules) > maxRules {
		return nil, fmt.Errorf("%d registries to search and %d rules, more than %d and %d",
			len(r.search), len(file.Rules), maxSearch, maxRules)
	}
	for _, host := range r.search {
		if !hostName.MatchString(host) {
			return nil, fmt.Errorf("unqualified-search-registries: %q is not host[:port]", host)
		}
	}
	for i, f := range file.Rules {
		one := rule{prefix: f.Prefix, location: f.Location, insecure: f.Insecure, blocked: f.Blocked}
		if one.prefix == "" {
			one.prefix = one.location
		}
		if len(f.Mirrors) > maxMirrors {
			return nil, fmt.Errorf("registry %q has %d mirrors, more than %d", one.prefix, len(f.Mirrors), maxMirrors)
		}
		for _, m := range f.Mirrors {
			switch m.For {
			case "", "all", "digest-only":
				one.mirrors = append(one.mirrors, mirror{m.Location, m.Insecure})
			case "tag-only":
			default:
				return nil, fmt.Errorf("mirror %q: pull-from-mirror %q is not known", m.Location, m.For)
			}
		}
		if err := one.check(); err != nil {
			return nil, fmt.Errorf("registry %d: %w", i+1, err)
		}
		one.prefix = canonical(one.prefix)
		if slices.ContainsFunc(r.rules, func(other rule) bool { return other.prefix == one.prefix }) {
			return nil, fmt.Errorf("two registries have the prefix %q", one.prefix)
		}
		r.rules = append(r.rules, one)
	}
	return &r, nil
}

func (r *rule) check() error {
	domain, wild := strings.CutPrefix(r.prefix, "*.")
	switch {
	case wild && !hostName.MatchString(domain):
		return fmt.Errorf("prefix %q: a wildcard stands before a domain and nothing else, as in *.example.com", r.prefix)
	case wild && r.location == "" && !r.blocked && len(r.mirrors) == 0:
		return fmt.Errorf("prefix %q is a wildcard and has no location", r.prefix)
	case !wild && !isLocation(r.prefix):
		return fmt.Errorf("prefix %q is not host[:port][/path]; tags and digests have no place in it", r.prefix)
	case r.location != "" && !isLocation(r.location):
		return fmt.Errorf("location %q is not host[:port][/path]", r.location)
	}
	for _, m := range r.mirrors {
		if !isLocation(m.location) {
			return fmt.Errorf("mirror location %q is not host[:port][/path]", m.location)
		}
	}
	return nil
}

func isLocation(text string) bool {
	host, path, hasPath := strings.Cut(text, "/")
	return hostName.MatchString(host) && (!hasPath || repositoryName.MatchString(path))
}

// canonical writes the host of a name or prefix as all its other spellings would be: a rule that blocks a registry
// blocks it under each.
func canonical(name string) string {
	host, path, hasPath := strings.Cut(name, "/")
	host = strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), ":443"), ".")
	if host == dockerHost || host == "registry-1.docker.io" {
		host = dockerName
	}
	if !hasPath {
		return host
	}
	return host + "/" + path
}

// match returns what follows the rule's prefix in a canonical name. Components match whole: example.com/a is no prefix
// of example.com/ab, nor example.com of example.com:5000 or of evil.com/example.com.
func (r *rule) match(name string) (rest string, ok bool) {
	if suffix, wild := strings.CutPrefix(r.prefix, "*"); wild {
		host, _, _ := strings.Cut(name, "/")
		return name[len(host):], strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	rest, ok = strings.CutPrefix(name, r.prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// weight ranks rules: a longer prefix is more specific, and a wildcard's asterisk counts for nothing.
func (r *rule) weight() int { return len(strings.TrimPrefix(r.prefix, "*")) }

// find returns the rule with the longest prefix that matches, or nil.
func (r *registries) find(name string) (found *rule, rest string) {
	for i := range r.rules {
		after, ok := r.rules[i].match(name)
		if ok && (found == nil || r.rules[i].weight() > found.weight()) {
			found, rest = &r.rules[i], after
		}
	}
	return found, rest
}

// endpoints returns where an image is to be asked for, in this order.
func (r *registries) endpoints(ref reference) ([]endpoint, error) {
	names := []string{ref.registry + "/" + ref.repository}
	if ref.unqualified {
		names = nil
		for _, host := range r.search {
			repository := ref.repository
			if canonical(host) != dockerName {
				repository = strings.TrimPrefix(repository, "library/")
			}
			names = append(names, host+"/"+repository)
		}
		if len(names) == 0 {
			return nil, refuse(CodeReferenceInvalid, "%q names no registry, and the configuration has none to search", ref.text)
		}
	}
	var all []endpoint
	blocked := false
	for _, name := range names {
		found, rest := r.find(canonical(name))
		switch {
		case found == nil:
			all = append(all, at(name, false))
		case found.blocked:
			blocked = true
		default:
			for _, m := range found.mirrors {
				all = append(all, at(m.location+rest, m.insecure))
			}
			if found.location != "" {
				name = found.location + rest
			}
			all = append(all, at(name, found.insecure))
		}
	}
	if len(all) == 0 && blocked {
		return nil, refuse(CodeBlocked, "%s: the registry configuration blocks it", ref.text)
	}
	for _, e := range all {
		if !repositoryName.MatchString(e.repository) {
			return nil, refuse(CodeSettingsInvalid, "%s is rewritten to %s/%s, which names no repository",
				ref.text, e.registry, e.repository)
		}
	}
	return all, nil
}

func at(name string, insecure bool) endpoint {
	host, repository, _ := strings.Cut(name, "/")
	if canonical(host) == dockerName {
		host = dockerHost
	}
	return endpoint{host, repository, insecure}
}
