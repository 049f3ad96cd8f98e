// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy"
)

func jsonText(t *testing.T, v policy.Value) string {
	t.Helper()
	value, err := v.JSON()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPodIsAPod(t *testing.T) {
	p, err := pod.Parse([]byte(podOf(sampleImage)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pod.CreateRequests(p); err != nil {
		t.Error(err)
	}
}

func TestParseMetrics(t *testing.T) {
	const good = "# TYPE nacre_guest_pss_bytes gauge\nnacre_guest_pss_bytes{kind=\"anonymous\"} 4096\n" +
		"nacre_guest_pss_bytes{kind=\"file\"} 8192\nnacre_guest_goroutines 5\n"
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"an agent's":     {good, true},
		"nothing":        {"", false},
		"one of the two": {strings.Replace(good, `"file"`, `"other"`, 1), false},
		"not a number":   {strings.Replace(good, "8192", "many", 1), false},
	} {
		m, err := parseMetrics(c.text)
		if (err == nil) != c.ok || c.ok && (m["anonymous"] != 4096 || m["file"] != 8192) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// A console delivers what was printed in pieces of any size.
func TestSighting(t *testing.T) {
	const printed = "[    4.1] Freeing memory\r\n[    4.2] Run /init as init process\r\n"
	for size := 1; size <= len(printed); size++ {
		s := &sighting{text: []byte("Run /init as init process")}
		for rest := printed; rest != ""; rest = rest[min(size, len(rest)):] {
			if n, err := s.Write([]byte(rest[:min(size, len(rest))])); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
		if _, ok := s.time(); !ok {
			t.Errorf("not seen in pieces of %d", size)
		}
	}
	s := &sighting{text: []byte("Run /init")}
	if _, err := s.Write([]byte("Run /other\n")); err != nil {
		t.Error(err)
	}
	if _, ok := s.time(); ok {
		t.Error("seen what was not printed")
	}
}

func TestTokenClaims(t *testing.T) {
	payload := func(claims string) string { return base64.RawURLEncoding.EncodeToString([]byte(claims)) }
	affirming := payload(`{"submods":{"cpu0":{"ear.status":"affirming","ear.veraison.annotated-evidence":{}}}}`)
	warning := payload(`{"submods":{"cpu0":{"ear.status":"warning","ear.veraison.annotated-evidence":{}}}}`)
	for name, c := range map[string]struct {
		token string
		ok    bool
	}{
		"affirming":      {"x." + affirming + ".y", true},
		"another rating": {"x." + warning + ".y", false},
		"no claims":      {"x.e30.y", false},
		"not JSON":       {"x.eA.y", false},
		"not base64":     {"x.!.y", false},
		"two parts":      {"x." + affirming, false},
		"nothing":        {"", false},
	} {
		claims, err := tokenClaims(c.token)
		if err == nil {
			_, err = annotatedEvidence(claims)
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBearersTakeTurns(t *testing.T) {
	list, err := bearers([][]byte{[]byte(`{"token":"a"}`), []byte(`{"token":"b"}`)}, 5)
	if err != nil {
		t.Fatal(err)
	}
	var order strings.Builder
	for _, r := range first(list) {
		order.WriteString(r.bearer)
		if r.method != http.MethodGet || r.path != newTokenPrefix+resourcePath {
			t.Errorf("%+v", r)
		}
	}
	if order.String() != "ababa" || list[0].path != resourcePath {
		t.Errorf("%q, %+v", &order, list[0])
	}
	if _, err := bearers([][]byte{[]byte("{}")}, 1); err == nil {
		t.Error("an answer without a token was taken")
	}
}

func TestRecordSize(t *testing.T) {
	records := []kbs.AuditRecord{{Event: "attest"}, {Event: "attest", Detail: "the last counts"}, {Event: "release"}}
	attest, release, admin := recordSize(records, "attest"), recordSize(records, "release"), recordSize(records, "admin")
	if attest <= release || release == 0 || admin != 0 {
		t.Errorf("%d, %d, %d", attest, release, admin)
	}
}
