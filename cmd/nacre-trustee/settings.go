// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/nacre-project/nacre/attest/collateral"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/refvalue"
)

// settings are what an operator chooses. The configuration file has them by the flags' names; a flag overrides the
// file.
type settings struct {
	Config  string `toml:"-"`
	Version bool   `toml:"-"`

	Listen  string `toml:"listen"`
	Data    string `toml:"data"`
	KeyFile string `toml:"key-file"`
	JSON    bool   `toml:"json"`

	CPUProfile string `toml:"cpu-profile"`

	TLSCert string `toml:"tls-cert"`
	TLSKey  string `toml:"tls-key"`
	TLSName list   `toml:"tls-name"`

	AdminKeyOut          string   `toml:"admin-key-out"`
	AdminPublicKey       list     `toml:"admin-public-key"`
	AdminAudience        string   `toml:"admin-audience"`
	AdminLongestLifetime duration `toml:"admin-longest-lifetime"`

	AdminIdentityProvider providers `toml:"admin-identity-provider"`

	KDSURL   string `toml:"kds-url"`
	KDSStore string `toml:"kds-store"`

	SessionLifetime        duration `toml:"session-lifetime"`
	TokenLifetime          duration `toml:"token-lifetime"`
	ReferenceValueLifetime duration `toml:"reference-value-lifetime"`
	BodyLimit              int64    `toml:"body-limit"`
	MaxAttests             int      `toml:"max-attests"`
	MaxConnections         int      `toml:"max-connections"`
	MaxConnectionsEach     int      `toml:"max-connections-per-client"`
	MaxRequests            int      `toml:"max-requests"`
	MaxBodyMemory          int64    `toml:"max-body-memory"`
	RefusalsPerSecond      int      `toml:"refusals-per-second"`
	RefusalBurst           int      `toml:"refusal-burst"`
	TrustedProxy           list     `toml:"trusted-proxy"`
	DrainDelay             duration `toml:"drain-delay"`
	DrainTimeout           duration `toml:"drain-timeout"`
	TokenKeyLifetime       duration `toml:"token-key-lifetime"`

	ReleasePolicy            string `toml:"release-policy"`
	AppraisalPolicy          string `toml:"appraisal-policy"`
	ReleaseAllowSimulated    bool   `toml:"release-allow-simulated"`
	ReleaseUnsafeAnyInitData bool   `toml:"release-unsafe-any-initdata"`

	AllowSimulatedRoot  list `toml:"allow-simulated-root"`
	UnsafeAllowDebug    bool `toml:"unsafe-allow-debug"`
	UnsafeHTTP          bool `toml:"unsafe-http"`
	UnsafeKeyBesideData bool `toml:"unsafe-key-beside-data"`

	// again reads the settings once more, from where they came.
	again func() (*settings, error)
}

// defaultMaxConnections is far more than guests need, and keeps memory and file descriptors within bounds.
const defaultMaxConnections = 4096

// defaultDrainTimeout is how long requests under way may take once the trustee is told to end.
const defaultDrainTimeout = 20 * time.Second

// defaultTokenKeyLifetime is how long one key signs tokens.
const defaultTokenKeyLifetime = 30 * 24 * time.Hour

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ", ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// duration is a time such as "5m" in flags and in the file.
type duration time.Duration

func (d *duration) String() string               { return time.Duration(*d).String() }
func (d *duration) Set(s string) error           { return d.UnmarshalText([]byte(s)) }
func (d *duration) UnmarshalText(b []byte) error { return d.parse(string(b)) }

func (d *duration) parse(s string) error {
	parsed, err := time.ParseDuration(s)
	if err == nil && parsed <= 0 {
		err = errors.New("it must be longer than nothing")
	}
	*d = duration(parsed)
	return err
}

