// SPDX-License-Identifier: Apache-2.0

package limit_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/limit"
)

var now = time.Unix(1_800_000_000, 0)

func client(text string) netip.Prefix { return limit.Client(netip.MustParseAddr(text)) }

func TestClients(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := client(addr); got.String() != want {
			t.Errorf("%s is %s, want %s", addr, got, want)
		}
	}
	if got := limit.Client(netip.Addr{}); got.IsValid() {
		t.Errorf("no address is %s", got)
	}
}

// Somebody writes the address of another, or none at all, into the header.
func TestAttackForwardedAddress(t *testing.T) {
	for name, c := range map[string]struct {
		proxies   []string
		remote    string
		forwarded []string
		want      string
	}{
		"no proxy is configured":           {nil, "203.0.113.9:1", []string{"192.0.2.1"}, "203.0.113.9/32"},
		"not through the proxy":            {[]string{"10.0.0.1"}, "203.0.113.9:1", []string{"192.0.2.1"}, "203.0.113.9/32"},
		"addresses before the proxy's own": {[]string{"10.0.0.1"}, "10.0.0.1:1", []string{"192.0.2.1, 203.0.113.9"}, "203.0.113.9/32"},
		"a header of his before it":        {[]string{"10.0.0.1"}, "10.0.0.1:1", []string{"192.0.2.1", "203.0.113.9"}, "203.0.113.9/32"},
		"a proxy's address among his":      {[]string{"10.0.0.0/8"}, "10.0.0.1:1", []string{"10.0.0.7, 203.0.113.9, 10.0.0.2"}, "203.0.113.9/32"},
		"nothing that can be read":         {[]string{"10.0.0.1"}, "10.0.0.1:1", []string{"192.0.2.1, unknown"}, "10.0.0.1/32"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := limit.NewOrigin(c.proxies)
			if err != nil {
				t.Fatal(err)
			}
			if got := o.Client(c.remote, c.forwarded); got.String() != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestOrigin(t *testing.T) {
	o, err := limit.NewOrigin([]string{"10.0.0.0/8", "2001:db8::1", "::ffff:192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		remote    string
		forwarded []string
		want      string
	}{
		"one hop":        {"10.0.0.1:1", []string{"192.0.2.1"}, "192.0.2.1/32"},
		"two hops":       {"10.0.0.1:1", []string{"192.0.2.1, 10.2.3.4"}, "192.0.2.1/32"},
		"with a port":    {"10.0.0.1:1", []string{"192.0.2.1:99"}, "192.0.2.1/32"},
		"IPv6":           {"[2001:db8::1]:1", []string{"[2001:db8:5::7]:99"}, "2001:db8:5::/64"},
		"IPv6 bare":      {"[2001:db8::1]:1", []string{"2001:db8:5::7"}, "2001:db8:5::/64"},
		"mapped":         {"[::ffff:192.0.2.7]:1", []string{"198.51.100.1"}, "198.51.100.1/32"},
		"no header":      {"10.0.0.1:1", nil, "10.0.0.1/32"},
		"proxies only":   {"10.0.0.1:1", []string{"10.0.0.2, 10.0.0.3"}, "10.0.0.2/32"},
		"a long way":     {"10.0.0.1:1", []string{strings.Repeat("10.0.0.3,", 1000) + "10.0.0.2"}, "10.0.0.3/32"},
		"no far end":     {"@", []string{"192.0.2.1"}, "invalid Prefix"},
		"not one of his": {"11.0.0.1:1", []string{"192.0.2.1"}, "11.0.0.1/32"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := o.Client(c.remote, c.forwarded); got.String() != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	for _, bad := range []string{"", "x", "0.0.0.0/0", "::/0", "fe80::1%eth0", "10.0.0.0/33"} {
		if _, err := limit.NewOrigin([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestDebtsArePaidOff(t *testing.T) {
	r := limit.NewRefusals(10, 3, 8)
	a := client("192.0.2.1")
	for range 3 {
		r.Charge(a, now)
		if wait := r.Wait(a, now); wait != 0 {
			t.Fatalf("waits %s within the burst", wait)
		}
	}
	r.Charge(a, now)
	if wait := r.Wait(a, now); wait != 100*time.Millisecond {
		t.Errorf("waits %s", wait)
	}
	if wait := r.Wait(a, now.Add(100*time.Millisecond)); wait != 0 {
		t.Errorf("waits %s after waiting", wait)
	}
	for range 1000 {
		r.Charge(a, now)
	}
	if wait := r.Wait(a, now); wait != time.Second {
		t.Errorf("waits %s for what was under way", wait)
	}
	if wait := r.Wait(client("192.0.2.2"), now); wait != 0 {
		t.Errorf("another waits %s", wait)
	}
}

// Addresses without number are charged, so that the table forgets who owes.
func TestAttackForgettingDebts(t *testing.T) {
	r := limit.NewRefusals(1, 2, 16)
	debtor := client("192.0.2.1")
	for range 4 {
		r.Charge(debtor, now)
	}
	addr := netip.MustParseAddr("198.51.0.0")
	for i := range 5000 {
		addr = addr.Next()
		r.Charge(limit.Client(addr), now.Add(time.Duration(i)*time.Microsecond))
	}
	if wait := r.Wait(debtor, now.Add(5*time.Millisecond)); wait <= 0 {
		t.Error("the debt is forgotten")
	}
}

// Addresses without number are charged, each within its own limit.
func TestAttackManyAddresses(t *testing.T) {
	r := limit.NewRefusals(1, 2, 16)
	addr := netip.MustParseAddr("198.51.0.0")
	served := 0
	for range 5000 {
		addr = addr.Next()
		c := limit.Client(addr)
		if r.Wait(c, now) == 0 {
			served++
			r.Charge(c, now)
		}
	}
	if served > 32 {
		t.Errorf("%d were served", served)
	}
	// The table is full of debtors; somebody from elsewhere is served.
	if wait := r.Wait(client("2001:db8::1"), now); wait != 0 {
		t.Errorf("a stranger to all of it waits %s", wait)
	}
	// When they have paid, there are places again.
	later := now.Add(time.Minute)
	r.Charge(client("192.0.2.9"), later)
	if wait := r.Wait(limit.Client(addr), later); wait != 0 {
		t.Errorf("after a minute one of them waits %s", wait)
	}
}

// One client asks for all there is.
func TestAttackTakeAll(t *testing.T) {
	s := limit.NewShares(10, 6)
	a, b := client("192.0.2.1"), client("192.0.2.2")
	for range 6 {
		if !s.Take(a, 1) {
			t.Fatal("less than its share")
		}
	}
	t.Run("more than its share", func(t *testing.T) {
		if s.Take(a, 1) {
			s.Give(a, 1)
			t.Error("taken")
		}
	})
	if !s.Take(b, 4) {
		t.Fatal("nothing is left for another")
	}
	t.Run("more than there is", func(t *testing.T) {
		if s.Take(b, 1) {
			s.Give(b, 1)
			t.Error("taken")
		}
	})
	s.Give(a, 6)
	if !s.Take(b, 2) {
		t.Error("what was given back cannot be taken")
	}
}

func FuzzForwarded(f *testing.F) {
	o, err := limit.NewOrigin([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("192.0.2.1, 10.0.0.2")
	f.Add("[::1]:9,,")
	f.Fuzz(func(t *testing.T, header string) {
		if got := o.Client("10.0.0.1:1", []string{header}); !got.IsValid() {
			t.Errorf("%q: no client", header)
		}
		if got := o.Client("11.0.0.1:1", []string{header}); got.String() != "11.0.0.1/32" {
			t.Errorf("%q: a stranger is %s", header, got)
		}
	})
}
