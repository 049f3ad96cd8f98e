// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/broker"
	"github.com/nacre-project/nacre/internal/trustee/limit"
	"github.com/nacre-project/nacre/internal/trustee/resource"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// Where requests come from, as the proxy says that the tests are.
const (
	attacker  = "198.51.100.1"
	bystander = "192.0.2.1"
)

// from says where a request comes from, beside what else is changed of it.
func from(addr string, change func(*http.Request)) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("X-Forwarded-For", addr)
		if change != nil {
			change(r)
		}
	}
}

// behindProxy sets limits, for clients that the tests name by a header.
func behindProxy(t *testing.T, l broker.Limits) func(*broker.Config) {
	t.Helper()
	origin, err := limit.NewOrigin([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	l.Origin = origin
	return func(c *broker.Config) { c.Limits = l }
}

// Each attack costs the trustee work and is refused; nobody can go on with it, and nobody else notices.
func TestAttackRefusalsWithoutEnd(t *testing.T) {
	_, theirs := platforms(t)
	for name, attack := range map[string]func(*trustee) answer{
		"made-up sessions": func(s *trustee) answer {
			return s.send("POST", "/kbs/v0/attest", []byte("{}"), from(attacker, withCookie("AAAA")))
		},
		"evidence of another root": func(s *trustee) answer {
			a := s.attempt()
			a.machine = theirs
			return s.send("POST", "/kbs/v0/attest", a.body(s.t), from(attacker, withCookie(a.cookie)))
		},
		"evidence that is none": func(s *trustee) answer {
			a := s.attempt()
			a.evidence = json.RawMessage("{}")
			return s.send("POST", "/kbs/v0/attest", a.body(s.t), from(attacker, withCookie(a.cookie)))
		},
		"made-up tokens": func(s *trustee) answer { return s.get(secretPath, from(attacker, withBearer("a.b.c"))) },
		"guesses at an administrator's token": func(s *trustee) answer {
			return s.send("GET", "/nacre/v1/resources", nil, from(attacker, withBearer("a.b.c")))
		},
		"requests that are none": func(s *trustee) answer {
			return s.send("POST", "/kbs/v0/auth", []byte("{"), from(attacker, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, behindProxy(t, broker.Limits{RefusalsPerSecond: 1, RefusalBurst: 3}))
			var got answer
			for range 5 {
				got = attack(s)
			}
			after, _ := strconv.Atoi(got.header.Get("Retry-After"))
			if got.status != 429 || got.info.Code != "rate_limited" || after < 1 {
				t.Errorf("the fifth time: %d %+v, Retry-After %d", got.status, got.info, after)
			}
		})
	}
}

func TestWhoIsLimited(t *testing.T) {
	s := start(t, behindProxy(t, broker.Limits{RefusalsPerSecond: 1, RefusalBurst: 3}))
	s.provision()
	token := s.token(s.attempt())
	if got := s.get(secretPath, from(attacker, withBearer(token))); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	for range 5 {
		s.get(secretPath, from(attacker, withBearer("a.b.c")))
	}
	auth := func(addr string) answer { return s.send("POST", "/kbs/v0/auth", []byte(authBody), from(addr, nil)) }
	if got := auth(attacker); got.status != 429 {
		t.Errorf("a challenge: %d %s", got.status, got.body)
	}
	if got := s.get(secretPath, from(attacker, withBearer(token))); got.status != 200 {
		t.Errorf("a guest behind the same address, whose token is known: %d %s", got.status, got.body)
	}
	if got := auth(bystander); got.status != 200 {
		t.Errorf("another: %d %s", got.status, got.body)
	}
	if text := string(s.send("GET", "/metrics", nil, nil).body); !strings.Contains(text, `nacre_limited_total{limit="refusals"} `) {
		t.Error("nothing is counted")
	}
	s.clock.Add(int64(5 * time.Second))
	if got := auth(attacker); got.status != 200 {
		t.Errorf("after waiting: %d %s", got.status, got.body)
	}
	// What a token is denied is the token's, and a challenge that came too late is nobody's fault.
	for range 10 {
		if got := s.get("default/db/other", from(attacker, withBearer(token))); got.status != 403 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if got := s.get(secretPath, from(attacker, nil)); got.status != 401 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	if got := auth(attacker); got.status != 200 {
		t.Errorf("after denials: %d %s", got.status, got.body)
	}
}

// Without a proxy in the configuration, a header makes nobody another.
func TestAttackAnotherAddressEachTime(t *testing.T) {
	s := start(t, func(c *broker.Config) { c.Limits = broker.Limits{RefusalsPerSecond: 1, RefusalBurst: 3} })
	var got answer
	for i := range 5 {
		got = s.get(secretPath, from("192.0.2."+strconv.Itoa(i), withBearer("a.b.c")))
	}
	if got.status != 429 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// patient is a plugin that answers when it is told to.
type patient struct {
	entered chan struct{}
	leave   chan struct{}
}

func (patient) Access(string, []string) resource.Access { return resource.Release }

func (p patient) Handle(_ context.Context, r resource.Request) (resource.Answer, error) {
	if r.Path[0] == "wait" {
		p.entered <- struct{}{}
		<-p.leave
	}
	return resource.Answer{Body: secret.New([]byte("hunter2"))}, nil
}

// occupied starts a trustee in which a request of the attacker's with a body is under way until the end of the test.
func occupied(t *testing.T, l broker.Limits, body []byte) (s *trustee, token string) {
	t.Helper()
	p := patient{make(chan struct{}), make(chan struct{})}
	s = start(t, behindProxy(t, l), func(c *broker.Config) { c.Plugins = map[string]resource.Plugin{"memory": p} })
	s.setRelease(memoryPolicy(t), kbs.ReleaseOptions{AllowSimulated: true})
	token = s.token(s.attempt())
	ended := make(chan answer)
	go func() {
		ended <- s.send("PUT", "/kbs/v0/memory/wait", body, from(attacker, withBearer(token)))
	}()
	<-p.entered
	t.Cleanup(func() {
		close(p.leave)
		if got := <-ended; got.status != 200 {
			t.Errorf("the request under way: %d %s", got.status, got.body)
		}
		got := s.send("PUT", "/kbs/v0/memory/a", body, from(attacker, withBearer(token)))
		if got.status != 200 {
			t.Errorf("when it is over: %d %s", got.status, got.body)
		}
	})
	return s, token
}

// One client sends bodies until no more fit into memory.
func TestAttackBodiesWithoutEnd(t *testing.T) {
	large := make([]byte, 70<<10)
	s, token := occupied(t, broker.Limits{BodyMemory: 256 << 10}, large)
	put := func(addr string, body []byte) answer {
		return s.send("PUT", "/kbs/v0/memory/a", body, from(addr, withBearer(token)))
	}
	t.Run("another large one", func(t *testing.T) {
		if got := put(attacker, large); got.status != 503 || got.info.Code != "busy" || got.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
	if got := put(attacker, large[:8<<10]); got.status != 200 {
		t.Errorf("a small one: %d %s", got.status, got.body)
	}
	if got := put(bystander, large); got.status != 200 {
		t.Errorf("another's: %d %s", got.status, got.body)
	}
}

// One client has more requests answered at the same time than its share.
func TestAttackRequestsWithoutEnd(t *testing.T) {
	s, token := occupied(t, broker.Limits{Requests: 2}, nil)
	t.Run("one more", func(t *testing.T) {
		got := s.send("GET", "/kbs/v0/memory/a", nil, from(attacker, withBearer(token)))
		if got.status != 503 || got.info.Code != "busy" || got.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
	if got := s.send("GET", "/kbs/v0/memory/a", nil, from(bystander, withBearer(token))); got.status != 200 {
		t.Errorf("another's: %d %s", got.status, got.body)
	}
	if got := s.send("GET", "/healthz", nil, from(attacker, nil)); got.status != 200 {
		t.Errorf("health: %d %s", got.status, got.body)
	}
}

func TestReadiness(t *testing.T) {
	s := start(t)
	if got := s.send("GET", "/readyz", nil, nil); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	s.broker.Drain()
	if got := s.send("GET", "/readyz", nil, nil); got.status != 503 || got.info.Code != "draining" {
		t.Errorf("draining: %d %s", got.status, got.body)
	}
	for method, path := range map[string]string{"GET": "/healthz", "POST": "/kbs/v0/auth"} {
		if got := s.send(method, path, []byte(authBody), nil); got.status != 200 {
			t.Errorf("%s while draining: %d %s", path, got.status, got.body)
		}
	}
}
