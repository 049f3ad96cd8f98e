// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/collateral"
	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/identity"
	"github.com/nacre-project/nacre/internal/trustee/limit"
	"github.com/nacre-project/nacre/internal/trustee/platform"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// How long a connection may take over each part of a request. Writing covers the handler, and so fetching certificates.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 90 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 512 << 10 // bytes; tokens carry init-data

	// A connection of HTTP/2 carries several requests; what it keeps of them unread counts against nothing else.
	maxStreams       = 32
	maxStreamBuffers = 256 << 10 // bytes
	maxStreamBuffer  = 64 << 10  // bytes
)

// serve runs the trustee until the context ends, then lets requests under way end.
func serve(ctx context.Context, s *settings, stdout, stderr io.Writer) (err error) {
	log := newLog(s, stderr)
	if s.CPUProfile != "" {
		stop, failed := startProfile(s.CPUProfile)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	data, err := store.Open(ctx, store.Options{Dir: s.Data, KeyFile: s.KeyFile,
		UnsafeKeyBesideData: s.UnsafeKeyBesideData})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()

	keys, made, err := administrators(ctx, s, data)
	if err != nil {
		return err
	}
	others, err := s.AdminIdentityProvider.load()
	if err != nil {
		return err
	}
	roots, err := simulatedRoots(s.AllowSimulatedRoot)
	if err != nil {
		return err
	}
	kds, err := collateral.NewKDS(collateral.KDSConfig{LocalStore: s.KDSStore, Cache: filepath.Join(s.Data, "kds"),
		BaseURL: s.KDSURL, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kds.Close()) }()
	origin, err := limit.NewOrigin(s.TrustedProxy)
	if err != nil {
		return fmt.Errorf("--trusted-proxy: %w", err)
	}
	secrets := resource.Stored{Store: data}
	b, err := broker.New(ctx, broker.Config{
		Store: data,
		Platforms: map[attest.TEE]broker.Platform{
			attest.SNP: platform.SNP(snp.Config{Roots: roots, Store: kds, UnsafeAllowDebug: s.UnsafeAllowDebug}),
		},
		Plugins:                map[string]resource.Plugin{"resource": secrets},
		Resources:              secrets,
		Log:                    log,
		Tunable:                tunable(s, keys, others),
		ReferenceValueLifetime: time.Duration(s.ReferenceValueLifetime),
		MaxAttests:             s.MaxAttests,
		Limits: broker.Limits{Origin: origin, RefusalsPerSecond: s.RefusalsPerSecond, RefusalBurst: s.RefusalBurst,
			Requests: s.MaxRequests, BodyMemory: s.MaxBodyMemory},
		SimulatedRoots:  len(roots),
		UnsafePlainHTTP: s.UnsafeHTTP,
	})
	if err != nil {
		return err
	}
	texts, err := policies(s)
	if err != nil {
		return err
	}
	if err := b.SetPolicies(ctx, texts); err != nil {
		return err
	}
	cert, certPath, err := certificate(ctx, s, data, log)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w; name another address with --listen", err)
	}
	each := s.MaxConnectionsEach
	if each == 0 {
		each = max(1, s.MaxConnections/2)
	}
	listener = &limit.Listener{Listener: netutil.LimitListener(listener, s.MaxConnections), Origin: origin,
		Each: limit.NewShares(int64(s.MaxConnections), int64(each)), Refused: b.ConnectionRefused}
	server := &http.Server{
		Handler:           b,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: maxStreamBuffers,
			MaxReceiveBufferPerStream: maxStreamBuffer},
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	files := &reloader{data: data, broker: b, log: log, read: s.again}
	files.settings.Store(s)
	if !s.UnsafeHTTP {
		files.cert.Store(&cert)
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: files.certificate}
	}
	files.seen = files.files()
	var watching sync.WaitGroup
	defer watching.Wait()
	watched, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	watching.Go(func() { files.run(watched) })
	warn(log, s, roots)
	report := started{settings: s, address: listener.Addr().String(), cert: cert, certPath: certPath, roots: roots,
		keys: keys, adminKeyMade: made}
	if err := report.print(stdout); err != nil {
		return errors.Join(err, listener.Close())
	}
	return until(ctx, b, server, listener, files.settings.Load, log)
}

