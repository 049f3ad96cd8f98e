// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/sealed"
)

// maxConfig caps the text of cdh.toml. The init-data that carries it is capped as a whole.
const maxConfig = 1 << 20

// Caps on what [image] may say.
const (
	maxRoots    = 64
	maxParallel = 16
)

// Config is what cdh.toml says. The zero value names no broker, and pulls images with the defaults.
type Config struct {
	// Broker is how to reach the broker; its URL is "" when there is none.
	Broker kbs.ClientConfig
	Image  Image
	// Sealed says whose sealed secrets are opened; the zero value opens none.
	Sealed sealed.Pins
}

// Image is how images are pulled.
type Image struct {
	ExtraRoots []string // PEM
	HTTPSProxy string
	HTTPProxy  string
	NoProxy    string
	Parallel   int // layers at a time; 0 is the default
}

// demands are keys of the stock hub's that ask for a protection, or for a credential, which this version does not
// give. A pod whose owner asked for one must not run as if he had got it.
var demands = []string{
	"credentials", // [[credentials]]: resources written to files before the pod starts
	"image.image_security_policy", "image.image_security_policy_uri",
	"image.sigstore_config", "image.sigstore_config_uri",
	"image.authenticated_registry_credentials_uri",
	"image.registry_config", "image.registry_configuration_uri",
}

// ParseConfig parses cdh.toml by the stock hub's keys. Keys that are not known are skipped, as the stock hub does;
// those that are known and not supported are refused. unsafe_http is ours: the stock hub takes any http:// URL.
func ParseConfig(text []byte) (Config, error) {
	config, err := parseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("cdh.toml: %w", err)
	}
	return config, nil
}

func parseConfig(text []byte) (Config, error) {
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("%d bytes, more than %d", len(text), maxConfig)
	}
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		return Config{}, err
	}
	for _, key := range demands {
		if present(all, strings.Split(key, ".")) {
			return Config{}, fmt.Errorf("%s is set, and not supported: the pod would run without what it asks for", key)
		}
	}
	var file struct {
		KBC *struct {
			Name       string `toml:"name"`
			URL        string `toml:"url"`
			Cert       string `toml:"kbs_cert"`
			UnsafeHTTP bool   `toml:"unsafe_http"`
		} `toml:"kbc"`
		Image struct {
			ExtraRoots []string `toml:"extra_root_certificates"`
			Parallel   int      `toml:"max_concurrent_layer_downloads_per_image"`
			Proxy      struct {
				HTTPS   string `toml:"https_proxy"`
				HTTP    string `toml:"http_proxy"`
				NoProxy string `toml:"no_proxy"`
			} `toml:"image_pull_proxy"`
		} `toml:"image"`
	}
	if err := toml.Unmarshal(text, &file); err != nil {
		return Config{}, err
	}
	config := Config{Image: Image{
		ExtraRoots: slices.Clone(file.Image.ExtraRoots),
		HTTPSProxy: file.Image.Proxy.HTTPS,
		HTTPProxy:  file.Image.Proxy.HTTP,
		NoProxy:    file.Image.Proxy.NoProxy,
		Parallel:   file.Image.Parallel,
	}}
	if n := len(config.Image.ExtraRoots); n > maxRoots {
		return Config{}, fmt.Errorf("%d extra_root_certificates, more than %d", n, maxRoots)
	}
	if n := config.Image.Parallel; n < 0 || n > maxParallel {
		return Config{}, fmt.Errorf("max_concurrent_layer_downloads_per_image is %d, want 1 to %d", n, maxParallel)
	}
	if kbc := file.KBC; kbc != nil {
		if kbc.Name != "cc_kbc" {
			return Config{}, fmt.Errorf(`[kbc] name is %q; the one kind of broker that is supported is "cc_kbc"`, kbc.Name)
		}
		if kbc.URL == "" {
			return Config{}, errors.New("[kbc] has no url")
		}
		config.Broker = kbs.ClientConfig{URL: kbc.URL, PinnedCert: []byte(kbc.Cert), UnsafeHTTP: kbc.UnsafeHTTP}
	}
	var err error
	if config.Sealed, err = parseSealed(text); err != nil {
		return Config{}, err
	}
	return config, nil
}

// present says whether a dotted key has a value.
func present(table map[string]any, key []string) bool {
	value, ok := table[key[0]]
	if !ok || len(key) == 1 {
		return ok
	}
	inner, ok := value.(map[string]any)
	return ok && present(inner, key[1:])
}
