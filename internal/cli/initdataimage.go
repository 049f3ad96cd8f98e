// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"github.com/nacre-project/nacre/kbs"
)

// imageFlags say how the guest gets its images: from where, with which credentials, and which it may run.
type imageFlags struct {
	policy, registries string // a file, whose text is measured with the init-data, or a kbs:/// URI
	credentials        string // a kbs:/// URI
	roots              []string
}

// imageConfig is the table [image] of cdh.toml, by upstream's keys.
type imageConfig struct {
	Policy         string         `toml:"image_security_policy,multiline,omitempty"`
	PolicyURI      string         `toml:"image_security_policy_uri,omitempty"`
	Registries     map[string]any `toml:"registry_config,omitempty"`
	RegistriesURI  string         `toml:"registry_configuration_uri,omitempty"`
	CredentialsURI string         `toml:"authenticated_registry_credentials_uri,omitempty"`
	Roots          []string       `toml:"extra_root_certificates,multiline,omitempty"`
}

func (i *imageFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&i.policy, "image-policy", "", "run images only as this policy.json says (signatures): a file, or kbs:///repository/type/tag")
	f.StringVar(&i.registries, "registries", "", "where images are fetched from, as in registries.conf: a file, or kbs:///repository/type/tag")
	f.StringVar(&i.credentials, "registry-credentials", "",
		"the auth.json for registries: kbs:///repository/type/tag (init-data is public, so no file)")
	f.StringArrayVar(&i.roots, "registry-root", nil, "trust this certificate authority for registries, too: a PEM file (repeatable)")
}

// config is nil when no flag was given.
func (i *imageFlags) config() (*imageConfig, error) {
	if i.policy == "" && i.registries == "" && i.credentials == "" && len(i.roots) == 0 {
		return nil, nil
	}
	c := &imageConfig{CredentialsURI: i.credentials}
	if c.CredentialsURI != "" {
		if _, err := kbs.ParseResourceURI(c.CredentialsURI); err != nil {
			return nil, fmt.Errorf("--registry-credentials: %w; put the auth.json into the trustee with `nacre secret put`", err)
		}
	}
	policy, err := textOrURI("--image-policy", i.policy, &c.PolicyURI)
	if err != nil {
		return nil, err
	}
	if len(policy) > 0 && !json.Valid(policy) {
		return nil, fmt.Errorf("--image-policy: %s is not JSON", i.policy)
	}
	c.Policy = string(policy)
	registries, err := textOrURI("--registries", i.registries, &c.RegistriesURI)
	if err != nil {
		return nil, err
	}
	if err := toml.Unmarshal(registries, &c.Registries); err != nil {
		return nil, fmt.Errorf("--registries: %s: %w", i.registries, err)
	}
	for _, path := range i.roots {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--registry-root: %w", err)
		}
		c.Roots = append(c.Roots, string(text))
	}
	return c, nil
}

// textOrURI is the text of a file, or sets uri where a resource is named instead.
func textOrURI(flag, named string, uri *string) ([]byte, error) {
	if named == "" {
		return nil, nil
	}
	if strings.HasPrefix(named, "kbs") && strings.Contains(named, "://") {
		if _, err := kbs.ParseResourceURI(named); err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		*uri = named
		return nil, nil
	}
	text, err := os.ReadFile(named)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("%s: %w", flag, errors.New(named+" is empty"))
	}
	return text, nil
}
