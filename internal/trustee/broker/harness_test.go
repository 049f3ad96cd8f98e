// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/platform"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
	"github.com/nacre-project/nacre/test/machine"
)

// The machines: one whose root the trustee knows, and one of somebody else.
var openOurs, openTheirs = machine.Lazy("ours"), machine.Lazy("theirs")

func platforms(t testing.TB) (ours, theirs *signer.Platform) {
	t.Helper()
	ours, err := openOurs()
	if err == nil {
		theirs, err = openTheirs()
	}
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

const initDataText = `version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://127.0.0.1:8080"
'''
"policy.rego" = '''
package agent_policy
default allow := false
'''
`

const secretPath = "default/db/password"

// trustee is a running trustee: a broker on a real store behind a TLS listener.
type trustee struct {
	t       testing.TB
	options store.Options
	config  broker.Config
	store   *store.Store
	broker  *broker.Broker
	server  *httptest.Server
	admin   *kbs.Admin
	owner   kbs.AdminKey
	clock   atomic.Int64 // how far the trustee's clock is ahead, in nanoseconds
	log     lockedBuffer
	tls     *http.Client
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (s *trustee) now() time.Time { return time.Now().Add(time.Duration(s.clock.Load())) }

// start starts a trustee that trusts our machine's root; deviate may change its configuration.
func start(t testing.TB, deviate ...func(*broker.Config)) *trustee {
	t.Helper()
	ours, _ := platforms(t)
	dir := t.TempDir()
	s := &trustee{t: t, options: store.Options{Dir: filepath.Join(dir, "data"),
		KeyFile: filepath.Join(dir, "store.key")}}
	s.options.Now = s.now
	var err error
	if s.owner, err = kbs.NewAdminKey(); err != nil {
		t.Fatal(err)
	}
	s.config = broker.Config{
		Platforms: map[attest.TEE]broker.Platform{attest.SNP: platform.SNP(snp.Config{Roots: []snp.Root{ours.Root()},
			Now: s.now})},
		Tunable: broker.Tunable{Admin: admin.New(admin.Config{Keys: []ed25519.PublicKey{s.owner.Public()},
			Now: s.now})},
		Log: slog.New(broker.LogHandler{Handler: slog.NewJSONHandler(&s.log, nil)}),
		Now: s.now,
	}
	for _, d := range deviate {
		d(&s.config)
	}
	s.run()
	t.Cleanup(s.stop)
	return s
}

func (s *trustee) run() {
	s.t.Helper()
	var err error
	if s.store, err = store.Open(s.t.Context(), s.options); err != nil {
		s.t.Fatal(err)
	}
	c := s.config
	c.Store = s.store
	c.Resources = resource.Stored{Store: s.store}
	if c.Plugins == nil {
		c.Plugins = map[string]resource.Plugin{"resource": c.Resources}
	}
	if s.broker, err = broker.New(s.t.Context(), c); err != nil {
		s.t.Fatal(err)
	}
	s.server = httptest.NewTLSServer(s.broker)
	s.tls = s.server.Client()
	if s.admin, err = kbs.NewAdmin(s.client(), s.adminToken); err != nil {
		s.t.Fatal(err)
	}
}

func (s *trustee) adminToken() (string, error) {
	return s.owner.Token(s.now(), time.Minute, admin.DefaultAudience, admin.Role)
}

func (s *trustee) stop() {
	s.server.Close()
	s.admin.Close()
	s.store.Close()
}

func (s *trustee) restart() {
	s.t.Helper()
	s.stop()
	s.run()
}

func (s *trustee) client() kbs.ClientConfig {
	return kbs.ClientConfig{URL: s.server.URL, Attempts: 1,
		PinnedCert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})}
}

// provision does what an owner does: a secret, reference values of the machine and guest, and a release policy from
// the template.
func (s *trustee) provision() {
	s.t.Helper()
	s.register(references(s.t))
	if err := s.admin.PutResource(s.t.Context(), secretPath, []byte("hunter2")); err != nil {
		s.t.Fatal(err)
	}
	s.setRelease(affirming(s.t), kbs.ReleaseOptions{AllowSimulated: true})
}

func (s *trustee) register(values map[string]any) {
	s.t.Helper()
	if err := s.admin.RegisterReferenceValue(s.t.Context(), values); err != nil {
		s.t.Fatal(err)
	}
}

func (s *trustee) setRelease(text string, o kbs.ReleaseOptions) {
	s.t.Helper()
	if err := s.admin.SetResourcePolicy(s.t.Context(), text, o); err != nil {
		s.t.Fatal(err)
	}
}

func affirming(t testing.TB) string {
	t.Helper()
	text, err := templates.Affirming{Resources: []string{secretPath, "default/db/missing"},
		InitData: []string{hexDigest(t, initDataText)}}.Rego()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func references(t testing.TB) map[string]any {
	ours, _ := platforms(t)
	tcb := ours.TCB()
	launch := launchOf(t, initDataText)
	return map[string]any{
		"snp_launch_measurement": []string{hexOf(launch.Measurement[:])},
		"snp_bootloader":         []int{int(tcb.Bootloader)}, "snp_microcode": []int{int(tcb.Microcode)},
		"snp_snp_svn": []int{int(tcb.SNP)}, "snp_tee_svn": []int{int(tcb.TEE)},
		"init_data": []string{hexDigest(t, initDataText)},
	}
}

func launchOf(t testing.TB, initData string) signer.Launch {
	t.Helper()
	l := signer.Launch{}
	copy(l.Measurement[:], "the launch measurement of a guest, 48 bytes long")
	if initData != "" {
		digest, err := initdata.Digest([]byte(initData))
		if err != nil {
			t.Fatal(err)
		}
		l.HostData = snp.HostData(digest)
	}
	return l
}

func hexDigest(t testing.TB, text string) string {
	t.Helper()
	digest, err := initdata.Digest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return hexOf(digest)
}

const hexDigits = "0123456789abcdef"

func hexOf(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(hexDigits[c>>4])
		s.WriteByte(hexDigits[c&15])
	}
	return s.String()
}

