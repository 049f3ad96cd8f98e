// SPDX-License-Identifier: Apache-2.0

package collateral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// AMDKeyDistributionService is the base URL of AMD's own service. It answers a client about once in ten seconds.
const AMDKeyDistributionService = "https://kdsintf.amd.com"

const (
	defaultInterval = 10 * time.Second
	fetchTimeout    = 20 * time.Second

	// unknownFor is how long a certificate that the service does not have is not asked for again.
	unknownFor = 10 * time.Minute
	// longestPause bounds what a service's Retry-After can make us wait.
	longestPause = time.Hour

	maxCertSize  = 16 << 10 // bytes of one certificate; VCEKs have about 1.4 KiB
	maxAnswers   = 1024     // answers kept in memory, found and not found each
	maxDirectory = 10_000   // certificates that a cache directory is filled up to, about 40 MiB on disk
)

// KDSConfig says where a KDS may look. The zero value looks nowhere.
type KDSConfig struct {
	// LocalStore is a directory of certificates that somebody put there, for machines without a way out:
	// vcek/<hwid>/bl02_tee00_snp06_ucode21_vcek.der, or vcek/<hwid>/vcek.der for whatever TCB it is of. Turin's have
	// _fmc01 after the microcode. The hwid is in lower-case hex, the numbers are decimal of two digits or more. It is
	// the layout of the existing broker's "kds-store", and of Cache.
	LocalStore string

	// Cache is a directory in which fetched certificates outlive the process.
	Cache string

	// BaseURL is the service to fetch from: AMDKeyDistributionService, or a mirror of it. Empty: nothing is fetched.
	BaseURL string

	// Interval is the least time between two requests to the service. 0 is ten seconds.
	Interval time.Duration

	// Client makes the requests. Nil is a client with timeouts that follows no redirects.
	Client *http.Client

	// Log hears of what went wrong and was survived. Nil is silent.
	Log *slog.Logger
}

// KDS finds VCEKs: in a local store, in a cache, and then by asking a key distribution service. It implements
// snp.EndorsementSource and is safe for concurrent use.
//
// Requests for the same certificate share one fetch. The service is asked at most once per interval, whoever asks;
// beyond that, and when the service cannot be reached, requests fail at once with CodeCollateralUnavailable and a
// RetryAfter. Since a report's signature cannot be checked before its VCEK is there, anybody can spend this budget by
// naming chips. Guests whose hosts provide the certificate do not depend on it.
type KDS struct {
	config  KDSConfig
	base    *url.URL // nil: nothing is fetched
	client  *http.Client
	log     *slog.Logger
	budget  *rate.Limiter
	flights singleflight.Group

	found   *lru.Cache[string, []byte]
	unknown *lru.Cache[string, time.Time] // until when it is not asked for again

	ctx     context.Context // ends with Close; fetches run under it, not under one of their many callers'
	cancel  context.CancelFunc
	fetches sync.WaitGroup // added to under mu, while not closed

	mu     sync.Mutex
	closed bool
	pause  time.Time // the service wants no request before this time
	cached int       // certificates in the cache directory
}

var _ snp.EndorsementSource = (*KDS)(nil)

// NewKDS returns a KDS. It makes the cache directory if that is not there. Close it after use.
func NewKDS(c KDSConfig) (*KDS, error) {
	k := &KDS{config: c, client: c.Client, log: c.Log}
	if c.BaseURL != "" {
		base, err := url.Parse(c.BaseURL)
		if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
			return nil, fmt.Errorf("key distribution service: %q is not the URL of a web service", c.BaseURL)
		}
		k.base = base
	}
	if k.client == nil {
		k.client = &http.Client{
			Timeout: fetchTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return errors.New("the key distribution service redirects, which it never should")
			},
		}
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	interval := c.Interval
	if interval <= 0 {
		interval = defaultInterval
	}
	k.budget = rate.NewLimiter(rate.Every(interval), 1)
	var err error
	if k.found, err = lru.New[string, []byte](maxAnswers); err != nil {
		return nil, err
	}
	if k.unknown, err = lru.New[string, time.Time](maxAnswers); err != nil {
		return nil, err
	}
	if c.Cache != "" {
		if k.cached, err = countCerts(c.Cache); err != nil {
			return nil, fmt.Errorf("key distribution service: opening the cache: %w", err)
		}
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k, nil
}

func countCerts(dir string) (n int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	return n, err
}

// Close ends fetches under way and waits for them.
func (k *KDS) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cancel()
	k.fetches.Wait()
	return nil
}

// VCEK returns the certificate of a chip at a firmware level.
func (k *KDS) VCEK(ctx context.Context, want snp.VCEKRequest) ([]byte, error) {
	name := certPath(want)
	if der, ok := k.found.Get(name); ok {
		return der, nil
	}
	der, looked := k.stored(want)
	if der != nil {
		k.found.Add(name, der)
		return der, nil
	}
	if k.base == nil {
		return nil, unavailable(0, looked, "%s is in no store, and no key distribution service is configured", name)
	}
	flight := k.flights.DoChan(name, func() (any, error) {
		if !k.begin() {
			return nil, unavailable(0, nil, "this process is ending")
		}
		defer k.fetches.Done()
		return k.fetch(want)
	})
	select {
	case r := <-flight:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.([]byte), nil
	case <-ctx.Done():
		return nil, unavailable(0, context.Cause(ctx), "fetching %s took longer than the caller waits", name)
	}
}

// begin counts a fetch that Close waits for.
func (k *KDS) begin() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.fetches.Add(1)
	}
	return !k.closed
}

