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

	Registries  Text // where images are fetched from; TOML
	Credentials Text // what registries are shown; an auth.json
	Policy      Text // which images may run; a policy.json
	Signatures  Text // where simple signatures are; YAML as in containers-registries.d(5)
}

// Text stands in the configuration itself, or is a resource of the trustee. At most one of the two is set.
type Text struct {
	Inline string
	URI    string // kbs:///…
}

// demands are keys of the stock hub's that ask for a protection, or for a credential, which this version does not
// give. A pod whose owner asked for one must not run as if he had got it.
var demands = []string{
	"credentials", // [[credentials]]: resources written to files before the pod starts
}

// ParseConfig parses cdh.toml by the stock hub's keys. Keys that are not known are skipped, as the stock hub does;
// those that are known and not supported are refused. unsafe_http is ours: the stock hub takes any http:// URL. So is
// unsafe_authenticated_registry_credentials, the auth.json itself: it is as public as all of the init-data, which the host
// hands over.
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
			imageTexts
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
	if image, ok := all["image"].(map[string]any); ok {
		for key, value := range image {
			if value == "" { // a policy of nothing must not pass for none
				return Config{}, fmt.Errorf("[image] %s is empty: leave it out if there is to be none", key)
			}
		}
	}
	if err := file.Image.read(&config.Image); err != nil {
		return Config{}, err
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

// imageTexts are the keys of [image] that say a thing themselves or name a resource that does.
type imageTexts struct {
	Policy         string         `toml:"image_security_policy"`
	PolicyURI      string         `toml:"image_security_policy_uri"`
	Signatures     string         `toml:"sigstore_config"`
	SignaturesURI  string         `toml:"sigstore_config_uri"`
	Credentials    string         `toml:"unsafe_authenticated_registry_credentials"`
	CredentialsURI string         `toml:"authenticated_registry_credentials_uri"`
	Registries     map[string]any `toml:"registry_config"`
	RegistriesURI  string         `toml:"registry_configuration_uri"`
}

// read sets what the keys say. Where both are there, the one counts that counts for the stock hub: the URI, and of the
// registry configuration the table.
func (t imageTexts) read(image *Image) error {
	image.Policy = either(t.PolicyURI, t.Policy)
	image.Signatures = either(t.SignaturesURI, t.Signatures)
	image.Credentials = either(t.CredentialsURI, t.Credentials)
	image.Registries = either(t.RegistriesURI, "")
	if t.Registries != nil {
		table, err := toml.Marshal(t.Registries)
		if err != nil {
			return fmt.Errorf("registry_config: %w", err)
		}
		// An empty table is a configuration too: the default one.
		image.Registries = Text{Inline: "# registry_config\n" + string(table)}
	}
	for key, uri := range map[string]string{
		"image_security_policy_uri": image.Policy.URI, "sigstore_config_uri": image.Signatures.URI,
		"authenticated_registry_credentials_uri": image.Credentials.URI, "registry_configuration_uri": image.Registries.URI,
	} {
		if uri == "" {
			continue
		}
		if _, err := kbs.ParseResourceURI(uri); err != nil {
			return fmt.Errorf("%s: a file's place is not looked at, only the trustee is: %w", key, err)
		}
	}
	return nil
}

func either(uri, inline string) Text {
	if uri != "" {
		inline = ""
	}
	return Text{inline, uri}
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
