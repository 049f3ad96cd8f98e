// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/guest/aa"
	"github.com/nacre-project/nacre/internal/guest/cdh"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/test/brokertest"
)

// fixed has one answer for every resource, and remembers what was asked for.
type fixed struct {
	value string
	err   error
	asked []string
}

func (f *fixed) Resource(_ context.Context, uri kbs.ResourceURI) (secret.Bytes, error) {
	f.asked = append(f.asked, uri.String())
	if f.err != nil {
		return secret.Bytes{}, f.err
	}
	return secret.New([]byte(f.value)), nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ask sends a request as a container in the pod would; change makes it another.
func ask(f *fixed, method, target string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:4711", Address
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	Handler(f, Info{Version: "0.1", TEE: "snp"}, quiet()).ServeHTTP(w, r)
	return w
}

// refused demands a status, a code, and that no resource was asked for.
func refused(t *testing.T, f *fixed, w *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	var body map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	if w.Code != status || body["code"] != code || body["message"] == "" || body["request_id"] == "" || len(body) != 3 {
		t.Errorf("%d %v, want %d %s", w.Code, body, status, code)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("content type %q", ct)
	}
	if len(f.asked) != 0 {
		t.Errorf("asked for %q", f.asked)
	}
}

func TestResource(t *testing.T) {
	f := &fixed{value: "a\x00b"}
	for _, target := range []string{"/cdh/resource/default/db/password", "/cdh/resource/default/db/password?ignored=1"} {
		w := ask(f, http.MethodGet, target, nil)
		if w.Code != http.StatusOK || w.Body.String() != "a\x00b" || w.Header().Get("Content-Type") != "application/octet-stream" ||
			w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Length") != "3" {
			t.Errorf("%s: %d %q %v", target, w.Code, w.Body, w.Header())
		}
	}
	if got := strings.Join(f.asked, " "); got != "kbs:///default/db/password kbs:///default/db/password" {
		t.Errorf("asked for %s", got)
	}
}

// As at the stock service, every method gets a resource.
func TestResourceByAnyMethod(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
		f := &fixed{value: "x"}
		if w := ask(f, method, "/cdh/resource/default/db/password", nil); w.Code != http.StatusOK || w.Body.String() != "x" {
			t.Errorf("%s: %d %q", method, w.Code, w.Body)
		}
	}
}

func TestInfo(t *testing.T) {
	w := ask(&fixed{}, http.MethodGet, "/info", nil)
	want := `{"version":"Guest Components Version: 0.1","tee":"snp","feature":"resource"}` + "\n"
	if w.Code != http.StatusOK || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		method, target string
		status         int
		code           string
	}{
		{http.MethodPost, "/info", http.StatusMethodNotAllowed, "method_not_allowed"},
		{http.MethodDelete, "/info", http.StatusMethodNotAllowed, "method_not_allowed"},
		{http.MethodGet, "/", http.StatusNotFound, "not_found"},
		{http.MethodGet, "/info/", http.StatusNotFound, "not_found"},
		{http.MethodGet, "/cdh/resource", http.StatusNotFound, "not_found"},
		{http.MethodGet, "//cdh/resource/a/b/c", http.StatusNotFound, "not_found"},
		{http.MethodGet, "/cdh/resource/", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/b", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/b/c/d", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource//b/c", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/../c", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/b%2Fc/d", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/b/%63", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/b/c%0a", http.StatusBadRequest, "resource_path_invalid"},
		{http.MethodGet, "/cdh/resource/a/b/" + strings.Repeat("c", 3000), http.StatusBadRequest, "resource_path_invalid"},
	}
	for _, tt := range tests {
		f := &fixed{value: "x"}
		refused(t, f, ask(f, tt.method, tt.target, nil), tt.status, tt.code)
	}
}

