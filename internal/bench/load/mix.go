// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Operation is a kind of request.
type Operation string

// The operations.
const (
	// Attest is a whole handshake: a challenge, evidence for it, a token.
	Attest Operation = "attest"
	// Resource is a request for a secret with a token that is there, and opening the answer.
	Resource Operation = "resource"
)

// Mix says how often each operation is sent.
type Mix struct {
	shares []share
	total  int
}

type share struct {
	operation Operation
	weight    int
}

// maxWeight keeps a mix's total within what a float64 counts.
const maxWeight = 1_000_000

// ParseMix reads a mix such as "attest=1,resource=9": of ten requests, one is an attestation.
func ParseMix(text string) (Mix, error) {
	var m Mix
	for part := range strings.SplitSeq(text, ",") {
		name, number, ok := strings.Cut(strings.TrimSpace(part), "=")
		weight, err := strconv.Atoi(number)
		if !ok || err != nil || weight < 0 || weight > maxWeight {
			return Mix{}, fmt.Errorf("the mix %q: want attest=N,resource=M with N and M from 0 to %d", text, maxWeight)
		}
		o := Operation(name)
		if o != Attest && o != Resource {
			return Mix{}, fmt.Errorf("the mix %q: there is no operation %q; there are %s and %s", text, name, Attest, Resource)
		}
		for _, s := range m.shares {
			if s.operation == o {
				return Mix{}, fmt.Errorf("the mix %q names %s twice", text, o)
			}
		}
		if weight > 0 {
			m.shares = append(m.shares, share{o, weight})
			m.total += weight
		}
	}
	if m.total == 0 {
		return Mix{}, errors.New("the mix has no request")
	}
	return m, nil
}

// String is the mix as ParseMix reads it.
func (m Mix) String() string {
	parts := make([]string, len(m.shares))
	for i, s := range m.shares {
		parts[i] = fmt.Sprintf("%s=%d", s.operation, s.weight)
	}
	return strings.Join(parts, ",")
}

// at is the operation of request number n. Multiples of the golden ratio are spread evenly, so that any stretch of
// requests has nearly the mix's shares, and every run the same requests in the same order.
func (m Mix) at(n int64) Operation {
	_, fraction := math.Modf(float64(n) * math.Phi)
	place := int(fraction * float64(m.total))
	for _, s := range m.shares {
		if place -= s.weight; place < 0 {
			return s.operation
		}
	}
	return m.shares[len(m.shares)-1].operation
}
