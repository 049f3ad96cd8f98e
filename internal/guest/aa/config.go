// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"

	"github.com/nacre-project/nacre/kbs"
)

// maxConfig caps the text of aa.toml. The init-data that carries it is capped as a whole.
const maxConfig = 1 << 20

// Config is what aa.toml says. The zero value names no broker.
type Config struct {
	// Broker is how to reach the broker; its URL is "" when there is none.
	Broker kbs.ClientConfig
	// KeyAlgorithm is the kind of TEE key; "" is kbs.ECDHP256.
	KeyAlgorithm kbs.Algorithm
	// EventLog says that the owner wants runtime measurements. No platform here has any yet; who asks is told so.
	EventLog bool
}

// ParseConfig parses aa.toml by the stock agent's keys. Keys that are not known are skipped, as the stock agent does.
// unsafe_http is ours: the stock agent takes any http:// URL.
func ParseConfig(text []byte) (Config, error) {
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("aa.toml: %d bytes, more than %d", len(text), maxConfig)
	}
	var file struct {
		TokenConfigs struct {
			KBS *struct {
				URL             string        `toml:"url"`
				Cert            string        `toml:"cert"`
				TEEKeyAlgorithm kbs.Algorithm `toml:"tee_key_algorithm"`
				UnsafeHTTP      bool          `toml:"unsafe_http"`
			} `toml:"kbs"`
		} `toml:"token_configs"`
		EventlogConfig struct {
			EnableEventlog bool `toml:"enable_eventlog"`
		} `toml:"eventlog_config"`
	}
	if err := toml.Unmarshal(text, &file); err != nil {
		return Config{}, fmt.Errorf("aa.toml: %w", err)
	}
	config := Config{EventLog: file.EventlogConfig.EnableEventlog}
	broker := file.TokenConfigs.KBS
	if broker == nil {
		return config, nil
	}
	if broker.URL == "" {
		return Config{}, errors.New("aa.toml: [token_configs.kbs] has no url")
	}
	switch broker.TEEKeyAlgorithm {
	case "", kbs.ECDHP256, kbs.ECDHP521, kbs.RSAOAEP256:
	default:
		return Config{}, fmt.Errorf("aa.toml: tee_key_algorithm %q is not known, want %s, %s or %s",
			broker.TEEKeyAlgorithm, kbs.ECDHP256, kbs.ECDHP521, kbs.RSAOAEP256)
	}
	config.KeyAlgorithm = broker.TEEKeyAlgorithm
	config.Broker = kbs.ClientConfig{URL: broker.URL, PinnedCert: []byte(broker.Cert), UnsafeHTTP: broker.UnsafeHTTP}
	return config, nil
}