// until serves until the context ends, then waits for requests under way. It returns nil when all of them ended.
func until(ctx context.Context, b *broker.Broker, server *http.Server, listener net.Listener,
	inForce func() *settings, log *slog.Logger) error {
	ended := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			ended <- server.ServeTLS(listener, "", "")
		} else {
			ended <- server.Serve(listener)
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	b.Drain()
	s := inForce()
	if delay := time.Duration(s.DrainDelay); delay > 0 {
		log.Info("ending: not ready any more; requests are taken for the drain delay", "delay", delay)
		select {
		case err := <-ended:
			return fmt.Errorf("serve: %w", err)
		case <-time.After(delay):
		}
	}
	log.Info("ending: no new requests are taken")
	timeout := time.Duration(s.DrainTimeout)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	err := server.Shutdown(drain)
	if err != nil {
		err = fmt.Errorf("requests were still under way after %s: %w", timeout, errors.Join(err, server.Close()))
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func newLog(s *settings, out io.Writer) *slog.Logger {
	var handler slog.Handler = slog.NewTextHandler(out, nil)
	if s.JSON {
		handler = slog.NewJSONHandler(out, nil)
	}
	return slog.New(broker.LogHandler{Handler: handler})
}

// administrators returns the public keys that count. Made says whether the owner's key pair was made now.
func administrators(ctx context.Context, s *settings, data *store.Store) (
	keys []ed25519.PublicKey, made bool, err error,
) {
	for _, path := range s.AdminPublicKey {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, false, fmt.Errorf("read an administrator's public key: %w", err)
		}
		key, err := admin.ParsePublicKey(text)
		if err != nil {
			return nil, false, fmt.Errorf("read an administrator's public key from %s: %w", path, err)
		}
		keys = append(keys, key)
	}
	if len(keys) > 0 || len(s.AdminIdentityProvider) > 0 {
		return keys, false, nil
	}
	key, made, err := admin.First(ctx, data, s.AdminKeyOut)
	return []ed25519.PublicKey{key}, made, err
}

// maxRootFile caps a simulated root's file, in bytes.
const maxRootFile = 64 << 10

func simulatedRoots(files []string) ([]snp.Root, error) {
	var roots []snp.Root
	for _, path := range files {
		text, err := readCapped(path, maxRootFile)
		if err != nil {
			return nil, fmt.Errorf("read a simulated root: %w", err)
		}
		root, err := simtee.ParseRoot(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		roots = append(roots, root)
	}
	return roots, nil
}

func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// certificate loads the TLS certificate, the configuration's or the trustee's own, and writes it where owners find it.
func certificate(ctx context.Context, s *settings, data *store.Store, log *slog.Logger) (
	cert tls.Certificate, path string, err error,
) {
	switch {
	case s.UnsafeHTTP:
		return tls.Certificate{}, "", nil
	case s.TLSCert != "":
		if cert, err = tls.LoadX509KeyPair(s.TLSCert, s.TLSKey); err != nil {
			return tls.Certificate{}, "", fmt.Errorf("load the TLS certificate: %w", err)
		}
		return cert, s.TLSCert, nil
	}
	cert, missing, err := identity.Load(ctx, data, s.TLSName, time.Now())
	if err != nil {
		return tls.Certificate{}, "", err
	}
	if len(missing) > 0 {
		log.Warn("the trustee's certificate was made at the first start and is pinned by guests; it does not name "+
			"all of --tls-name", "missing", missing)
	}
	path = filepath.Join(s.Data, "tls.crt")
	if err := os.WriteFile(path, identity.PEM(cert), 0o644); err != nil {
		return tls.Certificate{}, "", fmt.Errorf("write the certificate for those who pin it: %w", err)
	}
	return cert, path, nil
}

// warn says what makes this trustee unfit for secrets that matter.
func warn(log *slog.Logger, s *settings, roots []snp.Root) {
	for _, root := range roots {
		log.Warn("a simulated root is trusted: whoever has its directory can forge any guest; for development only",
			"root", rootName(root))
	}
	s.AdminIdentityProvider.warn(log)
	if s.UnsafeAllowDebug {
		log.Warn("debuggable guests are accepted: their hosts can read what is released to them")
	}
	if s.UnsafeHTTP {
		log.Warn("serving plain HTTP: whoever is on the way can read administrators' tokens and exchange resources")
	}
	if s.UnsafeKeyBesideData {
		log.Warn("the key file may lie beside the data it seals: a copy of the data directory may carry its key")
	}
}

func rootName(r snp.Root) string {
	digest := sha256.Sum256(r.ARK.Raw)
	return "simulated sha256:" + hex.EncodeToString(digest[:8])
}
