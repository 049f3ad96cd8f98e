// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/release"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

const (
	watchEvery  = 2 * time.Second // between two looks at the files
	rotateEvery = time.Minute     // between two looks at the age of the key that signs tokens
)

// tunableSettings can change while the trustee runs; others need a restart.
var tunableSettings = []string{
	"tls-cert", "tls-key", "admin-public-key", "admin-audience", "admin-longest-lifetime",
	"admin-identity-provider", "session-lifetime", "token-lifetime", "body-limit", "drain-delay", "drain-timeout", "token-key-lifetime", "release-policy",
	"appraisal-policy", "release-allow-simulated", "release-unsafe-any-initdata",
}

// reloader keeps in force what the configuration and the files that it names say. All of them are read anew when one
// has changed or SIGHUP comes, and either all of it is put in force or nothing.
type reloader struct {
	data   *store.Store
	broker *broker.Broker
	log    *slog.Logger
	read   func() (*settings, error) // the configuration, anew

	settings atomic.Pointer[settings]
	cert     atomic.Pointer[tls.Certificate] // nil with plain HTTP
	seen     map[string][sha256.Size]byte    // the files' contents, by their names
	differs  map[string][sha256.Size]byte    // as they were at the last look, if that was not seen before
}

// certificate is what a TLS handshake is answered with.
func (r *reloader) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.cert.Load(), nil
}

// run watches until the context ends.
func (r *reloader) run(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	watch, rotate := time.NewTicker(watchEvery), time.NewTicker(rotateEvery)
	defer watch.Stop()
	defer rotate.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			r.seen = r.files()
			r.apply(ctx, "signal")
		case <-watch.C:
			if r.changed() {
				r.apply(ctx, "a file changed")
			}
		case <-rotate.C:
			age := time.Duration(r.settings.Load().TokenKeyLifetime)
			if err := r.broker.RotateTokenKey(ctx, age); err != nil {
				r.log.ErrorContext(ctx, "the key that signs tokens is old and cannot be replaced", "cause", err)
			}
		}
	}
}

// files digests the files that count. One that cannot be read has the zero digest.
func (r *reloader) files() map[string][sha256.Size]byte {
	s := r.settings.Load()
	digests := map[string][sha256.Size]byte{}
	for _, path := range slices.Concat([]string{s.Config, s.TLSCert, s.TLSKey, s.ReleasePolicy, s.AppraisalPolicy},
		s.AdminPublicKey, s.AdminIdentityProvider.files()) {
		if path == "" {
			continue
		}
		var digest [sha256.Size]byte
		if content, err := readCapped(path, maxConfig); err == nil {
			digest = sha256.Sum256(content)
		}
		digests[path] = digest
	}
	return digests
}

// changed says whether a file is other than it was, and has been so for two looks: who writes one may not be done.
func (r *reloader) changed() bool {
	now := r.files()
	if maps.Equal(now, r.seen) {
		r.differs = nil
		return false
	}
	if !maps.Equal(now, r.differs) {
		r.differs = now
		return false
	}
	r.seen, r.differs = now, nil
	return true
}

// apply reads everything anew and puts it in force, or says why not.
func (r *reloader) apply(ctx context.Context, why string) {
	next, err := r.load(ctx)
	if err == nil {
		err = r.broker.Tune(next.tunable)
	}
	if err == nil {
		err = r.broker.SetPolicies(ctx, next.policies)
	}
	r.broker.Reloaded(err == nil)
	if err != nil {
		r.log.ErrorContext(ctx, "what was read anew is refused, and what was in force stays so", "why", why,
			"cause", err)
		return
	}
	changed := differing(r.settings.Load(), next.settings)
	r.settings.Store(next.settings)
	r.cert.Store(next.cert)
	r.seen = r.files() // the configuration may name others now
	var names []string
	for _, key := range next.administrators {
		names = append(names, admin.Fingerprint(key))
	}
	for _, p := range next.settings.AdminIdentityProvider {
		names = append(names, p.Name)
	}
	if slices.Contains(changed, "admin-identity-provider") {
		next.settings.AdminIdentityProvider.warn(r.log)
	}
	r.log.InfoContext(ctx, "what was read anew is in force", "why", why, "settings", changed, "administrators", names)
}

// loaded is what was read and can be put in force.
type loaded struct {
	settings       *settings
	cert           *tls.Certificate
	administrators []ed25519.PublicKey
	tunable        broker.Tunable
	policies       broker.PolicyTexts
}

func (r *reloader) load(ctx context.Context) (loaded, error) {
	s, err := r.read()
	if err != nil {
		return loaded{}, err
	}
	for _, name := range differing(r.settings.Load(), s) {
		if !slices.Contains(tunableSettings, name) {
			return loaded{}, fmt.Errorf("%s cannot change while the trustee runs; restart it", name)
		}
	}
	keys, _, err := administrators(ctx, s, r.data)
	if err != nil {
		return loaded{}, err
	}
	others, err := s.AdminIdentityProvider.load()
	if err != nil {
		return loaded{}, err
	}
	cert, _, err := certificate(ctx, s, r.data, r.log)
	if err != nil {
		return loaded{}, err
	}
	l := loaded{settings: s, administrators: keys, tunable: tunable(s, keys, others)}
	if l.policies, err = policies(s); err == nil {
		err = l.policies.Check(ctx)
	}
	if err != nil {
		return loaded{}, err
	}
	if !s.UnsafeHTTP {
		l.cert = &cert
	}
	return l, nil
}

// policies reads the files of policies.
func policies(s *settings) (broker.PolicyTexts, error) {
	p := broker.PolicyTexts{Release: release.Record{AllowSimulated: s.ReleaseAllowSimulated,
		UnsafeAnyInitData: s.ReleaseUnsafeAnyInitData}}
	for _, file := range []struct {
		path string
		into *string
	}{{s.ReleasePolicy, &p.Release.Text}, {s.AppraisalPolicy, &p.Appraisal}} {
		if file.path == "" {
			continue
		}
		text, err := readCapped(file.path, maxConfig)
		if err != nil {
			return broker.PolicyTexts{}, fmt.Errorf("read a policy: %w", err)
		}
		if len(text) == 0 || len(text) > maxConfig {
			return broker.PolicyTexts{}, fmt.Errorf("read a policy: %s is empty, or has more than %d bytes", file.path,
				maxConfig)
		}
		*file.into = string(text)
	}
	return p, nil
}

func tunable(s *settings, keys []ed25519.PublicKey, others []admin.Provider) broker.Tunable {
	return broker.Tunable{
		Admin: admin.New(admin.Config{Keys: keys, Providers: others, Audience: s.AdminAudience,
			LongestLifetime: time.Duration(s.AdminLongestLifetime)}),
		SessionLifetime: time.Duration(s.SessionLifetime),
		TokenLifetime:   time.Duration(s.TokenLifetime),
		BodyLimit:       s.BodyLimit,
	}
}

// differing names the settings in which two configurations differ.
func differing(a, b *settings) []string {
	values := map[string]string{}
	a.flags(io.Discard).VisitAll(func(f *flag.Flag) { values[f.Name] = f.Value.String() })
	var names []string
	b.flags(io.Discard).VisitAll(func(f *flag.Flag) {
		if values[f.Name] != f.Value.String() {
			names = append(names, f.Name)
		}
	})
	return names
}
