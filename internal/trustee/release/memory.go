// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/binary"
	"sync"
)

// maxRemembered is how many requests of one token are remembered; a guest asks for few things, and again.
const maxRemembered = 64

// memory holds what one policy has allowed to one token. Another policy's decisions take their place, so a policy that
// was replaced has no say.
type memory struct {
	mu      sync.Mutex
	policy  *Policy
	allowed map[string]bool
}

func (m *memory) has(p *Policy, r Request) bool {
	key := r.key()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.policy == p && m.allowed[key]
}

func (m *memory) add(p *Policy, r Request) {
	if len(r.Query) > 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.policy != p || len(m.allowed) >= maxRemembered {
		m.policy, m.allowed = p, map[string]bool{}
	}
	m.allowed[r.key()] = true
}

// key is different for different requests: each text goes with its length. Requests with a query have the key of
// nothing.
func (r Request) key() string {
	if len(r.Query) > 0 {
		return ""
	}
	b := make([]byte, 0, 64)
	b = binary.AppendUvarint(b, uint64(len(r.Path)))
	for _, text := range append([]string{r.Plugin}, r.Path...) {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	return string(b)
}
