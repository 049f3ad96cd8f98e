// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/kbs"
)

// secretPath is the resource that guests ask for, and secretValue what it is: as long as a generated password.
const (
	secretPath  = "default/db/password"
	secretValue = "a secret of the usual length, 32"
)

// appraisalPolicyID is the policy by which evidence of a whole guest is appraised.
const appraisalPolicyID = "default_cpu"

// certificate is the TLS certificate that the trustee and its floor share, and the pool of those who trust it.
type certificate struct {
	certPath, keyPath string
	pem               []byte
	pool              *x509.CertPool
}

// newCertificate makes a certificate of the kind that the trustee makes for itself.
func newCertificate(dir string) (certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nacre bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return certificate{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certificate{}, err
	}
	c := certificate{
		certPath: filepath.Join(dir, "tls.crt"), keyPath: filepath.Join(dir, "tls.key"), pool: x509.NewCertPool(),
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
	c.pool.AppendCertsFromPEM(c.pem)
	if err := os.WriteFile(c.certPath, c.pem, 0o600); err != nil {
		return certificate{}, err
	}
	return c, os.WriteFile(c.keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// installation is a trustee's folder; a trustee that starts in it again knows what it knew.
type installation struct {
	program string
	dir     string
	cert    certificate
}

// newInstallation makes the folder of a trustee that trusts the platform.
func newInstallation(program, dir string, cert certificate, platform *signer.Platform) (installation, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return installation{}, err
	}
	return installation{program, dir, cert},
		os.WriteFile(filepath.Join(dir, "root.pem"), simtee.FormatRoot(platform.Root()), 0o600)
}

func (i installation) path(name string) string { return filepath.Join(i.dir, name) }

// start starts the trustee; a profile path makes it profile itself. Settings of the environment are added to this
// process's.
func (i installation) start(ctx context.Context, profile string, env ...string) (*server, error) {
	args := []string{
		"--json", "--listen", "127.0.0.1:0", "--tls-cert", i.cert.certPath, "--tls-key", i.cert.keyPath,
		"--data", i.path("data"), "--key-file", i.path("store.key"), "--admin-key-out", i.path("admin.key"),
		"--allow-simulated-root", i.path("root.pem"), "--kds-url", "",
		"--token-lifetime", "1h", "--session-lifetime", "1h",
	}
	if profile != "" {
		args = append(args, "--cpu-profile", profile)
	}
	cmd := exec.CommandContext(ctx, i.program, args...)
	log, err := os.OpenFile(i.path("trustee.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr, cmd.Env = log, append(os.Environ(), env...)
	s, err := startServer(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("%w; its log is %s", err, log.Name())
	}
	return s, nil
}

// administrator is the owner's client of a running trustee.
type administrator struct {
	*kbs.Admin
	token func() (string, error)
	url   string
	http  *http.Client
}

func (i installation) administrator(s *server) (*administrator, error) {
	text, err := os.ReadFile(i.path("admin.key"))
	if err != nil {
		return nil, err
	}
	key, err := kbs.ParseAdminKey(text)
	if err != nil {
		return nil, err
	}
	a := &administrator{url: s.url, http: newHTTPClient(i.cert.pool)}
	a.token = func() (string, error) { return key.Token(time.Now(), time.Minute, "nacre-trustee", "admin") }
	a.Admin, err = kbs.NewAdmin(kbs.ClientConfig{URL: s.url, PinnedCert: i.cert.pem}, a.token)
	return a, err
}

func (a *administrator) close() {
	a.Close()
	a.http.CloseIdleConnections()
}

// attestationPolicy is the appraisal policy in force.
func (a *administrator) attestationPolicy(ctx context.Context) (string, error) {
	token, err := a.token()
	if err != nil {
		return "", err
	}
	ask := request{method: http.MethodGet, path: "/nacre/v1/attestation-policy/" + appraisalPolicyID, bearer: token}
	body, _, err := send(ctx, a.http, a.url, ask)
	if err != nil {
		return "", err
	}
	var answer struct {
		Policy string `json:"policy"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("reading the appraisal policy: %w", err)
	}
	return answer.Policy, nil
}

// referenceValues are those that are registered, by name, as JSON.
func (a *administrator) referenceValues(ctx context.Context) (map[string]any, error) {
	list, err := a.ReferenceValues(ctx)
	if err != nil {
		return nil, err
	}
	values := make(map[string]any, len(list))
	for _, v := range list {
		decoder := json.NewDecoder(bytes.NewReader(v.Value))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("reading the reference value %s: %w", v.Name, err)
		}
		values[v.Name] = value
	}
	return values, nil
}
