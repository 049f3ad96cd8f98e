// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// DefaultPlugin is the plugin that a URI without one means.
const DefaultPlugin = "resource"

// Caps on a resource URI: characters altogether, segments, query parameters.
const (
	maxURILength      = 2048
	maxURISegments    = 32
	maxURIQueryValues = 32
)

// ResourceURI names a resource of a broker: kbs[+plugin]://[host[:port]]/segment[/segment…][?query].
//
// The host is no part of the name. A guest asks the broker that its measured configuration names, whatever the URI
// says, as stock guests do.
type ResourceURI struct {
	Plugin string     // "" is DefaultPlugin
	Path   []string   // at least one segment; the resource plugin's are repository, type, tag
	Query  url.Values // at most one value a name
}

// ParseResourceURI reads a resource URI. Segments have the characters of [ValidPath]; nothing is percent-decoded.
func ParseResourceURI(text string) (ResourceURI, error) {
	u, err := parseResourceURI(text)
	if err != nil {
		return ResourceURI{}, fmt.Errorf("resource URI %q: %w", clip(text), err)
	}
	return u, nil
}

func parseResourceURI(text string) (ResourceURI, error) {
	if len(text) > maxURILength {
		return ResourceURI{}, fmt.Errorf("%d characters, at most %d are allowed", len(text), maxURILength)
	}
	scheme, rest, found := strings.Cut(text, "://")
	kbs, plugin, hasPlugin := strings.Cut(scheme, "+")
	if !found || kbs != "kbs" {
		return ResourceURI{}, errors.New("scheme must be kbs or kbs+<plugin>")
	}
	if hasPlugin && plugin == "" {
		return ResourceURI{}, errors.New("scheme kbs+ requires a plugin name, such as kbs+resource")
	}
	u := ResourceURI{Plugin: DefaultPlugin}
	if hasPlugin {
		u.Plugin = plugin
	}
	if strings.Contains(rest, "#") {
		return ResourceURI{}, errors.New("a fragment (#) has no meaning here")
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	host, path, found := strings.Cut(rest, "/")
	if !found || path == "" {
		return ResourceURI{}, errors.New("no path: want kbs:///repository/type/tag")
	}
	if err := validHost(host); err != nil {
		return ResourceURI{}, err
	}
	u.Path = strings.Split(path, "/")
	if hasQuery {
		var err error
		if u.Query, err = url.ParseQuery(query); err != nil {
			return ResourceURI{}, err
		}
	}
	return u, u.Validate()
}

func validHost(host string) error {
	for i := range len(host) {
		if c := host[i]; !alphanumeric(c) && !strings.ContainsRune("-._:[]", rune(c)) {
			return fmt.Errorf("%q is not a host", clip(host))
		}
	}
	return nil
}

// Validate says whether the parts make a URI that [ParseResourceURI] would accept.
func (u ResourceURI) Validate() error {
	if u.Plugin != "" && !validSegment(u.Plugin) {
		return fmt.Errorf("%q is not a plugin name", clip(u.Plugin))
	}
	if len(u.Path) == 0 || len(u.Path) > maxURISegments {
		return fmt.Errorf("a path of %d segments, want 1 to %d", len(u.Path), maxURISegments)
	}
	for _, segment := range u.Path {
		if !validSegment(segment) {
			return badSegment(segment)
		}
	}
	if len(u.Query) > maxURIQueryValues {
		return fmt.Errorf("%d query parameters, at most %d are allowed", len(u.Query), maxURIQueryValues)
	}
	for name, values := range u.Query {
		if name == "" || len(values) != 1 { // brokers keep one value, and which one differs
			return fmt.Errorf("query parameter %q has %d values, want one", clip(name), len(values))
		}
	}
	if n := len(u.format()); n > maxURILength {
		return fmt.Errorf("%d characters, at most %d are allowed", n, maxURILength)
	}
	return nil
}

// String is the canonical form: no host, and kbs:// for the default plugin.
func (u ResourceURI) String() string { return u.format() }

func (u ResourceURI) format() string {
	scheme := "kbs"
	if u.Plugin != "" && u.Plugin != DefaultPlugin {
		scheme += "+" + u.Plugin
	}
	return scheme + ":///" + strings.Join(u.Path, "/") + u.query()
}

// RequestPath is the path and query of the request for the resource, below the broker's address.
func (u ResourceURI) RequestPath() string {
	plugin := u.Plugin
	if plugin == "" {
		plugin = DefaultPlugin
	}
	return apiPrefix + plugin + "/" + strings.Join(u.Path, "/") + u.query()
}

func (u ResourceURI) query() string {
	if len(u.Query) == 0 {
		return ""
	}
	return "?" + u.Query.Encode()
}

// ValidPath says whether path names a resource of the resource plugin: three segments, repository, type and tag,
// each of letters, digits, "-", "_" and, but not first, ".".
func ValidPath(path []string) error {
	if len(path) != 3 {
		return fmt.Errorf("resource path %q: want three segments, repository/type/tag", clip(strings.Join(path, "/")))
	}
	total := 0
	for _, segment := range path {
		if !validSegment(segment) {
			return fmt.Errorf("resource path %q: %w", clip(strings.Join(path, "/")), badSegment(segment))
		}
		total += len(segment)
	}
	if total > maxURILength/2 {
		return fmt.Errorf("resource path %q: longer than %d characters", clip(strings.Join(path, "/")), maxURILength/2)
	}
	return nil
}

func badSegment(segment string) error {
	return fmt.Errorf(`segment %q: want letters, digits, "-", "_" and, but not first, "."`, clip(segment))
}

// validSegment is [a-zA-Z0-9_\-]+[a-zA-Z0-9_\-\.]*, which excludes "", "." and "..".
func validSegment(segment string) bool {
	for i := range len(segment) {
		if c := segment[i]; !alphanumeric(c) && c != '-' && c != '_' && (c != '.' || i == 0) {
			return false
		}
	}
	return segment != ""
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
