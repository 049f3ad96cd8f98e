// SPDX-License-Identifier: Apache-2.0

package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/nacre-project/nacre/kbs"
)

// trail is what is known of the audit trail.
type trail struct {
	id       int64  // of the last record
	hash     string // of the last record
	policy   string // that was set last
	requests map[string]bool
	last     map[string]latest // what the last record about a register says was written, by register
}

// latest is the value that a record tells of; unsure when the request was lost, and so one of those that were.
type latest struct {
	value  string
	unsure bool
}

// follow walks the trail from where the round before left it, and returns the records of this round by request.
func (m *Model) follow(r Round) map[string]kbs.AuditRecord {
	t := &m.trail
	records := r.Trail
	if t.id > 0 {
		if len(records) == 0 || records[0].ID != t.id || records[0].Hash != t.hash {
			m.broken(Chained, "record %d with hash %.12s, which was seen before, is not there any more", t.id, t.hash)
			return nil
		}
		records = records[1:]
	}
	asked := map[string]Op{}
	lost := 0
	for _, op := range r.Ops {
		if op.Outcome == Lost {
			lost++
		} else {
			asked[op.RequestID] = op
		}
	}
	found := map[string]kbs.AuditRecord{}
	for _, record := range records {
		m.link(record)
		found[record.RequestID] = record
		op, known := asked[record.RequestID]
		if !known {
			lost--
		}
		switch register := registerOf(record); {
		case register != "":
			t.last[register] = latest{op.Value, !known}
			if register == Policy {
				t.policy = policyOf(record)
			}
		case record.Decision == "released" && policyOf(record) != t.policy:
			m.broken(Ordered, "record %d releases %s by the policy %s, after %s was set", record.ID, record.Resource,
				policyOf(record), t.policy)
		}
	}
	if lost < 0 {
		m.broken(Unasked, "%d records are of requests that nobody made", -lost)
	}
	return found
}

// link checks that a record follows the one before, as an owner does who has only the records.
func (m *Model) link(record kbs.AuditRecord) {
	t := &m.trail
	plain := record
	plain.Hash = ""
	body, err := json.Marshal(plain)
	digest := sha256.Sum256(body)
	switch {
	case record.ID != t.id+1:
		m.broken(Chained, "record %d follows record %d", record.ID, t.id)
	case record.Prev != t.hash:
		m.broken(Chained, "record %d follows the hash %.12s, not %.12s", record.ID, record.Prev, t.hash)
	case err != nil || hex.EncodeToString(digest[:]) != record.Hash:
		m.broken(Chained, "record %d does not have the hash %.12s", record.ID, record.Hash)
	case t.requests[record.RequestID]:
		m.broken(Chained, "record %d is of a request that another record is of", record.ID)
	}
	t.id, t.hash = record.ID, record.Hash
	t.requests[record.RequestID] = true
}

// agree compares what a register holds with what the trail says was written to it last.
func (m *Model) agree(s Op, r Round) {
	last, ok := m.trail.last[s.Register]
	if !ok {
		return // nobody wrote it, so that all of it is Invented's business
	}
	agreed := s.Value == last.value
	if last.unsure {
		agreed = slices.ContainsFunc(r.Ops, func(op Op) bool {
			return op.Kind == Write && op.Outcome == Lost && op.Register == s.Register && op.Value == s.Value
		})
	}
	if !agreed {
		m.broken(Agreed, "%s is %q, the last record about it tells of %q", s.Register, s.Value, last.value)
	}
	m.trail.last[s.Register] = latest{value: s.Value}
}
