// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/ear"
	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
)

// The way of one secret, with the client that guests have.
func TestTheWayOfOneSecret(t *testing.T) {
	s := start(t)
	s.provision()
	ours, _ := platforms(t)
	for _, algorithm := range []kbs.Algorithm{kbs.ECDHP256, kbs.ECDHP521, kbs.RSAOAEP256} {
		client, err := kbs.NewClient(s.client())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		key := teeKey(t, algorithm)
		processor := ours.Launch(launchOf(t, initDataText))
		token, err := client.Attest(t.Context(), attest.SNP, key,
			func(_ context.Context, reportData []byte) (json.RawMessage, error) {
				return processor.Evidence(reportData)
			}, &kbs.InitData{Format: kbs.InitDataFormat, Body: initDataText})
		if err != nil {
			t.Fatal(err)
		}
		uri, err := kbs.ParseResourceURI("kbs:///" + secretPath)
		if err != nil {
			t.Fatal(err)
		}
		value, err := client.Resource(t.Context(), uri, token, key)
		if err != nil || string(value.Reveal()) != "hunter2" {
			t.Fatalf("%v: %v", algorithm, err)
		}
	}
	measurement := launchOf(t, initDataText).Measurement
	trail := s.records(3)
	if len(trail) != 6 {
		t.Fatalf("%d audit records of three attestations and releases", len(trail))
	}
	for i := 0; i < len(trail); i += 2 {
		attested, released := trail[i], trail[i+1]
		if attested.Event != "attest" || attested.Decision != "accepted" || attested.TEE != "snp" ||
			!attested.Simulated || attested.Root == "" ||
			attested.Measurement != hexOf(measurement[:]) || attested.InitData != hexDigest(t, initDataText) ||
			attested.TokenID == "" ||
			!strings.HasPrefix(attested.Policy, "default_cpu@sha256:") ||
			!strings.Contains(attested.Detail, "affirming") {
			t.Errorf("attested: %+v", attested)
		}
		if released.Event != "release" || released.Decision != "released" ||
			released.Resource != "kbs:///"+secretPath ||
			released.TokenID != attested.TokenID || released.Measurement != attested.Measurement ||
			released.InitData != attested.InitData ||
			released.Root != attested.Root || released.TEE != "snp" || !released.Simulated ||
			!strings.HasPrefix(released.Policy, "resource-policy@sha256:") {
			t.Errorf("released: %+v", released)
		}
	}
	for _, log := range []string{"hunter2", "BEGIN PRIVATE KEY"} {
		if strings.Contains(s.log.String(), log) {
			t.Errorf("the log contains %q", log)
		}
	}
}

// A client that keeps its session's cookie needs no token.
func TestCookieClients(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	s.token(a)
	got := s.get(secretPath, withCookie(a.cookie))
	if value, err := open(t, a.key, got.body); got.status != 200 || err != nil || value != "hunter2" {
		t.Errorf("status %d, %q, %v", got.status, value, err)
	}
	// A stale cookie does not keep a good token from counting.
	b := s.attempt()
	token := s.token(b)
	_, fresh := s.challenge()
	for _, cookie := range []string{"nonsense", fresh} {
		got = s.get(secretPath, func(r *http.Request) { withCookie(cookie)(r); withBearer(token)(r) })
		if value, err := open(t, b.key, got.body); got.status != 200 || err != nil || value != "hunter2" {
			t.Errorf("cookie %q: status %d, %q, %v", cookie, got.status, value, err)
		}
	}
}

func TestCookieAttributes(t *testing.T) {
	s := start(t)
	a := s.send("POST", "/kbs/v0/auth", []byte(authBody), nil)
	c := a.cookie()
	if c == nil || c.Path != "/kbs" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode ||
		c.Expires.Before(time.Now().Add(4*time.Minute)) || c.Expires.After(time.Now().Add(6*time.Minute)) {
		t.Errorf("%+v", c)
	}
	var challenge kbs.Challenge
	if err := json.Unmarshal(a.body, &challenge); err != nil || len(challenge.Nonce) != 44 ||
		string(challenge.ExtraParams) != `""` {
		t.Errorf("%s, %v", a.body, err)
	}
}