// stored looks for a certificate on this machine. The error says what was found instead.
func (k *KDS) stored(want snp.VCEKRequest) ([]byte, error) {
	var paths []string
	if dir := k.config.LocalStore; dir != "" {
		paths = append(paths, filepath.Join(dir, certPath(want)),
			filepath.Join(dir, filepath.Dir(certPath(want)), "vcek.der"))
	}
	if dir := k.config.Cache; dir != "" {
		paths = append(paths, filepath.Join(dir, certPath(want)))
	}
	var unusable []error
	for _, path := range paths {
		der, err := readCert(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = want.Check(der)
		}
		if err == nil {
			return der, nil
		}
		unusable = append(unusable, fmt.Errorf("%s: %w", path, err))
	}
	return nil, errors.Join(unusable...)
}

func readCert(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f)
}

func readLimited(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxCertSize+1))
	if err == nil && len(b) > maxCertSize {
		err = fmt.Errorf("it has more than %d bytes", maxCertSize)
	}
	return b, err
}

// fetch asks the service, if that is allowed now.
func (k *KDS) fetch(want snp.VCEKRequest) ([]byte, error) {
	name := certPath(want)
	if der, ok := k.found.Get(name); ok { // a flight has landed since the caller looked
		return der, nil
	}
	if until, ok := k.unknown.Get(name); ok {
		if wait := time.Until(until); wait > 0 {
			return nil, unavailable(wait, nil, "the key distribution service does not know %s", name)
		}
		k.unknown.Remove(name)
	}
	k.mu.Lock()
	wait := time.Until(k.pause)
	k.mu.Unlock()
	if wait > 0 {
		return nil, unavailable(wait, nil, "the key distribution service wants no requests now")
	}
	turn := k.budget.Reserve()
	if wait := turn.Delay(); wait > 0 {
		turn.Cancel()
		return nil, unavailable(wait, nil, "the budget for the key distribution service is spent")
	}

	der, err := k.get(want)
	if err != nil {
		return nil, err
	}
	k.found.Add(name, der)
	if k.config.Cache != "" {
		if err := k.persist(name, der); err != nil {
			k.log.Warn("a fetched VCEK could not be stored and will be fetched again after a restart",
				"path", name, "error", err)
		}
	}
	return der, nil
}

// get makes one request, and decides from the answer when the next makes sense.
func (k *KDS) get(want snp.VCEKRequest) ([]byte, error) {
	u := certURL(k.base, want)
	ctx, cancel := context.WithTimeout(k.ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, unavailable(0, err, "asking %s", u)
	}
	response, err := k.client.Do(request)
	if err != nil {
		return nil, unavailable(k.pauseFor(""), err, "asking the key distribution service")
	}
	defer response.Body.Close()
	body, err := readLimited(response.Body)
	switch {
	case response.StatusCode == http.StatusBadRequest || response.StatusCode == http.StatusNotFound:
		return nil, k.refused(want, fmt.Errorf("%s answered %s", u, response.Status))
	case response.StatusCode != http.StatusOK:
		return nil, unavailable(k.pauseFor(response.Header.Get("Retry-After")), nil, "%s answered %s", u, response.Status)
	case err != nil:
		return nil, unavailable(k.pauseFor(""), err, "reading the answer of %s", u)
	}
	if err := want.Check(body); err != nil {
		return nil, k.refused(want, fmt.Errorf("%s answered with another certificate: %w", u, err))
	}
	return body, nil
}

// refused remembers that the service does not have a certificate.
func (k *KDS) refused(want snp.VCEKRequest, err error) error {
	k.unknown.Add(certPath(want), time.Now().Add(unknownFor))
	return unavailable(unknownFor, err, "the key distribution service does not know this chip and TCB")
}

// pauseFor stops requests for as long as the service asked for in a Retry-After header, or for one interval, and
// returns how long that is.
func (k *KDS) pauseFor(retryAfter string) time.Duration {
	pause := k.config.Interval
	if pause <= 0 {
		pause = defaultInterval
	}
	if seconds, err := strconv.Atoi(retryAfter); err == nil && seconds > 0 {
		pause = min(time.Duration(seconds)*time.Second, longestPause)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pause = time.Now().Add(pause)
	return pause
}

// persist writes a certificate into the cache directory, whole or not at all.
func (k *KDS) persist(name string, der []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cached >= maxDirectory {
		return fmt.Errorf("%s holds %d certificates already; delete what is old", k.config.Cache, k.cached)
	}
	path := filepath.Join(k.config.Cache, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".vcek-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename, unless something failed
	_, err = f.Write(der)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	k.cached++
	return nil
}

// certPath is where a store has a certificate.
func certPath(want snp.VCEKRequest) string {
	t := want.TCB
	levels := fmt.Sprintf("bl%02d_tee%02d_snp%02d_ucode%02d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if want.Product == snp.Turin {
		levels += fmt.Sprintf("_fmc%02d", t.FMC)
	}
	return filepath.Join("vcek", fmt.Sprintf("%x", want.HWID), levels+"_vcek.der")
}

// certURL is where the service has a certificate (57230, "VCEK Certificate").
func certURL(base *url.URL, want snp.VCEKRequest) string {
	t := want.TCB
	query := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if want.Product == snp.Turin {
		query = fmt.Sprintf("fmcSPL=%02d&", t.FMC) + query
	}
	u := base.JoinPath("vcek", "v1", string(want.Product), fmt.Sprintf("%x", want.HWID))
	u.RawQuery = query
	return u.String()
}

func unavailable(retryAfter time.Duration, cause error, format string, args ...any) error {
	e := attest.Refuse(attest.CodeCollateralUnavailable, cause, format, args...)
	e.RetryAfter = retryAfter
	return e
}