// defaults are the settings when nothing else is said.
func defaults(getenv func(string) string) settings {
	home := cmp.Or(getenv("HOME"), ".")
	config := filepath.Join(cmp.Or(getenv("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), "nacre")
	state := filepath.Join(cmp.Or(getenv("XDG_STATE_HOME"), filepath.Join(home, ".local", "state")), "nacre")
	return settings{
		Listen:                 "127.0.0.1:8080",
		Data:                   filepath.Join(state, "trustee"),
		KeyFile:                filepath.Join(config, "trustee.key"),
		AdminKeyOut:            filepath.Join(config, "admin.key"),
		AdminAudience:          admin.DefaultAudience,
		AdminLongestLifetime:   duration(admin.DefaultLongestLifetime),
		KDSURL:                 collateral.AMDKeyDistributionService,
		SessionLifetime:        duration(broker.DefaultSessionLifetime),
		TokenLifetime:          duration(broker.DefaultTokenLifetime),
		ReferenceValueLifetime: duration(refvalue.DefaultLifetime),
		BodyLimit:              broker.DefaultBodyLimit,
		MaxAttests:             broker.DefaultMaxAttests,
		MaxConnections:         defaultMaxConnections,
		MaxRequests:            broker.DefaultMaxRequests,
		MaxBodyMemory:          broker.DefaultBodyMemory,
		RefusalsPerSecond:      broker.DefaultRefusalsPerSecond,
		RefusalBurst:           broker.DefaultRefusalBurst,
		DrainTimeout:           duration(defaultDrainTimeout),
		TokenKeyLifetime:       duration(defaultTokenKeyLifetime),
	}
}

func (s *settings) flags(out io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("nacre-trustee", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&s.Config, "config", s.Config, "read settings from this TOML `file`; its keys are the names of "+
		"these flags")
	f.BoolVar(&s.Version, "version", false, "print the version and end")
	f.StringVar(&s.Listen, "listen", s.Listen, "`address` to listen on; port 0 takes a free one")
	f.StringVar(&s.Data, "data", s.Data, "data `directory`")
	f.StringVar(&s.KeyFile, "key-file", s.KeyFile, "`file` of the key that seals the data; made at the first "+
		"start; not below --data")
	f.BoolVar(&s.JSON, "json", s.JSON, "print what happens at the start, and log, as lines of JSON")
	f.StringVar(&s.CPUProfile, "cpu-profile", s.CPUProfile,
		"write a CPU profile of the whole run to this `file`, for go tool pprof")
	f.StringVar(&s.TLSCert, "tls-cert", s.TLSCert, "PEM `file` of a certificate and its chain (default: one of "+
		"the trustee's own, to be pinned)")
	f.StringVar(&s.TLSKey, "tls-key", s.TLSKey, "PEM `file` of the certificate's key")
	f.Var(&s.TLSName, "tls-name", "`name` or address that the trustee's own certificate is also for, at the first "+
		"start (repeatable)")
	f.StringVar(&s.AdminKeyOut, "admin-key-out", s.AdminKeyOut,
		"`file` that the first start writes the owner's private key to")
	f.Var(&s.AdminPublicKey, "admin-public-key", "PEM `file` of an administrator's Ed25519 public key; no key is "+
		"made then (repeatable)")
	f.StringVar(&s.AdminAudience, "admin-audience", s.AdminAudience, "`aud` that administrators' tokens must have")
	f.Var(&s.AdminLongestLifetime, "admin-longest-lifetime", "longest `time` from iat to exp of administrators' tokens")
	f.Var(&s.AdminIdentityProvider, "admin-identity-provider", "`provider` whose tokens make administrators too: "+
		"name=…,public-key=FILE or jwk-set=FILE, and optionally issuer=…, audience=…, role=… (default admin), "+
		"unsafe-any-lifetime; no key is made then (repeatable)")
	f.StringVar(&s.KDSURL, "kds-url", s.KDSURL, "`URL` of AMD's key distribution service or a mirror; empty: "+
		"fetch nothing")
	f.StringVar(&s.KDSStore, "kds-store", s.KDSStore, "`directory` of VCEK certificates that is looked at first")
	f.Var(&s.SessionLifetime, "session-lifetime", "`time` from a challenge to its attestation")
	f.Var(&s.TokenLifetime, "token-lifetime", "`time` that attestation tokens are valid")
	f.Var(&s.ReferenceValueLifetime, "reference-value-lifetime", "`time` that a registered reference value counts")
	f.Int64Var(&s.BodyLimit, "body-limit", s.BodyLimit, "largest request, in `bytes`")
	f.IntVar(&s.MaxAttests, "max-attests", s.MaxAttests, "attestations verified at the same time")
	f.IntVar(&s.MaxConnections, "max-connections", s.MaxConnections, "connections open at the same time; more wait")
	f.IntVar(&s.MaxConnectionsEach, "max-connections-per-client", s.MaxConnectionsEach,
		"connections of one client (an IPv4 address or IPv6 /64) at the same time; more are closed (default half "+
			"of --max-connections)")
	f.IntVar(&s.MaxRequests, "max-requests", s.MaxRequests, "requests answered at the same time; one client may "+
		"have half of them")
	f.Int64Var(&s.MaxBodyMemory, "max-body-memory", s.MaxBodyMemory, "`bytes` of requests' bodies held at the same "+
		"time; one client may have a quarter of them")
	f.IntVar(&s.RefusalsPerSecond, "refusals-per-second", s.RefusalsPerSecond, "refused requests that one client "+
		"may have in the long run; then it waits")
	f.IntVar(&s.RefusalBurst, "refusal-burst", s.RefusalBurst, "refused requests that one client may have at once")
	f.Var(&s.TrustedProxy, "trusted-proxy", "`address` or prefix of a load balancer whose X-Forwarded-For says who "+
		"the client is (repeatable; default: forwarded addresses are ignored)")
	f.Var(&s.DrainDelay, "drain-delay", "`time` from the signal to end, when /readyz turns, until no more "+
		"connections are taken: as long as load balancers need to notice")
	f.Var(&s.DrainTimeout, "drain-timeout", "longest `time` that requests under way may then take")
	f.Var(&s.TokenKeyLifetime, "token-key-lifetime", "`time` after which a new key signs tokens; the old one "+
		"counts until its tokens have expired")
	f.StringVar(&s.ReleasePolicy, "release-policy", s.ReleasePolicy, "Rego `file` of the release policy; "+
		"administrators cannot set another then (default: the one that they set)")
	f.StringVar(&s.AppraisalPolicy, "appraisal-policy", s.AppraisalPolicy, "Rego `file` of the appraisal policy, "+
		"likewise")
	f.BoolVar(&s.ReleaseAllowSimulated, "release-allow-simulated", s.ReleaseAllowSimulated,
		"--release-policy may release to guests of simulated platforms")
	f.BoolVar(&s.ReleaseUnsafeAnyInitData, "release-unsafe-any-initdata", s.ReleaseUnsafeAnyInitData,
		"accept a --release-policy that does not pin init-data")
	f.Var(&s.AllowSimulatedRoot, "allow-simulated-root",
		"trust this simulated platform's root `file`; for development (repeatable)")
	f.BoolVar(&s.UnsafeAllowDebug, "unsafe-allow-debug", s.UnsafeAllowDebug,
		"accept guests whose memory their host can read")
	f.BoolVar(&s.UnsafeHTTP, "unsafe-http", s.UnsafeHTTP, "serve plain HTTP, for a TLS proxy on the same machine")
	f.BoolVar(&s.UnsafeKeyBesideData, "unsafe-key-beside-data", s.UnsafeKeyBesideData,
		"accept a --key-file below --data")
	f.Usage = func() {
		fmt.Fprintln(out, "nacre-trustee verifies the evidence of confidential guests and releases secrets to "+
			"those that their owner's policy names.\n\n"+
			"Usage: nacre-trustee [serve] [flags]\n"+
			"       nacre-trustee config convert FILE    the configuration of another trustee, as this one's\n"+
			"       nacre-trustee import --local-fs DIR  the store of another trustee\n\nFlags:")
		f.PrintDefaults()
	}
	return f
}

// maxConfig caps the configuration file, in bytes.
const maxConfig = 1 << 20

// load reads the settings: defaults, then the file, then the flags.
func load(args []string, getenv func(string) string, out io.Writer) (*settings, error) {
	s, err := loadOnce(args, getenv, out)
	if err != nil {
		return nil, err
	}
	s.again = func() (*settings, error) { return loadOnce(args, getenv, io.Discard) }
	return s, nil
}

func loadOnce(args []string, getenv func(string) string, out io.Writer) (*settings, error) {
	if len(args) > 0 && args[0] == "serve" {
		args = args[1:]
	}
	first := defaults(getenv)
	if err := parse(first.flags(out), args); err != nil {
		return nil, err
	}
	if first.Config == "" {
		return &first, first.check()
	}
	s := defaults(getenv)
	if err := s.read(first.Config); err != nil {
		return nil, err
	}
	fromFile := map[*list]list{}
	for _, l := range []*list{&s.TLSName, &s.AdminPublicKey, &s.AllowSimulatedRoot, &s.TrustedProxy} {
		fromFile[l], *l = *l, nil
	}
	fileProviders := s.AdminIdentityProvider
	s.AdminIdentityProvider = nil
	if err := parse(s.flags(out), args); err != nil {
		return nil, err
	}
	if s.AdminIdentityProvider == nil {
		s.AdminIdentityProvider = fileProviders
	}
	for l, value := range fromFile {
		if *l == nil {
			*l = value
		}
	}
	return &s, s.check()
}

func parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; the commands are serve, config convert and import, everything "+
			"else is a flag (--help lists them)", f.Arg(0))
	}
	return nil
}

