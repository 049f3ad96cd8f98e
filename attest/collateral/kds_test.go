// SPDX-License-Identifier: Apache-2.0

package collateral_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/collateral"
	"github.com/nacre-project/nacre/attest/snp"
)

// request names the certificate of a chip by one byte.
func request(chip byte) snp.VCEKRequest {
	return snp.VCEKRequest{
		Product: snp.Genoa, HWID: bytes.Repeat([]byte{chip}, 64),
		TCB: snp.TCBVersion{Bootloader: 2, TEE: 0, SNP: 6, Microcode: 121},
	}
}

// vcek returns a certificate that answers a request. Nobody of weight signed it: that is for verifiers to notice.
func vcek(t testing.TB, r snp.VCEKRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SEV-VCEK"}}
	oid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	add := func(value []byte, arcs ...int) {
		template.ExtraExtensions = append(template.ExtraExtensions,
			pkix.Extension{Id: append(oid[:len(oid):len(oid)], arcs...), Value: value})
	}
	for arc, level := range map[int]uint8{1: r.TCB.Bootloader, 2: r.TCB.TEE, 3: r.TCB.SNP, 8: r.TCB.Microcode} {
		value, err := asn1.Marshal(int(level))
		if err != nil {
			t.Fatal(err)
		}
		add(value, 3, arc)
	}
	if r.Product == snp.Turin {
		add([]byte{2, 1, r.TCB.FMC}, 3, 9)
	}
	add(r.HWID, 4)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// service is a key distribution service that answers by a function and counts.
type service struct {
	answer func(w http.ResponseWriter, r *http.Request)
	asked  atomic.Int32
}

// RoundTrip answers without a network, so that it works where the clock is a test's own.
func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	w := httptest.NewRecorder()
	s.answer(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func serving(answer func(w http.ResponseWriter, r *http.Request)) *service {
	return &service{answer: answer}
}

func open(t testing.TB, c collateral.KDSConfig, s *service) *collateral.KDS {
	t.Helper()
	if s != nil {
		c.BaseURL, c.Client = "https://kds.example", &http.Client{Transport: s}
	}
	k, err := collateral.NewKDS(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// unavailable checks the code and that the caller is told to wait within bounds.
func unavailable(t testing.TB, err error, from, to time.Duration) {
	t.Helper()
	e, ok := errors.AsType[*attest.Error](err)
	if !ok || e.Code != attest.CodeCollateralUnavailable {
		t.Fatalf("got %v, wanted code %s", err, attest.CodeCollateralUnavailable)
	}
	if e.RetryAfter < from || e.RetryAfter > to {
		t.Errorf("retry after %v, wanted %v to %v", e.RetryAfter, from, to)
	}
}

func TestZeroConfigFetchesNothing(t *testing.T) {
	k := open(t, collateral.KDSConfig{}, nil)
	_, err := k.VCEK(t.Context(), request(1))
	unavailable(t, err, 0, 0)
}

func TestBaseURL(t *testing.T) {
	for _, u := range []string{"kdsintf.amd.com", "file:///etc", "https://", "://", "https:kds"} {
		if _, err := collateral.NewKDS(collateral.KDSConfig{BaseURL: u}); err == nil {
			t.Errorf("%q passes for a web service", u)
		}
	}
}

func TestFetch(t *testing.T) {
	turin := request(7)
	turin.Product, turin.HWID, turin.TCB.FMC = snp.Turin, turin.HWID[:8], 1
	hwid := strings.Repeat("07", 64)
	for _, test := range []struct {
		want      snp.VCEKRequest
		url, path string
	}{
		{request(7), "/vcek/v1/Genoa/" + hwid + "?blSPL=02&teeSPL=00&snpSPL=06&ucodeSPL=121",
			"vcek/" + hwid + "/bl02_tee00_snp06_ucode121_vcek.der"},
		{turin, "/vcek/v1/Turin/0707070707070707?fmcSPL=01&blSPL=02&teeSPL=00&snpSPL=06&ucodeSPL=121",
			"vcek/0707070707070707/bl02_tee00_snp06_ucode121_fmc01_vcek.der"},
	} {
		der := vcek(t, test.want)
		s := serving(func(w http.ResponseWriter, r *http.Request) {
			if got := r.URL.RequestURI(); got != test.url {
				t.Errorf("asked for %s, wanted %s", got, test.url)
			}
			w.Write(der)
		})
		cache := filepath.Join(t.TempDir(), "kds")
		k := open(t, collateral.KDSConfig{Cache: cache}, s)
		for range 3 {
			got, err := k.VCEK(t.Context(), test.want)
			if err != nil || !bytes.Equal(got, der) {
				t.Fatalf("got %x, %v", got, err)
			}
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times, wanted once", n)
		}
		stored, err := os.ReadFile(filepath.Join(cache, test.path))
		if err != nil || !bytes.Equal(stored, der) {
			t.Errorf("the cache has %x, %v", stored, err)
		}

		// Another process has the cache, and no way out.
		later := open(t, collateral.KDSConfig{Cache: cache}, nil)
		if got, err := later.VCEK(t.Context(), test.want); err != nil || !bytes.Equal(got, der) {
			t.Errorf("after a restart: %x, %v", got, err)
		}
	}
}

func TestLocalStore(t *testing.T) {
	want := request(9)
	der := vcek(t, want)
	for _, name := range []string{"bl02_tee00_snp06_ucode121_vcek.der", "vcek.der"} {
		dir := t.TempDir()
		chip := filepath.Join(dir, "vcek", strings.Repeat("09", 64))
		write(t, filepath.Join(chip, name), der)
		s := serving(func(http.ResponseWriter, *http.Request) {})
		k := open(t, collateral.KDSConfig{LocalStore: dir}, s)
		if got, err := k.VCEK(t.Context(), want); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if s.asked.Load() != 0 {
			t.Errorf("%s: the service was asked all the same", name)
		}
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestBadFilesArePassedOver has the service make up for what is wrong on disk, and the cache mended by it.
func TestBadFilesArePassedOver(t *testing.T) {
	want := request(3)
	der := vcek(t, want)
	for name, bad := range map[string][]byte{
		"empty":        {},
		"torn":         der[:100],
		"another chip": vcek(t, request(4)),
		"too large":    make([]byte, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			path := filepath.Join(cache, "vcek", strings.Repeat("03", 64), "bl02_tee00_snp06_ucode121_vcek.der")
			write(t, path, bad)

			_, err := open(t, collateral.KDSConfig{Cache: cache}, nil).VCEK(t.Context(), want)
			unavailable(t, err, 0, 0)
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}

			s := serving(func(w http.ResponseWriter, _ *http.Request) { w.Write(der) })
			k := open(t, collateral.KDSConfig{Cache: cache}, s)
			if got, err := k.VCEK(t.Context(), want); err != nil || !bytes.Equal(got, der) {
				t.Errorf("got %x, %v", got, err)
			}
			if mended, err := os.ReadFile(path); err != nil || !bytes.Equal(mended, der) {
				t.Errorf("the cache has %x, %v", mended, err)
			}
		})
	}
}

func TestHostileService(t *testing.T) {
	good := vcek(t, request(1))
	older := request(1)
	older.TCB.Microcode--
	const pause, unknown = 10 * time.Second, 10 * time.Minute
	status := func(code int, retryAfter, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", retryAfter)
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		wait   time.Duration
	}{
		{"unknown chip", status(http.StatusNotFound, "", ""), unknown},
		{"bad request", status(http.StatusBadRequest, "", ""), unknown},
		{"another chip", status(http.StatusOK, "", string(vcek(t, request(2)))), unknown},
		{"another TCB", status(http.StatusOK, "", string(vcek(t, older))), unknown},
		{"not a certificate", status(http.StatusOK, "", "<html>"), unknown},
		{"nothing", status(http.StatusOK, "", ""), unknown},
		{"too much", status(http.StatusOK, "", strings.Repeat("x", 1<<20)), pause},
		{"a redirect", status(http.StatusFound, "", ""), pause},
		{"down", status(http.StatusInternalServerError, "", string(good)), pause},
		{"busy", status(http.StatusTooManyRequests, "77", ""), 77 * time.Second},
		{"busy for a year", status(http.StatusServiceUnavailable, "31536000", ""), time.Hour},
		{"busy until a date", status(http.StatusServiceUnavailable, "Fri, 31 Dec 2100 23:59:59 GMT", ""), pause},
		{"busy since yesterday", status(http.StatusServiceUnavailable, "-86400", ""), pause},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serving(test.answer)
				cache := t.TempDir()
				k := open(t, collateral.KDSConfig{Cache: cache}, s)
				_, err := k.VCEK(t.Context(), request(1))
				unavailable(t, err, test.wait, test.wait)

				// The answer is remembered until it is time to ask again.
				time.Sleep(test.wait - time.Second)
				_, err = k.VCEK(t.Context(), request(1))
				unavailable(t, err, time.Second, time.Second)
				if n := s.asked.Load(); n != 1 {
					t.Errorf("asked %d times, wanted once", n)
				}
				time.Sleep(time.Second)
				if _, err = k.VCEK(t.Context(), request(1)); err == nil {
					t.Error("got a certificate")
				}
				if n := s.asked.Load(); n != 2 {
					t.Errorf("asked %d times, wanted twice", n)
				}
				if left, _ := filepath.Glob(filepath.Join(cache, "*", "*", "*")); len(left) > 0 {
					t.Errorf("the cache has %v", left)
				}
			})
		})
	}
}