func TestTokenContent(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	compact := s.token(a)
	jwks := s.send("GET", "/.well-known/jwks.json", nil, nil)
	keys, err := ear.ParseJWKS(jwks.body)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := ear.Verify(compact, keys, time.Now(), ear.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cpu := token.Submods[ear.PrimarySubmod]
	if cpu.Status != ear.Affirming || cpu.PolicyID != "default" || len(cpu.PolicyDigest) != 64 || !token.Simulated() ||
		token.Expiry.Sub(token.IssuedAt) != broker.DefaultTokenLifetime || token.ID == "" || token.Issuer == "" {
		t.Errorf("%+v", token)
	}
	runtimeData, _ := cpu.Evidence[ear.RuntimeDataClaims].(map[string]any)
	initData, _ := cpu.Evidence[ear.InitDataClaims].(map[string]any)
	if runtimeData["nonce"] != a.nonce || cpu.Evidence["init_data"] != hexDigest(t, initDataText) ||
		initData["aa.toml"] == nil {
		t.Errorf("annotated evidence: %v", cpu.Evidence)
	}
	key, err := token.TEEPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if jwk, err := kbs.ParseJWK(key); err != nil || jwk != a.key.Public() {
		t.Errorf("TEE key: %s, %v", key, err)
	}
}

// A fresh trustee releases nothing, to anybody.
func TestAttackFreshTrustee(t *testing.T) {
	s := start(t)
	if err := s.admin.PutResource(t.Context(), secretPath, []byte("hunter2")); err != nil {
		t.Fatal(err)
	}
	got := s.get(secretPath, withBearer(s.token(s.attempt())))
	if got.status != 403 || got.info.Code != "policy_denied" {
		t.Errorf("status %d, %+v", got.status, got.info)
	}
	s.setRelease(templates.DenyAll(), kbs.ReleaseOptions{AllowSimulated: true, UnsafeAnyInitData: true})
	got = s.get(secretPath, withBearer(s.token(s.attempt())))
	if got.status != 403 || got.info.Code != "policy_denied" {
		t.Errorf("status %d, %+v", got.status, got.info)
	}
}

// A guest without init-data attests, and gets nothing.
func TestGuestWithoutInitData(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	a.launch, a.initData = launchOf(t, ""), nil
	got := s.get(secretPath, withBearer(s.token(a)))
	if got.status != 403 || got.info.Code != "policy_denied" {
		t.Errorf("status %d, %+v", got.status, got.info)
	}
	if r := s.last(); r.Decision != "refused" || r.Code != "policy_denied" || r.InitData != strings.Repeat("0", 64) {
		t.Errorf("%+v", r)
	}
}

// what one deviation must lead to: status and code, and whether audit has it.
type outcome struct {
	status  int
	code    string
	audited bool
}

// Each attempt deviates in one thing from one that is accepted.
func TestAttackAttestation(t *testing.T) {
	s := start(t)
	s.provision()
	_, theirs := platforms(t)
	other := start(t)
	host := strings.Replace(initDataText, "default allow := false", "default allow := true", 1)
	for name, c := range map[string]struct {
		deviate func(*attempt)
		want    outcome
	}{
		"nothing":   {func(*attempt) {}, outcome{200, "", true}},
		"no cookie": {func(a *attempt) { a.cookie = "" }, outcome{401, "session_invalid", false}},
		"cookie of another trustee": {func(a *attempt) {
			a.nonce, a.cookie = other.challenge()
			a.boundNonce = a.nonce
		}, outcome{401, "session_invalid", false}},
		"cookie changed": {func(a *attempt) { a.cookie = flip(a.cookie) },
			outcome{401, "session_invalid", false}},
		"cookie cut": {func(a *attempt) { a.cookie = a.cookie[:len(a.cookie)-4] },
			outcome{401, "session_invalid", false}},
		"cookie of another session": {func(a *attempt) { _, a.cookie = s.challenge() },
			outcome{401, "nonce_mismatch", false}},
		"another nonce": {func(a *attempt) {
			a.nonce, _ = s.challenge()
			a.boundNonce = a.nonce
		}, outcome{401, "nonce_mismatch", false}},
		"no nonce": {func(a *attempt) { a.nonce, a.boundNonce = "", "" }, outcome{401, "nonce_mismatch", false}},
		"evidence of another session": {func(a *attempt) { a.boundNonce, _ = s.challenge() },
			outcome{401, "report_data_mismatch", true}},
		"another TEE key": {func(a *attempt) { a.key = teeKey(t, kbs.ECDHP256) },
			outcome{401, "report_data_mismatch", true}},
		"another root": {func(a *attempt) { a.machine = theirs },
			outcome{401, "root_untrusted", false}},
		"a debuggable guest": {func(a *attempt) { a.launch.Policy = 0xB0000 },
			outcome{401, "debug_enabled", true}},
		"other init-data than bound": {func(a *attempt) { a.initData.Body = host },
			outcome{401, "init_data_mismatch", true}},
		"init-data, none bound": {func(a *attempt) { a.launch = launchOf(t, "") },
			outcome{401, "init_data_mismatch", true}},
		"init-data not TOML": {func(a *attempt) { a.initData.Body = "{" },
			outcome{400, "bad_request", false}},
		"init-data not of a known format": {func(a *attempt) { a.initData.Format = "json" },
			outcome{400, "bad_request", false}},
		"additional evidence": {func(a *attempt) { a.additional = `{"nvidia":{}}` },
			outcome{401, "evidence_unsupported", false}},
		"evidence null": {func(a *attempt) { a.evidence = json.RawMessage("null") },
			outcome{400, "evidence_malformed", false}},
		"evidence empty": {func(a *attempt) { a.evidence = json.RawMessage("{}") },
			outcome{400, "evidence_malformed", false}},
		"evidence huge": {func(a *attempt) { a.evidence = json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`) },
			outcome{413, "too_large", false}},
		"body huge": {func(a *attempt) { a.evidence = json.RawMessage(`"` + strings.Repeat("x", 2<<20) + `"`) },
			outcome{413, "too_large", false}},
		"additional evidence empty object": {func(a *attempt) { a.additional = "{}" }, outcome{200, "", true}},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.attempt()
			c.deviate(a)
			before := s.last().ID
			got := s.attest(a)
			if got.status != c.want.status || got.info.Code != c.want.code {
				t.Errorf("status %d, %+v; want %d, %q", got.status, got.info, c.want.status, c.want.code)
			}
			trail := s.records(before)
			if len(trail) > 1 || (len(trail) == 1) != c.want.audited {
				t.Fatalf("%d audit records", len(trail))
			}
			if c.want.audited && (trail[0].Code != c.want.code || trail[0].Measurement == "" ||
				trail[0].InitData == "" ||
				strings.HasSuffix(c.want.code, "_mismatch") && (!trail[0].Simulated || trail[0].Root == "") ||
				c.want.code != "" && (trail[0].RequestID != got.info.RequestID || trail[0].Decision != "refused")) {
				t.Errorf("audit: %+v", trail[0])
			}
			if got.status >= 400 {
				tellsNothing(t, s, got)
			}
		})
	}
}

func flip(s string) string {
	if s[10] == 'A' {
		return s[:10] + "B" + s[11:]
	}
	return s[:10] + "A" + s[11:]
}

// tellsNothing checks that a refusal is the protocol's, has a request id that the log knows, and no measured value.
func tellsNothing(t *testing.T, s *trustee, a answer) {
	t.Helper()
	if a.header.Get("Content-Type") != "application/json" || !strings.HasPrefix(a.info.Type, kbs.ErrorTypePrefix) ||
		a.info.RequestID == "" ||
		a.info.RequestID != a.header.Get("X-Request-Id") || a.info.Code == "" || a.info.Detail == "" {
		t.Errorf("not the protocol's error: %s %v", a.body, a.header)
	}
	launch := launchOf(t, initDataText)
	for _, value := range []string{hexOf(launch.Measurement[:])[:16], hexOf(launch.HostData[:])[:16],
		hexDigest(t, initDataText)[:16]} {
		if strings.Contains(string(a.body), value) {
			t.Errorf("the client is told a measured value: %s", a.body)
		}
	}
	if !strings.Contains(s.log.String(), a.info.RequestID) {
		t.Errorf("the log does not know the request %s", a.info.RequestID)
	}
}

func TestAttackReplay(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	body := a.body(t)
	send := func() answer { return s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie)) }
	if got := send(); got.status != 200 {
		t.Fatalf("first: %d %s", got.status, got.body)
	}
	again := func(code string) func(*testing.T) {
		return func(t *testing.T) {
			if got := send(); got.status != 401 || got.info.Code != code {
				t.Errorf("%d %+v", got.status, got.info)
			}
		}
	}
	before := s.last().ID
	t.Run("in the same session", again("nonce_used"))
	if trail := s.records(before); len(trail) == 1 && (trail[0].Code != "nonce_used" ||
		trail[0].Decision != "refused" || trail[0].TokenID != "") {
		t.Errorf("audit: %+v", trail)
	}
	s.restart()
	t.Run("after a restart", again("nonce_used"))
	t.Run("in a fresh session", func(t *testing.T) {
		_, fresh := s.challenge()
		if got := s.send("POST", "/kbs/v0/attest", body, withCookie(fresh)); got.status != 401 ||
			got.info.Code != "nonce_mismatch" {
			t.Errorf("%d %+v", got.status, got.info)
		}
	})
	s.clock.Store(int64(broker.DefaultSessionLifetime))
	t.Run("when the session is over", again("session_expired"))
	s.clock.Store(int64(24 * time.Hour))
	t.Run("a day later", again("session_expired"))
}

// Of many copies of the same good attestation at the same time, one is accepted.
func TestAttackReplayAtTheSameTime(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	body := a.body(t)
	var mu sync.Mutex
	statuses := map[string]int{}
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			got := s.send("POST", "/kbs/v0/attest", body, withCookie(a.cookie))
			mu.Lock()
			defer mu.Unlock()
			statuses[fmt.Sprint(got.status, got.info.Code)]++
		})
	}
	wait.Wait()
	if statuses["200"] != 1 || statuses["401nonce_used"]+statuses["401 nonce_used"] != 15 {
		t.Errorf("%v", statuses)
	}
}

// One report, sent again and again, cannot fill the disk; what is not authentic is never recorded.
func TestAttackFillTheDisk(t *testing.T) {
	s := start(t)
	s.provision()
	_, theirs := platforms(t)
	stale := s.attempt()
	stale.boundNonce = "another"
	reportData, err := kbs.ReportData(stale.boundNonce, stale.boundKey.Public(), "")
	if err != nil {
		t.Fatal(err)
	}
	if stale.evidence, err = stale.machine.Launch(stale.launch).Evidence(reportData); err != nil {
		t.Fatal(err)
	}
	t.Run("with one genuine report", func(t *testing.T) {
		before := s.last().ID
		for i := range 40 {
			stale.nonce, stale.cookie = s.challenge()
			// The envelope can be changed without touching what is signed.
			stale.evidence = append(fmt.Appendf(nil, "{\"more-%d\":0,", i), stale.evidence[1:]...)
			s.attest(stale)
		}
		if n := len(s.records(before)); n > 16 {
			t.Errorf("%d records", n)
		}
	})
	t.Run("with what is not authentic", func(t *testing.T) {
		before := s.last().ID
		for range 5 {
			a := s.attempt()
			a.machine = theirs
			s.attest(a)
			s.get(secretPath, withBearer("forged"))
			s.send("POST", "/kbs/v0/resource-policy", []byte("{}"), withBearer("forged"))
			s.challenge()
		}
		if trail := s.records(before); len(trail) != 0 {
			t.Errorf("%+v", trail)
		}
	})
}

func TestAttackResource(t *testing.T) {
	s := start(t)
	s.provision()
	if err := s.admin.PutResource(t.Context(), "default/db/other", []byte("not for you")); err != nil {
		t.Fatal(err)
	}
	a := s.attempt()
	token := s.token(a)
	if got := s.get(secretPath, withBearer(token)); got.status != 200 {
		t.Fatalf("the request that the others deviate from: %d %s", got.status, got.body)
	} else if _, err := open(t, teeKey(t, kbs.ECDHP256), got.body); err == nil {
		t.Error("another key opens the envelope")
	}
	elsewhere := start(t)
	elsewhere.provision()
	foreign := elsewhere.token(elsewhere.attempt())
	parts := strings.Split(token, ".")
	unauthorised := s.attempt()
	host := strings.Replace(initDataText, "default allow := false", "default allow := true", 1)
	unauthorised.launch, unauthorised.initData.Body = launchOf(t, host), host
	_, unattested := s.challenge()
	for name, c := range map[string]struct {
		path   string
		change func(*http.Request)
		want   outcome
	}{
		"nothing": {secretPath, nil, outcome{401, "token_missing", false}},
		"a session not attested": {secretPath, withCookie(unattested),
			outcome{401, "token_missing", false}},
		"a cookie made up":        {secretPath, withCookie("AAAA"), outcome{401, "session_invalid", false}},
		"not a token":             {secretPath, withBearer("x"), outcome{401, "token_invalid", false}},
		"another trustee's token": {secretPath, withBearer(foreign), outcome{401, "token_invalid", false}},
		"no signature": {secretPath, withBearer(parts[0] + "." + parts[1] + "."),
			outcome{401, "token_invalid", false}},
		"another's signature": {secretPath,
			withBearer(parts[0] + "." + parts[1] + "." + strings.Split(foreign, ".")[2]),
			outcome{401, "token_invalid", false}},
		"algorithm none": {secretPath, withBearer("eyJhbGciOiJub25lIn0." + parts[1] + "."),
			outcome{401, "token_invalid", false}},
		"the administrator's token": {secretPath, s.withAdmin(), outcome{401, "token_invalid", false}},
		"a resource not named": {"default/db/other", withBearer(token),
			outcome{403, "policy_denied", true}},
		"one that does not exist, not named": {"default/db/none", withBearer(token),
			outcome{403, "policy_denied", true}},
		"one that does not exist, named": {"default/db/missing", withBearer(token),
			outcome{404, "resource_not_found", true}},
		"a query": {secretPath + "?a=b", withBearer(token),
			outcome{403, "policy_denied", true}},
		"a query twice": {secretPath + "?a=b&a=c", withBearer(token),
			outcome{400, "bad_request", false}},
		"an escaped path": {"default/db%2Fpassword", withBearer(token),
			outcome{400, "bad_request", false}},
		"a longer path": {secretPath + "/", withBearer(token),
			outcome{403, "policy_denied", true}},
		"a shorter path": {"default/db", withBearer(token), outcome{403, "policy_denied", true}},
		"dots": {"default/../default/db/password", withBearer(token),
			outcome{403, "policy_denied", true}},
		"bound, unauthorised init-data": {secretPath, withBearer(s.token(unauthorised)),
			outcome{403, "policy_denied", true}},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.last().ID
			got := s.get(c.path, c.change)
			if got.status != c.want.status || got.info.Code != c.want.code {
				t.Errorf("status %d, %+v; want %d, %q", got.status, got.info, c.want.status, c.want.code)
			}
			if got.status == 403 && !strings.Contains(got.info.Detail, "Access denied by policy") {
				t.Errorf("detail %q", got.info.Detail)
			}
			trail := s.records(before)
			if len(trail) > 1 || (len(trail) == 1) != c.want.audited {
				t.Fatalf("%d audit records", len(trail))
			}
			if c.want.audited && (trail[0].Decision != "refused" || trail[0].Code != c.want.code ||
				trail[0].RequestID != got.info.RequestID) {
				t.Errorf("audit: %+v", trail[0])
			}
			tellsNothing(t, s, got)
		})
	}
	late := s.token(s.attempt()) // not seen before it has expired
	s.clock.Store(int64(broker.DefaultTokenLifetime + time.Second))
	for name, c := range map[string]struct {
		change func(*http.Request)
		code   string
	}{
		"an expired token":            {withBearer(token), "token_expired"},
		"an expired token, first use": {withBearer(late), "token_expired"},
		"an expired session":          {withCookie(a.cookie), "session_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := s.get(secretPath, c.change); got.status != 401 || got.info.Code != c.code {
				t.Errorf("%d %+v", got.status, got.info)
			}
		})
	}
}

// The release policy in force pins nothing; the guest is genuine, its init-data the host's.
func TestAttackUnpinnedPolicy(t *testing.T) {
	s := start(t)
	s.provision()
	loose := "package policy\nimport rego.v1\nallow if input.submods.cpu0[\"ear.veraison.annotated-evidence\"].init_data\n"
	err := s.admin.SetResourcePolicy(t.Context(), "package policy\nallow := true\n",
		kbs.ReleaseOptions{AllowSimulated: true})
	if status, ok := errors.AsType[*kbs.StatusError](err); !ok || status.Status != 400 ||
		!strings.Contains(status.Info.Detail, "unsafe_any_initdata") {
		t.Errorf("a policy that does not look at init-data: %v", err)
	}
	s.setRelease(loose, kbs.ReleaseOptions{AllowSimulated: true})
	token := s.token(s.attempt())
	if got := s.get(secretPath, withBearer(token)); got.status != 403 || got.info.Code != "init_data_not_pinned" {
		t.Errorf("%d %+v", got.status, got.info)
	}
	s.setRelease(loose, kbs.ReleaseOptions{AllowSimulated: true, UnsafeAnyInitData: true})
	if got := s.get(secretPath, withBearer(token)); got.status != 200 {
		t.Errorf("accepted by the owner: %d %+v", got.status, got.info)
	}
}

func TestAttackSimulatedGuest(t *testing.T) {
	s := start(t)
	s.provision()
	token := s.token(s.attempt())
	s.setRelease(affirming(t), kbs.ReleaseOptions{})
	if got := s.get(secretPath, withBearer(token)); got.status != 403 || got.info.Code != "simulated_not_allowed" {
		t.Errorf("%d %+v", got.status, got.info)
	}
}

func TestStatusTable(t *testing.T) {
	s := start(t)
	for name, c := range map[string]struct {
		method, path, body string
		change             func(*http.Request)
		want               outcome
	}{
		"health":          {"GET", "/healthz", "", nil, outcome{200, "", false}},
		"metrics":         {"GET", "/metrics", "", nil, outcome{200, "", false}},
		"metrics by POST": {"POST", "/metrics", "", nil, outcome{405, "method_not_allowed", false}},
		"the root":        {"GET", "/", "", nil, outcome{404, "not_found", false}},
		"another version": {"POST", "/kbs/v1/auth", authBody, nil, outcome{404, "not_found", false}},
		"auth by GET":     {"GET", "/kbs/v0/auth", "", nil, outcome{404, "plugin_unknown", false}},
		"auth by PATCH":   {"PATCH", "/kbs/v0/auth", "", nil, outcome{405, "method_not_allowed", false}},
		"auth below":      {"POST", "/kbs/v0/auth/x", authBody, nil, outcome{404, "plugin_unknown", false}},
		"no plugin":       {"GET", "/kbs/v0/", "", nil, outcome{404, "plugin_unknown", false}},
		"unknown plugin":  {"GET", "/kbs/v0/nebula-ca/x", "", nil, outcome{404, "plugin_unknown", false}},
		"plugin by PUT": {"PUT", "/kbs/v0/resource/a/b/c", "", nil,
			outcome{405, "method_not_allowed", false}},
		"plugin by PATCH": {"PATCH", "/kbs/v0/resource/a/b/c", "", nil,
			outcome{405, "method_not_allowed", false}},
		"auth, not JSON": {"POST", "/kbs/v0/auth", "{", nil, outcome{400, "bad_request", false}},
		"auth, empty":    {"POST", "/kbs/v0/auth", "", nil, outcome{400, "bad_request", false}},
		"auth, old version": {"POST", "/kbs/v0/auth", strings.Replace(authBody, "0.4.0", "0.3.0", 1), nil,
			outcome{401, "protocol_version", false}},
		"auth, no verifier": {"POST", "/kbs/v0/auth", strings.Replace(authBody, "snp", "tdx", 1), nil,
			outcome{401, "evidence_unsupported", false}},
		"auth, sample": {"POST", "/kbs/v0/auth", strings.Replace(authBody, "snp", "sample", 1), nil,
			outcome{401, "evidence_unsupported", false}},
		"auth, too large": {"POST", "/kbs/v0/auth", strings.Repeat(" ", 3<<20), nil,
			outcome{413, "too_large", false}},
		"attest without a cookie": {"POST", "/kbs/v0/attest", "{}", nil, outcome{401, "session_missing", false}},
		"set a bad path": {"POST", "/kbs/v0/resource/a/b", "x", s.withAdmin(),
			outcome{400, "bad_request", false}},
		"delete what is not": {"DELETE", "/kbs/v0/resource/a/b/c", "", s.withAdmin(),
			outcome{404, "resource_not_found", false}},
		"no such reference value": {"GET", "/kbs/v0/reference-value/x/y", "", s.withAdmin(),
			outcome{404, "not_found", false}},
		"a reference value without a name": {"GET", "/kbs/v0/reference-value", "", s.withAdmin(),
			outcome{404, "not_found", false}},
		"delete no such value": {"DELETE", "/nacre/v1/reference-value/x", "", s.withAdmin(),
			outcome{404, "not_found", false}},
		"a bad message": {"POST", "/kbs/v0/reference-value", "{}", s.withAdmin(),
			outcome{400, "bad_request", false}},
		"a policy not base64": {"POST", "/kbs/v0/resource-policy", `{"policy":"*"}`, s.withAdmin(),
			outcome{400, "bad_request", false}},
		"a policy not Rego": {"POST", "/kbs/v0/resource-policy", `{"policy":"eHl6"}`, s.withAdmin(),
			outcome{400, "bad_policy", false}},
		"a policy for nothing": {"POST", "/kbs/v0/attestation-policy",
			`{"policy_id":"default","policy":"cGFja2FnZSBwb2xpY3k"}`, s.withAdmin(), outcome{400, "bad_policy", false}},
		"audit from nowhere": {"GET", "/nacre/v1/audit?after=x", "", s.withAdmin(),
			outcome{400, "bad_request", false}},
	} {
		got := s.send(c.method, c.path, []byte(c.body), c.change)
		if got.status != c.want.status || got.info.Code != c.want.code {
			t.Errorf("%s: status %d, %+v; want %d, %q", name, got.status, got.info, c.want.status, c.want.code)
		}
		if allow := got.header.Get("Allow"); got.status == 405 && (allow == "" || strings.Contains(allow, c.method)) {
			t.Errorf("%s: the methods allowed are %q", name, allow)
		}
		if got.status >= 400 {
			tellsNothing(t, s, got)
		}
	}
	got := s.send("POST", "/kbs/v0/auth", []byte(strings.Replace(authBody, "0.4.0", "0.3.0", 1)), nil)
	if want := "KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.3.0"; !strings.Contains(got.info.Detail, want) {
		t.Errorf("detail %q, want %q in it", got.info.Detail, want)
	}
}

// unavailable is a verifier whose certificates are out of reach.
type unavailable struct{}

func (unavailable) Verify(context.Context, json.RawMessage, attest.Expected) (*attest.Claims, error) {
	return nil, &attest.Error{Code: attest.CodeCollateralUnavailable, Detail: "secret detail",
		RetryAfter: 7500 * time.Millisecond}
}

func TestCollateralOutOfReach(t *testing.T) {
	s := start(t, func(c *broker.Config) {
		c.Platforms = map[attest.TEE]broker.Platform{attest.SNP: {Verifier: unavailable{}}}
	})
	got := s.attest(s.attempt())
	if got.status != 503 || got.info.Code != "collateral_unavailable" || got.header.Get("Retry-After") != "8" ||
		strings.Contains(string(got.body), "secret detail") {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
}

// crashing is a verifier with a bug.
type crashing struct{}

func (crashing) Verify(context.Context, json.RawMessage, attest.Expected) (*attest.Claims, error) {
	panic("a bug in a parser")
}

func TestAVerifiersPanicIsOneRequestsFailure(t *testing.T) {
	s := start(t, func(c *broker.Config) {
		c.Platforms = map[attest.TEE]broker.Platform{attest.SNP: {Verifier: crashing{}}}
		c.MaxAttests = 1
	})
	for range 3 { // the one slot must be free again each time
		if got := s.attest(s.attempt()); got.status != 500 || got.info.Code != "internal" ||
			strings.Contains(string(got.body), "bug") {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
}

// The answer leaves only after its record was written: without a store there is no answer.
func TestAttackWithoutARecord(t *testing.T) {
	s := start(t)
	s.provision()
	a := s.attempt()
	token := s.token(a)
	if got := s.get(secretPath, withBearer(token)); got.status != 200 {
		t.Fatal(got.status)
	}
	next := s.attempt()
	body := next.body(t)
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]answer{
		"attest":   s.send("POST", "/kbs/v0/attest", body, withCookie(next.cookie)),
		"release":  s.get(secretPath, withBearer(token)),
		"refusal":  s.get("default/db/other", withBearer(token)),
		"a change": s.send("POST", "/kbs/v0/resource/a/b/c", []byte("x"), s.withAdmin()),
	} {
		t.Run(name, func(t *testing.T) {
			if got.status != 500 || got.info.Code != "internal" {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
}

func TestRestart(t *testing.T) {
	s := start(t)
	s.provision()
	attested, open1 := s.attempt(), s.attempt()
	token := s.token(attested)
	jwks := s.send("GET", "/.well-known/jwks.json", nil, nil).body
	trail := s.records(0)
	s.restart()
	if got := s.get(secretPath, withBearer(token)); got.status != 200 {
		t.Errorf("token: %d %s", got.status, got.body)
	}
	got := s.get(secretPath, withCookie(attested.cookie))
	if value, err := open(t, attested.key, got.body); err != nil || value != "hunter2" {
		t.Errorf("cookie: %d, %v", got.status, err)
	}
	if got := s.attest(open1); got.status != 200 {
		t.Errorf("a challenge from before: %d %s", got.status, got.body)
	}
	if after := s.send("GET", "/.well-known/jwks.json", nil, nil).body; string(after) != string(jwks) {
		t.Errorf("keys: %s, before %s", after, jwks)
	}
	after := s.records(0)
	if len(after) != len(trail)+3 {
		t.Fatalf("%d audit records, before %d", len(after), len(trail))
	}
	for i, r := range trail {
		if after[i] != r {
			t.Errorf("record %d changed", r.ID)
		}
	}
}

// A challenge writes nothing, however many are asked for.
func TestAuthWritesNothing(t *testing.T) {
	s := start(t)
	s.provision()
	before := s.last()
	for range 100 {
		s.challenge()
	}
	if after := s.last(); after != before {
		t.Errorf("audit: %+v", after)
	}
	list, err := s.store.List(t.Context(), "session", "", "", 10)
	if err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// Every route that is not on the list is closed to those without an administrator's token. A new route is closed, or
// on the list.
func TestAttackRoutesWithoutAuthentication(t *testing.T) {
	s := start(t)
	s.provision()
	open := map[string]bool{
		"GET /healthz": true, "GET /readyz": true, "GET /metrics": true, "GET /.well-known/jwks.json": true,
		"POST /kbs/v0/auth": true, "POST /kbs/v0/attest": true, // these two authenticate by challenge and evidence
	}
	guest := s.token(s.attempt())
	stranger, err := kbs.NewAdminKey()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.Token(time.Now(), time.Minute, "nacre-trustee", "admin")
	if err != nil {
		t.Fatal(err)
	}
	routes := s.broker.Routes()
	for _, method := range []string{"POST", "DELETE"} {
		routes = append(routes, broker.RouteInfo{Method: method, Pattern: "/kbs/v0/resource/default/db/password",
			Admin: true})
	}
	if len(routes) < 18 {
		t.Fatalf("%d routes", len(routes))
	}
	for _, r := range routes {
		name := r.Method + " " + r.Pattern
		if open[name] {
			if r.Admin {
				t.Errorf("%s is on the list and needs an administrator", name)
			}
			delete(open, name)
			continue
		}
		path := r.Pattern
		if strings.HasSuffix(path, "/") {
			path += "x"
		}
		for who, change := range map[string]func(*http.Request){
			"nobody": nil, "a guest": withBearer(guest), "a stranger": withBearer(forged),
			"an empty token": withBearer(""),
		} {
			t.Run(name+" as "+who, func(t *testing.T) {
				if got := s.send(r.Method, path, []byte("{}"), change); got.status != 401 ||
					got.info.Code != "not_admin" {
					t.Errorf("%d %+v", got.status, got.info)
				}
			})
		}
		if got := s.send(r.Method, path, []byte("{}"), s.withAdmin()); got.status == 401 {
			t.Errorf("%s as the administrator: %d %+v", name, got.status, got.info)
		}
	}
	for name := range open {
		t.Errorf("%s is on the list and not a route", name)
	}
}

func TestAdministration(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	if err := s.admin.PutResource(ctx, "a/b/c", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if list, err := s.admin.Resources(ctx, "a/"); err != nil || len(list) != 1 || list[0].Path != "a/b/c" ||
		list[0].Size != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := s.admin.DeleteResource(ctx, "a/b/c"); err != nil {
		t.Error(err)
	}
	if p, err := s.admin.ResourcePolicy(ctx); err != nil || p.Policy != templates.DenyAll() || p.AllowSimulated ||
		p.UnsafeAnyInitData {
		t.Errorf("%+v, %v", p, err)
	}
	s.setRelease(affirming(t), kbs.ReleaseOptions{AllowSimulated: true})
	if p, err := s.admin.ResourcePolicy(ctx); err != nil || p.Policy != affirming(t) || !p.AllowSimulated ||
		p.UnsafeAnyInitData {
		t.Errorf("%+v, %v", p, err)
	}
	if ids, err := s.admin.ResourcePolicyIDs(ctx); err != nil || fmt.Sprint(ids) != "[resource-policy]" {
		t.Errorf("%v, %v", ids, err)
	}
	s.register(map[string]any{"x": []string{"1"}, "y": true})
	if v, err := s.admin.ReferenceValue(ctx, "x"); err != nil || string(v) != `["1"]` {
		t.Errorf("%s, %v", v, err)
	}
	if list, err := s.admin.ReferenceValues(ctx); err != nil || len(list) != 2 || list[1].Name != "y" ||
		list[1].Expiration.IsZero() {
		t.Errorf("%v, %v", list, err)
	}
	if err := s.admin.DeleteReferenceValue(ctx, "x"); err != nil {
		t.Error(err)
	}
	if got := s.send("GET", "/nacre/v1/reference-value-history/x", nil, s.withAdmin()); got.status != 200 ||
		!strings.Contains(string(got.body), `"deleted":true`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if err := s.admin.SetAttestationPolicy(ctx, "default_cpu",
		"package policy\ntrust_claims := {\"hardware\": 97}"); err != nil {
		t.Error(err)
	}
	if got := s.send("GET", "/nacre/v1/attestation-policy/default_cpu", nil, s.withAdmin()); got.status != 200 ||
		!strings.Contains(string(got.body), "97") {
		t.Errorf("%d %s", got.status, got.body)
	}
	trail := s.records(0)
	if len(trail) != 6 {
		t.Errorf("%d audit records of six changes", len(trail))
	}
	for _, r := range trail {
		if r.Event != "admin" || r.Decision != "changed" || r.Detail == "" || r.RequestID == "" {
			t.Errorf("%+v", r)
		}
	}
	if got := s.send("GET", "/nacre/v1/audit/verify", nil, s.withAdmin()); got.status != 200 ||
		!strings.Contains(string(got.body), `"ok":true`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	s.restart()
	if p, err := s.admin.ResourcePolicy(ctx); err != nil || p.Policy != affirming(t) {
		t.Errorf("after a restart: %+v, %v", p, err)
	}
	s.token(s.attempt())
	if r := s.last(); !strings.Contains(r.Detail, "contraindicated") {
		t.Errorf("the appraisal policy did not survive: %+v", r)
	}
}

// An appraisal policy with a mistake lets nobody attest, and says whose mistake it is.
func TestAppraisalPolicyWithAMistake(t *testing.T) {
	s := start(t)
	s.provision()
	if err := s.admin.SetAttestationPolicy(t.Context(), "default_cpu",
		"package policy\ntrust_claims := {\"hardwear\": 2}"); err != nil {
		t.Fatal(err)
	}
	if got := s.attest(s.attempt()); got.status != 500 || got.info.Code != "policy_error" {
		t.Errorf("%d %+v", got.status, got.info)
	}
}

func TestMetricsAreBounded(t *testing.T) {
	s := start(t, func(c *broker.Config) { c.SimulatedRoots = 1 })
	s.provision()
	text := func() string { return string(s.send("GET", "/metrics", nil, nil).body) }
	lines := func() int { return strings.Count(text(), "\n") }
	exercise := func(suffix string) {
		s.get("a/b/"+suffix, nil)
		s.get("a/b/"+suffix, withBearer("x"+suffix))
		s.send("BREW"+suffix, "/kbs/v0/resource/a/b/c", nil, nil)
		s.send("POST", "/kbs/v0/auth", []byte(strings.Replace(authBody, "snp", "tee-"+suffix, 1)), nil)
		s.send("GET", "/kbs/v0/plugin-"+suffix, nil, nil)
		if err := s.admin.PutResource(t.Context(), "a/b/"+suffix, nil); err != nil {
			t.Fatal(err)
		}
	}
	exercise("first")
	text() // its own requests are counted in the next
	before := lines()
	for i := range 20 {
		exercise(fmt.Sprint(i))
	}
	if after := lines(); after != before {
		t.Errorf("%d lines grew to %d", before, after)
	}
	if !strings.Contains(text(), "\nnacre_simulated_roots 1\n") {
		t.Error("no nacre_simulated_roots")
	}
}

func TestManyGuestsAtTheSameTime(t *testing.T) {
	s := start(t)
	s.provision()
	ours, _ := platforms(t)
	var wait sync.WaitGroup
	const guests = 24
	for range guests {
		wait.Go(func() {
			client, err := kbs.NewClient(s.client())
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			key, err := kbs.GenerateTEEKey(kbs.ECDHP256)
			if err != nil {
				t.Error(err)
				return
			}
			processor := ours.Launch(launchOf(t, initDataText))
			token, err := client.Attest(t.Context(), attest.SNP, key,
				func(_ context.Context, d []byte) (json.RawMessage, error) {
					return processor.Evidence(d)
				}, &kbs.InitData{Format: kbs.InitDataFormat, Body: initDataText})
			if err != nil {
				t.Error(err)
				return
			}
			for range 4 {
				value, err := client.Resource(t.Context(), kbs.ResourceURI{Path: strings.Split(secretPath, "/")},
					token, key)
				if err != nil || string(value.Reveal()) != "hunter2" {
					t.Error(err)
				}
			}
		})
	}
	for i := range 10 { // the owner works meanwhile
		s.register(map[string]any{"unrelated": []int{i}})
		s.setRelease(affirming(t), kbs.ReleaseOptions{AllowSimulated: true})
	}
	wait.Wait()
	released := 0
	for _, r := range s.records(0) {
		if r.Decision == "released" {
			released++
		}
	}
	if released != guests*4 {
		t.Errorf("%d releases recorded, want %d", released, guests*4)
	}
	if got := s.send("GET", "/nacre/v1/audit/verify", nil, s.withAdmin()); !strings.Contains(string(got.body),
		`"ok":true`) {
		t.Errorf("%s", got.body)
	}
}