func (s *settings) read(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if info.Size() > maxConfig {
		return fmt.Errorf("read the configuration: %s has %d bytes, at most %d", path, info.Size(), maxConfig)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(s); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
			return fmt.Errorf("read the configuration %s: it has settings that do not exist:\n%s", path,
				strict.String())
		}
		return fmt.Errorf("read the configuration %s: %w", path, err)
	}
	s.Config = path
	return nil
}

// bodyShare is how many bodies of the largest size must fit into memory: a client gets a quarter of it.
const bodyShare = 4

// check refuses settings that contradict each other.
func (s *settings) check() error {
	switch {
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key belong together; give both, or neither for a certificate of " +
			"the trustee's own")
	case s.UnsafeHTTP && s.TLSCert != "":
		return errors.New("--unsafe-http serves without TLS, so --tls-cert would not be used; drop one of them")
	case s.BodyLimit < 4096:
		return fmt.Errorf("--body-limit %d is too small for any evidence", s.BodyLimit)
	case s.MaxAttests < 1:
		return errors.New("--max-attests must be at least 1")
	case s.MaxConnections < 1:
		return errors.New("--max-connections must be at least 1")
	case s.ReleasePolicy == "" && (s.ReleaseAllowSimulated || s.ReleaseUnsafeAnyInitData):
		return errors.New("--release-allow-simulated and --release-unsafe-any-initdata are about --release-policy, " +
			"which is not given")
	case s.MaxConnectionsEach < 0 || s.MaxConnectionsEach > s.MaxConnections:
		return errors.New("--max-connections-per-client must be between 1 and --max-connections")
	case s.MaxRequests < 1 || s.MaxBodyMemory < 1 || s.RefusalsPerSecond < 1 || s.RefusalBurst < 1:
		return errors.New("--max-requests, --max-body-memory, --refusals-per-second and --refusal-burst must be " +
			"at least 1")
	case s.MaxBodyMemory < bodyShare*s.BodyLimit:
		return fmt.Errorf("--max-body-memory must be at least %d times --body-limit, so that one body fits into one "+
			"client's share", bodyShare)
	case time.Duration(s.TokenLifetime) > broker.MaxTokenLifetime:
		return fmt.Errorf("--token-lifetime may be at most %s", broker.MaxTokenLifetime)
	case time.Duration(s.SessionLifetime) > broker.MaxSessionLifetime:
		return fmt.Errorf("--session-lifetime may be at most %s", broker.MaxSessionLifetime)
	}
	return s.AdminIdentityProvider.check()
}