func TestKinds(t *testing.T) {
	for kind, status := range map[cdh.Kind]int{
		cdh.Internal: 500, cdh.Invalid: 400, cdh.Denied: 403, cdh.NotFound: 404, cdh.Unreachable: 502, cdh.Unavailable: 503,
	} {
		f := &fixed{err: &cdh.Error{Kind: kind, Code: "the_code", Doing: "testing", Err: errors.New("a reason"), RequestID: "request-3",
			RetryAfter: 1500 * time.Millisecond}}
		w := ask(f, http.MethodGet, "/cdh/resource/a/b/c", nil)
		want := `{"code":"the_code","message":"testing (the_code): a reason","request_id":"request-3"}` + "\n"
		if w.Code != status || w.Body.String() != want || w.Header().Get("Retry-After") != "2" {
			t.Errorf("kind %d: %d %s", kind, w.Code, w.Body)
		}
	}
	w := ask(&fixed{err: errors.New("x")}, http.MethodGet, "/cdh/resource/a/b/c", nil)
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"internal"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAttackPeerFromElsewhere(t *testing.T) {
	for _, peer := range []string{"10.0.2.2:4711", "[fd00::2]:1", "[::ffff:10.0.2.2]:1", "@", "", "127.0.0.1"} {
		f := &fixed{value: "x"}
		w := ask(f, http.MethodGet, "/cdh/resource/a/b/c", func(r *http.Request) { r.RemoteAddr = peer })
		refused(t, f, w, http.StatusForbidden, "peer_not_local")
	}
}

func TestAttackRebinding(t *testing.T) {
	for _, host := range []string{"evil.example", "evil.example:8006", "127.0.0.1.evil.example", "10.0.2.15:8006", "", "localhost.evil:1"} {
		f := &fixed{value: "x"}
		w := ask(f, http.MethodGet, "/cdh/resource/a/b/c", func(r *http.Request) { r.Host = host })
		refused(t, f, w, http.StatusForbidden, "host_not_local")
	}
	for _, host := range []string{"127.0.0.1", "localhost", "localhost:8006", "[::1]:8006", "[::1]"} {
		if w := ask(&fixed{}, http.MethodGet, "/info", func(r *http.Request) { r.Host = host }); w.Code != http.StatusOK {
			t.Errorf("%s: %d", host, w.Code)
		}
	}
}

func TestAttackEvidenceForWorkload(t *testing.T) {
	for _, target := range []string{
		"/aa/evidence?runtime_data=x", "/aa/token?token_type=kbs", "/aa/additional-evidence", "/aa/aael", "/aa/",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			f := &fixed{value: "x"}
			w := ask(f, method, target, nil)
			refused(t, f, w, http.StatusNotFound, "not_enabled")
			if !strings.Contains(w.Body.String(), "Attestation Feature Not Enabled") {
				t.Error(w.Body)
			}
		}
	}
}

func TestAttackBody(t *testing.T) {
	for name, length := range map[string]int64{"a long one": 1 << 40, "one of unknown length": -1} {
		f := &fixed{value: "x"}
		w := ask(f, http.MethodGet, "/cdh/resource/a/b/c", func(r *http.Request) { r.ContentLength = length })
		t.Log(name)
		refused(t, f, w, http.StatusRequestEntityTooLarge, "body_refused")
	}
}

// serve runs the whole service, and returns its address.
func serve(t *testing.T, resources Resources) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, Handler(resources, Info{}, quiet()), quiet()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestServe(t *testing.T) {
	address := serve(t, &fixed{value: "a secret"})
	response, err := http.Get("http://" + address + "/cdh/resource/a/b/c") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != "a secret" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestAttackLargeHeader(t *testing.T) {
	address := serve(t, &fixed{value: "a secret"})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /cdh/resource/a/b/c HTTP/1.1\r\nHost: %s\r\nX: %s\r\n\r\n",
		address, strings.Repeat("x", 32<<10))
	if err != nil {
		t.Log(err) // it may have hung up by now
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		response.Body.Close()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d", response.StatusCode)
		}
	}
}

// The whole way: a container asks, the guest attests, the broker verifies and releases, the container gets it.
func TestWholeWay(t *testing.T) {
	b := brokertest.New(t)
	b.Resources["default/db/password"] = "a password"
	tokens, err := aa.New(aa.Options{Config: aa.Config{Broker: b.Client()}, Attester: brokertest.Guest(t, nil), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := cdh.New(cdh.Config{Broker: b.Client()}, tokens, quiet())
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, hub)
	for target, want := range map[string]string{
		"/cdh/resource/default/db/password": "200 a password",
		"/cdh/resource/default/db/other":    "404 {\"code\":\"resource_not_found\"",
	} {
		response, err := http.Get("http://" + address + target) //nolint:noctx // loopback
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if got := fmt.Sprintf("%d %s", response.StatusCode, text); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s, %v", target, got, want, err)
		}
	}
}
