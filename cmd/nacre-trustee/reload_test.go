// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nacre-project/nacre/kbs"
)

// writeCertificate writes a certificate of its own with a serial number, and its key.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "trustee"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// administrator makes a key pair and writes its public half.
func administrator(t *testing.T, path string) kbs.AdminKey {
	t.Helper()
	key, err := kbs.NewAdminKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return key
}

// maxAsked is how often a test asks whether something has come about: for minutes.
const maxAsked = 100_000

// reloading is a trustee whose files the test changes.
type reloading struct {
	*process
	config, cert, key, admin string
	client                   *http.Client // over one connection, whatever happens
}

func launchReloading(t *testing.T) (*reloading, kbs.AdminKey) {
	t.Helper()
	home := t.TempDir()
	r := &reloading{config: filepath.Join(home, "trustee.toml"), cert: filepath.Join(home, "cert.pem"),
		key: filepath.Join(home, "key.pem"), admin: filepath.Join(home, "admin.pem")}
	writeCertificate(t, r.cert, r.key, 1)
	owner := administrator(t, r.admin)
	r.configure(t, "")
	r.process = launch(t, home, "--config", r.config)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxConnsPerHost: 1} //nolint:gosec // which one it is, is what is tested
	t.Cleanup(transport.CloseIdleConnections)
	r.client = &http.Client{Transport: transport}
	return r, owner
}

func (r *reloading) configure(t *testing.T, more string) {
	t.Helper()
	write(t, r.config, fmt.Appendf(nil, "tls-cert = %q\ntls-key = %q\nadmin-public-key = [%q]\n%s", r.cert, r.key,
		r.admin, more))
}

// get asks over the one connection, with a token when a key is given.
func (r *reloading) get(t *testing.T, path string, key *kbs.AdminKey) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.start.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != nil {
		token, err := key.Token(time.Now(), time.Minute, "nacre-trustee", "admin")
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// serial is the number of the certificate that a new connection gets.
func (r *reloading) serial(t *testing.T) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(r.start.URL, "https://"),
		&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // which one it is, is what is tested
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// hangup sends SIGHUP and waits for the outcome: the metric that counts it.
func (r *reloading) hangup(t *testing.T, result string, count int) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.await(t, result, count)
}

func (r *reloading) await(t *testing.T, result string, count int) {
	t.Helper()
	want := fmt.Sprintf("nacre_reloads_total{result=%q} %d\n", result, count)
	for range maxAsked {
		if _, text := r.get(t, "/metrics", nil); strings.Contains(text, want) {
			return
		}
	}
	t.Fatalf("never came about: %s%s", want, r.log)
}

func TestReload(t *testing.T) {
	r, owner := launchReloading(t)
	if got := r.serial(t); got != 1 {
		t.Fatalf("certificate %d", got)
	}
	if status, body := r.get(t, "/nacre/v1/resources", &owner); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	writeCertificate(t, r.cert, r.key, 2)
	next := administrator(t, r.admin)
	r.configure(t, "token-lifetime = \"7m\"\n")
	r.hangup(t, "accepted", 1)
	if got := r.serial(t); got != 2 {
		t.Errorf("certificate %d", got)
	}
	if status, _ := r.get(t, "/nacre/v1/resources", &owner); status != 401 {
		t.Errorf("the key that was taken out: %d", status)
	}
	if status, body := r.get(t, "/nacre/v1/resources", &next); status != 200 {
		t.Errorf("the key that was put in: %d %s", status, body)
	}
	if !strings.Contains(r.log.String(), `"settings":["token-lifetime"]`) {
		t.Errorf("the log does not say what changed:\n%s", r.log)
	}

	policy := filepath.Join(r.home, "release.rego")
	write(t, policy, []byte("package policy\ndefault allow := false\n"))
	r.configure(t, fmt.Sprintf("token-lifetime = \"7m\"\nrelease-policy = %q\n", policy))
	r.hangup(t, "accepted", 2)
	write(t, policy, []byte("package policy\ndefault allow := false # again\n"))
	r.hangup(t, "accepted", 3)
	if status, body := r.get(t, "/nacre/v1/resource-policy", &next); status != 200 || !strings.Contains(body, "# again") {
		t.Errorf("the policy's file: %d %s", status, body)
	}

	// Each of these is refused whole, and what was in force stays so.
	refused := 0
	for _, bad := range []struct {
		name, says string
		spoil      func()
	}{
		{"a key of another certificate", "certificate", func() {
			writeCertificate(t, r.cert, filepath.Join(r.home, "other.pem"), 3)
		}},
		{"a policy that is none", "release policy's file", func() {
			writeCertificate(t, r.cert, r.key, 3)
			write(t, policy, []byte("package policy\nallow if"))
		}},
		{"no administrator's key", "public key", func() { writeCertificate(t, r.cert, r.key, 4); write(t, r.admin, []byte("x")) }},
		{"a setting that does not exist", "lifetime", func() {
			writeCertificate(t, r.cert, r.key, 5)
			administrator(t, r.admin)
			r.configure(t, "lifetime = 1\n")
		}},
		{"a setting that cannot change", "cannot change while the trustee runs", func() { r.configure(t, "max-requests = 9\n") }},
	} {
		t.Run(bad.name, func(t *testing.T) {
			bad.spoil()
			refused++
			r.hangup(t, "refused", refused)
			if got := r.serial(t); got != 2 {
				t.Errorf("certificate %d is in force", got)
			}
			if status, body := r.get(t, "/nacre/v1/resources", &next); status != 200 {
				t.Errorf("the administrator: %d %s", status, body)
			}
			if !strings.Contains(r.log.String(), "what was in force stays so") || !strings.Contains(r.log.String(), bad.says) {
				t.Errorf("the log does not say why:\n%s", r.log)
			}
		})
	}
}

// Nobody sends a signal: the files are looked at.
func TestReloadWhenAFileChanges(t *testing.T) {
	r, _ := launchReloading(t)
	writeCertificate(t, r.cert, r.key, 2)
	for i := 0; r.serial(t) != 2; i++ {
		if i == maxAsked {
			t.Fatalf("the certificate is still the old one\n%s", r.log)
		}
	}
	r.await(t, "accepted", 1)
}
