// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/trustee/admin"
)

func testCookies(now *time.Time) *cookies {
	return &cookies{secret: []byte("thirty-two bytes of a server key"), now: func() time.Time { return *now }}
}

func TestSessionsSurviveTheirCookie(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	c := testCookies(&now)
	s := newSession(attest.SNP, now.Add(5*time.Minute))
	value, err := c.seal(s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.open(value); err != nil || got != s {
		t.Errorf("%+v, %v; want %+v", got, err, s)
	}
	other, err := testCookies(&now).seal(s)
	if err != nil || other == value {
		t.Errorf("two cookies of one session are the same: %v", err)
	}
	if got, err := (&cookies{secret: []byte("another server's key, of 32 bytes"), now: c.now}).open(value); err == nil {
		t.Errorf("another server opened it: %+v", got)
	}
	for _, later := range []time.Duration{5 * time.Minute, time.Hour, 3 * time.Hour} {
		now = time.Unix(1_800_000_000, 0).Add(later)
		if _, err := c.open(value); !errors.Is(err, errExpired) {
			t.Errorf("after %s: %v", later, err)
		}
	}
	// The keys change by the hour; a session that began before the change goes on.
	now = time.Unix(1_800_000_000/3600*3600, 0).Add(time.Hour - time.Minute)
	s = newSession(attest.SNP, now.Add(5*time.Minute))
	if value, err = c.seal(s); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Minute)
	if got, err := c.open(value); err != nil || got != s {
		t.Errorf("over the hour: %+v, %v", got, err)
	}
}

func FuzzCookie(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	c := testCookies(&now)
	// The processes of one fuzzing run have the same key, so the session must be the same in all of them.
	s := session{id: [16]byte{1}, nonce: [32]byte{2}, expires: now.Add(5 * time.Minute), tee: attest.SNP}
	good, err := c.seal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if got, err := c.open(value); err == nil && got != s {
			t.Errorf("opened %q as %+v", value, got)
		}
	})
}

func FuzzRouter(f *testing.F) {
	r := &router{authenticate: func(string) (admin.Identity, error) { return admin.Identity{}, admin.ErrRefused }}
	r.plugins = func(context.Context, *call) (*reply, error) { return &reply{}, nil }
	b := &Broker{router: r, metrics: newMetrics(0)}
	b.register()
	f.Add("GET", "/kbs/v0/resource/a/b/c")
	f.Add("POST", "/kbs/v0/auth")
	f.Add("GET", "/kbs/v0/reference-value/a/b")
	f.Add("GET", "//kbs/v0/../..")
	f.Fuzz(func(t *testing.T, method, path string) {
		handle, rest, err := r.find(method, path)
		if (handle == nil) == (err == nil) {
			t.Fatalf("%s %q: neither a handler nor a refusal", method, path)
		}
		if err == nil && !strings.HasSuffix(path, rest) {
			t.Errorf("%s %q: rest %q", method, path, rest)
		}
		if err == nil && strings.HasPrefix(path, adminPrefix) {
			if _, err := handle(t.Context(), &call{http: &http.Request{Header: http.Header{},
				URL: &url.URL{Path: path}}, rest: rest}); err == nil {
				t.Errorf("%s %q answers without an administrator", method, path)
			}
		}
	})
}