// TestBudget asks for many chips at once. The service is asked once in ten seconds, and everybody is told when.
func TestBudget(t *testing.T) {
	certs := make(map[string][]byte)
	for chip := range byte(4) {
		certs[fmt.Sprintf("%x", request(chip).HWID)] = vcek(t, request(chip))
	}
	synctest.Test(t, func(t *testing.T) {
		s := serving(func(w http.ResponseWriter, r *http.Request) { w.Write(certs[filepath.Base(r.URL.Path)]) })
		k := open(t, collateral.KDSConfig{}, s)
		for chip := range byte(4) {
			if _, err := k.VCEK(t.Context(), request(chip)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			_, err := k.VCEK(t.Context(), request(chip+1))
			if chip+1 < 4 {
				unavailable(t, err, 6900*time.Millisecond, 7*time.Second)
			}
			time.Sleep(7 * time.Second)
		}
	})
}

// TestSingleFlight has many callers wait for one fetch, and one of them give up.
func TestSingleFlight(t *testing.T) {
	der := vcek(t, request(1))
	synctest.Test(t, func(t *testing.T) {
		s := serving(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(5 * time.Second)
			w.Write(der)
		})
		k := open(t, collateral.KDSConfig{}, s)
		var callers sync.WaitGroup
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := k.VCEK(ctx, request(1))
			unavailable(t, err, 0, 0)
		})
		for range 20 {
			callers.Go(func() {
				if got, err := k.VCEK(t.Context(), request(1)); err != nil || !bytes.Equal(got, der) {
					t.Errorf("got %x, %v", got, err)
				}
			})
		}
		callers.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times, wanted once", n)
		}
	})
}

