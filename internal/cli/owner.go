// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/kbs"
)

// adminAudience is whom an administrator's token is for, and adminTokenLifetime how long one lives: each request gets its own.
const (
	adminAudience      = "nacre-trustee"
	adminRole          = "admin"
	adminTokenLifetime = time.Minute
)

// owner is the context of the commands that speak to a trustee: from flags, else the environment, else the configuration file, else the
// places where the trustee's first start on the same machine puts things.
type owner struct {
	url, cert, key string
}

// ownerConfig is $XDG_CONFIG_HOME/nacre/config.toml.
type ownerConfig struct {
	Trustee  string `toml:"trustee"`      // https://host:port
	Cert     string `toml:"trustee_cert"` // path of the trustee's certificate, PEM; it is pinned
	AdminKey string `toml:"admin_key"`    // path of the owner's private key, PEM
}

func (o *owner) flags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&o.url, "trustee", "", "URL of the trustee (or NACRE_TRUSTEE, or trustee in config.toml)")
	f.StringVar(&o.cert, "trustee-cert", "", "the trustee's certificate, PEM, to pin (or NACRE_TRUSTEE_CERT, or trustee_cert)")
	f.StringVar(&o.key, "admin-key", "", "the owner's private key (or NACRE_ADMIN_KEY, or admin_key)")
}

// resolve fills in what the flags left open.
func (o *owner) resolve() (ownerConfig, error) {
	dir, err := configDir()
	if err != nil {
		return ownerConfig{}, err
	}
	path := filepath.Join(dir, "config.toml")
	var file ownerConfig
	text, err := os.ReadFile(path)
	if err == nil {
		err = toml.Unmarshal(text, &file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ownerConfig{}, fmt.Errorf("reading %s: %w", path, err)
	}
	c := ownerConfig{
		Trustee:  cmp.Or(o.url, os.Getenv("NACRE_TRUSTEE"), file.Trustee, "https://127.0.0.1:8080"),
		Cert:     cmp.Or(o.cert, os.Getenv("NACRE_TRUSTEE_CERT"), file.Cert),
		AdminKey: cmp.Or(o.key, os.Getenv("NACRE_ADMIN_KEY"), file.AdminKey, filepath.Join(dir, "admin.key")),
	}
	return c, nil
}

// pinned reads the trustee's certificate; nil when none is configured, which means the system's roots.
func (c ownerConfig) pinned() ([]byte, error) {
	if c.Cert == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("reading the trustee's certificate: %w; the trustee prints its path when it starts", err)
	}
	return text, nil
}

// admin makes the client of the trustee's administration.
func (o *owner) admin() (*kbs.Admin, error) {
	c, err := o.resolve()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(c.AdminKey)
	if err != nil {
		return nil, fmt.Errorf("reading the owner's key: %w; the trustee's first start makes it and says where: name it with --admin-key", err)
	}
	key, err := kbs.ParseAdminKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.AdminKey, err)
	}
	cert, err := c.pinned()
	if err != nil {
		return nil, err
	}
	return kbs.NewAdmin(kbs.ClientConfig{URL: c.Trustee, PinnedCert: cert, Attempts: 2}, func() (string, error) {
		return key.Token(time.Now(), adminTokenLifetime, adminAudience, adminRole)
	})
}

// with runs what a command does with the trustee.
func (o *owner) with(do func(c *cobra.Command, a *kbs.Admin, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		a, err := o.admin()
		if err != nil {
			return err
		}
		defer a.Close()
		return do(c, a, args)
	}
}