// answer is what came back of a request.
type answer struct {
	status int
	header http.Header
	body   []byte
	info   kbs.ErrorInformation
}

func (a answer) cookie() *http.Cookie {
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == kbs.SessionCookie {
			return c
		}
	}
	return nil
}

// send sends one request as it is given.
func (s *trustee) send(method, path string, body []byte, change func(*http.Request)) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, s.server.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	response, err := s.tls.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode, header: response.Header}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		s.t.Fatal(err)
	}
	if a.status >= 400 {
		if err := json.Unmarshal(a.body, &a.info); err != nil {
			s.t.Errorf("%s %s: status %d with a body that is not the protocol's: %q", method, path, a.status, a.body)
		}
	}
	return a
}

func withCookie(value string) func(*http.Request) {
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: kbs.SessionCookie, Value: value}) }
}

func withBearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func (s *trustee) withAdmin() func(*http.Request) {
	s.t.Helper()
	token, err := s.adminToken()
	if err != nil {
		s.t.Fatal(err)
	}
	return withBearer(token)
}

const authBody = `{"version":"0.4.0","tee":"snp","extra-params":{}}`

// challenge asks for a challenge and returns the nonce and the cookie's value.
func (s *trustee) challenge() (nonce, cookie string) {
	s.t.Helper()
	a := s.send("POST", "/kbs/v0/auth", []byte(authBody), nil)
	var c kbs.Challenge
	if err := json.Unmarshal(a.body, &c); err != nil || a.status != 200 || a.cookie() == nil {
		s.t.Fatalf("challenge: status %d, %v: %s", a.status, err, a.body)
	}
	return c.Nonce, a.cookie().Value
}

// attempt is an attestation, to be deviated from before it is sent.
type attempt struct {
	machine    *signer.Platform
	launch     signer.Launch
	nonce      string // in the runtime data
	boundNonce string // in the report data
	cookie     string
	key        *kbs.TEEKey // in the runtime data
	boundKey   *kbs.TEEKey // in the report data
	initData   *kbs.InitData
	additional string
	evidence   json.RawMessage // instead of the machine's
}

// attempt prepares the attestation of the guest that the owner provisioned for.
func (s *trustee) attempt() *attempt {
	s.t.Helper()
	ours, _ := platforms(s.t)
	a := &attempt{machine: ours, launch: launchOf(s.t, initDataText), key: teeKey(s.t, kbs.ECDHP256),
		initData: &kbs.InitData{Format: kbs.InitDataFormat, Body: initDataText}}
	a.boundKey = a.key
	a.nonce, a.cookie = s.challenge()
	a.boundNonce = a.nonce
	return a
}

func teeKey(t testing.TB, algorithm kbs.Algorithm) *kbs.TEEKey {
	t.Helper()
	key, err := kbs.GenerateTEEKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *attempt) body(t testing.TB) []byte {
	t.Helper()
	evidence := a.evidence
	if evidence == nil {
		reportData, err := kbs.ReportData(a.boundNonce, a.boundKey.Public(), a.additional)
		if err != nil {
			t.Fatal(err)
		}
		if evidence, err = a.machine.Launch(a.launch).Evidence(reportData); err != nil {
			t.Fatal(err)
		}
	}
	body, err := json.Marshal(kbs.Attestation{InitData: a.initData,
		RuntimeData: kbs.RuntimeData{Nonce: a.nonce, TEEPubKey: a.key.Public()},
		TEEEvidence: kbs.TEEEvidence{Primary: evidence, Additional: a.additional}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func (s *trustee) attest(a *attempt) answer {
	s.t.Helper()
	return s.send("POST", "/kbs/v0/attest", a.body(s.t), withCookie(a.cookie))
}

// token attests and returns the token.
func (s *trustee) token(a *attempt) string {
	s.t.Helper()
	got := s.attest(a)
	var response kbs.TokenResponse
	if err := json.Unmarshal(got.body, &response); err != nil || got.status != 200 || response.Token == "" {
		s.t.Fatalf("attest: status %d, %v: %s", got.status, err, got.body)
	}
	return response.Token
}

func (s *trustee) get(path string, change func(*http.Request)) answer {
	s.t.Helper()
	return s.send("GET", "/kbs/v0/resource/"+path, nil, change)
}

func open(t testing.TB, key *kbs.TEEKey, body []byte) (string, error) {
	t.Helper()
	envelope, err := kbs.ParseEnvelope(body)
	if err != nil {
		return "", err
	}
	plain, err := key.Open(envelope)
	return string(plain.Reveal()), err
}

// records returns the audit trail after a record.
func (s *trustee) records(after int64) []kbs.AuditRecord {
	s.t.Helper()
	list, err := s.admin.Audit(s.t.Context(), after, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

// last returns the newest audit record.
func (s *trustee) last() kbs.AuditRecord {
	s.t.Helper()
	list := s.records(0)
	if len(list) == 0 {
		s.t.Fatal("the audit trail is empty")
	}
	return list[len(list)-1]
}