// TestClose ends a fetch from a service that does not answer.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serving(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		k := open(t, collateral.KDSConfig{}, s)
		var caller sync.WaitGroup
		caller.Go(func() {
			_, err := k.VCEK(t.Context(), request(1))
			unavailable(t, err, 0, 10*time.Second)
		})
		synctest.Wait()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		caller.Wait()
		_, err := k.VCEK(t.Context(), request(2))
		unavailable(t, err, 0, 10*time.Second)
	})
}

// TestOverHTTP goes through a real server and the client that a configuration without one gets.
func TestOverHTTP(t *testing.T) {
	der := vcek(t, request(1))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/mirror/vcek/v1/Genoa/"+strings.Repeat("01", 64)) {
			w.Write(der)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	k, err := collateral.NewKDS(collateral.KDSConfig{BaseURL: server.URL + "/mirror/", Interval: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if got, err := k.VCEK(t.Context(), request(1)); err != nil || !bytes.Equal(got, der) {
		t.Errorf("got %x, %v", got, err)
	}
	if _, err := k.VCEK(t.Context(), request(2)); err == nil || !strings.Contains(err.Error(), "redirects") {
		t.Errorf("a redirect was followed: %v", err)
	}
}

// TestVerifierAsksTheStore is the joint with the verifier: evidence without certificates, of which the store has one
// that nobody of weight signed.
func TestVerifierAsksTheStore(t *testing.T) {
	want := request(5)
	r := &snp.Report{
		Version: 3, SignatureAlgo: 1, CPUID: snp.CPUID{Family: 0x19, Model: 0x11},
		ChipID: [64]byte(want.HWID), ReportedTCB: want.TCB.TCB(snp.Genoa),
	}
	s := serving(func(w http.ResponseWriter, _ *http.Request) { w.Write(vcek(t, want)) })
	v := snp.NewVerifier(snp.Config{Store: open(t, collateral.KDSConfig{}, s)})
	_, err := v.VerifyReport(t.Context(), &snp.Evidence{Report: r}, attest.Expected{ReportData: []byte{1}})
	if got := attest.CodeOf(err); got != attest.CodeRootUntrusted {
		t.Errorf("code %q, wanted %q: %v", got, attest.CodeRootUntrusted, err)
	}
	r.ChipID = [64]byte{1}
	_, err = v.VerifyReport(t.Context(), &snp.Evidence{Report: r}, attest.Expected{ReportData: []byte{1}})
	unavailable(t, err, time.Second, 10*time.Second)
	r.ChipID = [64]byte{}
	_, err = v.VerifyReport(t.Context(), &snp.Evidence{Report: r}, attest.Expected{ReportData: []byte{1}})
	unavailable(t, err, 0, 0)
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times, wanted once", n)
	}
}
