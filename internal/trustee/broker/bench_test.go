// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nacre-project/nacre/kbs"
)

// handle calls the handler without a network.
func (s *trustee) handle(b *testing.B, method, path string, body []byte, change func(*http.Request)) {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	change(r)
	w := httptest.NewRecorder()
	s.broker.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.Errorf("%s: %d %s", path, w.Code, w.Body)
	}
}

// measure starts the clock, and returns what reports the processor time since: unlike time, it says the same on a
// busy machine.
func measure(b *testing.B) func() {
	spent := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	runtime.GC()
	b.ResetTimer()
	before := spent()
	return func() { b.ReportMetric(float64(spent()-before)/float64(b.N), "cpu-ns/op") }
}

// clients are how many requests are under way at the same time for each processor.
const clients = 16

// BenchmarkAttest is the handler of one attestation, evidence made beforehand.
func BenchmarkAttest(b *testing.B) {
	s := start(b)
	s.provision()
	type ready struct {
		body   []byte
		cookie string
	}
	attempts := make([]ready, b.N)
	for i := range attempts {
		a := s.attempt()
		attempts[i] = ready{a.body(b), a.cookie}
	}
	var next atomic.Int64
	b.SetParallelism(clients)
	b.ReportAllocs()
	defer measure(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a := attempts[next.Add(1)-1]
			s.handle(b, "POST", "/kbs/v0/attest", a.body, withCookie(a.cookie))
		}
	})
}

// BenchmarkResource is the handler of one release.
func BenchmarkResource(b *testing.B) {
	for name, fresh := range map[string]bool{"token=seen": false, "token=new": true} {
		b.Run(name, func(b *testing.B) {
			s := start(b)
			s.provision()
			tokens := make([]string, 1)
			if fresh {
				tokens = make([]string, b.N)
			}
			for i := range tokens {
				tokens[i] = s.token(s.attempt())
			}
			var next atomic.Int64
			b.SetParallelism(clients)
			b.ReportAllocs()
			defer measure(b)()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					token := tokens[int(next.Add(1)-1)%len(tokens)]
					s.handle(b, "GET", "/kbs/v0/resource/"+secretPath, nil, withBearer(token))
				}
			})
		})
	}
}

// BenchmarkAuth is the handler of one challenge.
func BenchmarkAuth(b *testing.B) {
	s := start(b)
	b.ReportAllocs()
	for b.Loop() {
		s.handle(b, "POST", "/kbs/v0/auth", []byte(authBody), func(*http.Request) {})
	}
}

// BenchmarkFloor is what no broker can leave out of a release: the envelope.
func BenchmarkFloor(b *testing.B) {
	key := teeKey(b, kbs.ECDHP256).Public()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := kbs.Seal(key, []byte("hunter2")); err != nil {
			b.Fatal(err)
		}
	}
}
