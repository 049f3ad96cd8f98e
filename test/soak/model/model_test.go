// SPDX-License-Identifier: Apache-2.0

package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/nacre-project/nacre/kbs"
)

// Policies of the histories: the first is a fresh trustee's.
const (
	denyAll  = "000000000000"
	allowAll = "aaaaaaaaaaaa"
	denyNow  = "dddddddddddd"
)

// history is what a good trustee and its clients did. Each step takes one unit of time: it begins at 10n, the trustee
// decides at 10n+5, and the answer is there at 10n+9. A test may then change what was noted.
type history struct {
	now   Time
	ops   []Op
	trail []kbs.AuditRecord
	state []Op
}

func (h *history) op(op Op) *Op {
	h.now += 10
	op.Invoked, op.Answered = h.now, h.now+9
	if op.Outcome == 0 {
		op.Outcome = Done
	}
	op.RequestID = fmt.Sprint("r", h.now)
	h.ops = append(h.ops, op)
	return &h.ops[len(h.ops)-1]
}

func (h *history) record(op *Op, r kbs.AuditRecord) {
	r.RequestID, r.Code = op.RequestID, op.Code
	h.trail = append(h.trail, r)
}

func (h *history) put(register, value string) {
	op := h.op(Op{Kind: Write, Register: register, Value: value})
	h.record(op, kbs.AuditRecord{Event: "admin", Decision: "changed", Resource: resourcePrefix + register, Detail: "POST it"})
}

func (h *history) policy(value string, grants ...string) {
	op := h.op(Op{Kind: Write, Register: Policy, Value: value, Grants: grants})
	h.record(op, kbs.AuditRecord{Event: "admin", Decision: "changed", Policy: "resource-policy@sha256:" + value})
}

func (h *history) reference(value string, affirms bool) {
	op := h.op(Op{Kind: Write, Register: Reference, Value: value, Affirms: affirms})
	h.record(op, kbs.AuditRecord{Event: "admin", Decision: "changed", Detail: "register the reference values x"})
}

func (h *history) attest(token string, affirming bool) {
	op := h.op(Op{Kind: Attest, Token: token, Affirming: affirming, Session: "session of " + token})
	h.record(op, kbs.AuditRecord{Event: "attest", Decision: "accepted", TokenID: token})
}

func (h *history) ask(token, register, value, policy string) {
	op := h.op(Op{Kind: Ask, Register: register, Value: value, Token: token, Affirming: true})
	h.record(op, kbs.AuditRecord{Event: "release", Decision: "released", TokenID: token, Resource: resourcePrefix + register,
		Policy: "resource-policy@sha256:" + policy})
}

func (h *history) refuse(token, register, code, policy string) {
	op := h.op(Op{Kind: Ask, Outcome: Refused, Code: code, Register: register, Token: token, Affirming: true})
	h.record(op, kbs.AuditRecord{Event: "release", Decision: "refused", TokenID: token, Resource: resourcePrefix + register,
		Policy: "resource-policy@sha256:" + policy})
}

func (h *history) read(register, value string) {
	h.now += 10
	h.state = append(h.state, Op{Kind: Read, Outcome: Done, Register: register, Value: value, Invoked: h.now + 1000,
		Answered: h.now + 1009})
}

// find is the n-th operation of a kind.
func (h *history) find(kind Kind, n int) *Op {
	for i := range h.ops {
		if h.ops[i].Kind == kind {
			if n--; n < 0 {
				return &h.ops[i]
			}
		}
	}
	panic("no such operation")
}

// good is a history without a fault.
func good() *history {
	h := &history{}
	h.put("a", "a1")
	h.reference("good", true)
	h.attest("t1", true)
	h.refuse("t1", "a", CodeDenied, denyAll)
	h.policy(allowAll, "a", "b")
	h.ask("t1", "a", "a1", allowAll)
	h.put("a", "a2")
	h.ask("t1", "a", "a2", allowAll)
	h.refuse("t1", "b", CodeAbsent, allowAll)
	h.policy(denyNow)
	h.refuse("t1", "a", CodeDenied, denyNow)
	h.read("a", "a2")
	h.read(Policy, denyNow)
	h.read(Reference, "good")
	return h
}

// round numbers and chains the records.
func (h *history) round() Round {
	previous := ""
	for i := range h.trail {
		r := &h.trail[i]
		r.ID, r.Prev, r.Hash = int64(i+1), previous, ""
		body, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		digest := sha256.Sum256(body)
		r.Hash = hex.EncodeToString(digest[:])
		previous = r.Hash
	}
	return Round{Ops: h.ops, Ended: h.now + 500, Trail: h.trail, State: h.state}
}

// lose makes an operation one that was not answered.
func lose(op *Op) { op.Outcome, op.RequestID, op.Answered = Lost, "", 0 }

func rules(found []Violation) []Rule {
	var list []Rule
	for _, v := range found {
		list = append(list, v.Rule)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func TestGoodHistories(t *testing.T) {
	for name, change := range map[string]func(*history){
		"nothing is changed":              func(*history) {},
		"a lost write that took effect":   func(h *history) { lose(h.find(Write, 3)) },
		"a lost policy that took effect":  func(h *history) { lose(h.find(Write, 4)) },
		"a lost write that took none":     func(h *history) { h.put("c", "c1"); lose(h.find(Write, 5)); h.trail = h.trail[:len(h.trail)-1] },
		"a lost release":                  func(h *history) { lose(h.find(Ask, 1)) },
		"a lost release without a record": func(h *history) { lose(h.find(Ask, 3)); h.trail = slices.Delete(h.trail, 8, 9) },
		"a read that overlaps the write": func(h *history) {
			h.find(Write, 3).Answered += 100 // the owner is told late
			h.find(Ask, 2).Value = "a1"
		},
		"a busy trustee": func(h *history) { h.op(Op{Kind: Ask, Outcome: Busy, Code: "busy", Register: "a"}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			change(h)
			if found := New(denyAll).Round(h.round()); len(found) > 0 {
				t.Error(found)
			}
		})
	}
}

// Each rule is broken by a history that breaks no other, where that can be.
func TestWrongHistories(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(h *history)
		want   []Rule
	}{
		{"an acknowledged write is gone", func(h *history) { h.state[0].Value = "a1" }, []Rule{Agreed, Forgotten}},
		{"an acknowledged write is gone, and its record", func(h *history) {
			lose(h.find(Ask, 2))
			h.trail = slices.Delete(h.trail, 6, 8)
			h.state[0].Value = "a1"
		}, []Rule{Forgotten, Recorded}},
		{"a deletion that nobody made", func(h *history) { h.state[0].Value = "" }, []Rule{Agreed, Forgotten}},
		{"a deletion that is undone", func(h *history) {
			h.put("a", "") // in the place of DELETE
			h.state[0].Invoked, h.state[0].Answered = h.now+1000, h.now+1009
		}, []Rule{Agreed, Forgotten}},
		{"a lost write that was seen is gone", func(h *history) {
			lose(h.find(Write, 3))
			h.trail = slices.Delete(h.trail, 6, 7)
			h.state[0].Value = "a1"
		}, []Rule{Forgotten}},
		{"a policy is gone", func(h *history) { h.state[1].Value = allowAll }, []Rule{Agreed, Forgotten}},
		{"a value that was replaced before it is released", func(h *history) { h.find(Ask, 2).Value = "a1" }, []Rule{Forgotten}},
		{"a value that nobody wrote", func(h *history) { h.find(Ask, 2).Value = "a9" }, []Rule{Invented}},
		{"a value before it is written", func(h *history) { h.find(Ask, 1).Value = "a2" }, []Rule{Invented}},
		{"a release that the policy in force denies", func(h *history) {
			h.ask("t1", "a", "a2", denyNow)
		}, []Rule{Denied}},
		{"a release by a policy that is no longer in force", func(h *history) {
			h.ask("t1", "a", "a2", allowAll)
		}, []Rule{Denied, Forgotten, Ordered}},
		{"a release of what the policy does not name", func(h *history) {
			h.find(Write, 2).Grants = []string{"b"}
		}, []Rule{Denied}},
		{"a release to a guest that is not affirming", func(h *history) {
			h.find(Ask, 1).Affirming = false
		}, []Rule{Denied}},
		{"word of a resource that the policy does not name", func(h *history) {
			h.find(Write, 2).Grants = []string{"a"}
		}, []Rule{Denied}},
		{"a refusal of what the policy allows", func(h *history) {
			op := h.find(Ask, 2)
			op.Outcome, op.Code, op.Value = Refused, CodeDenied, ""
			h.trail[7].Decision, h.trail[7].Code = "refused", CodeDenied
		}, []Rule{Withheld}},
		{"affirming without a reference value", func(h *history) {
			h.find(Write, 1).Affirms = false
		}, []Rule{Appraised}},
		{"not affirming in spite of the reference value", func(h *history) {
			h.find(Attest, 0).Affirming = false
		}, []Rule{Appraised}},
		{"a release without a record", func(h *history) { h.trail = slices.Delete(h.trail, 7, 8) }, []Rule{Recorded}},
		{"a release whose record is of another resource", func(h *history) {
			h.trail[7].Resource = resourcePrefix + "b"
		}, []Rule{Recorded}},
		{"a release whose record is of another token", func(h *history) { h.trail[7].TokenID = "t2" }, []Rule{Recorded}},
		{"a release whose record is of a refusal", func(h *history) { h.trail[7].Decision = "refused" }, []Rule{Recorded}},
		{"a refusal without a record", func(h *history) { h.trail = slices.Delete(h.trail, 3, 4) }, []Rule{Recorded}},
		{"a write whose record is of another register", func(h *history) {
			h.trail[6].Resource = resourcePrefix + "c"
		}, []Rule{Agreed, Recorded}},
		{"an attestation whose record is of another token", func(h *history) { h.trail[2].TokenID = "t2" }, []Rule{Recorded}},
		{"an attestation without a record", func(h *history) { h.trail = slices.Delete(h.trail, 2, 3) }, []Rule{Recorded}},
		{"a record of what nobody asked for", func(h *history) {
			h.trail = append(h.trail, kbs.AuditRecord{Event: "release", Decision: "refused", RequestID: "other"})
		}, []Rule{Unasked}},
		{"a release in the trail that was lost, by a policy that was replaced", func(h *history) {
			h.ask("t1", "a", "a2", allowAll)
			lose(h.find(Ask, 5))
		}, []Rule{Ordered}},
		{"a session that is used twice", func(h *history) {
			h.attest("t2", true)
			h.find(Attest, 1).Session = h.find(Attest, 0).Session
		}, []Rule{Once}},
		{"an answer of a trustee in trouble", func(h *history) {
			h.op(Op{Kind: Ask, Outcome: Refused, Code: "internal", Register: "a"})
		}, []Rule{Answered}},
		{"two records of one request", func(h *history) {
			lose(h.find(Ask, 1))
			h.trail[5].RequestID = "x"
			h.trail = append(h.trail, kbs.AuditRecord{Event: "release", Decision: "refused", RequestID: "x"})
		}, []Rule{Chained, Unasked}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := good()
			tt.change(h)
			slices.Sort(tt.want)
			if found := New(denyAll).Round(h.round()); !slices.Equal(rules(found), tt.want) {
				t.Errorf("found %q, want %s", found, tt.want)
			}
		})
	}
}

// What breaks the chain itself is done to the chained records.
func TestWrongTrails(t *testing.T) {
	for name, change := range map[string]func(*Round){
		"a record changed":    func(r *Round) { r.Trail[3].Detail = "other" },
		"a gap in the ids":    func(r *Round) { r.Trail[10].ID++ },
		"a hash exchanged":    func(r *Round) { r.Trail[4].Prev = r.Trail[3].Prev },
		"the hash of another": func(r *Round) { r.Trail[10].Hash = r.Trail[9].Hash },
	} {
		t.Run(name, func(t *testing.T) {
			r := good().round()
			r.Trail = slices.Clone(r.Trail)
			change(&r)
			if found := New(denyAll).Round(r); !slices.Contains(rules(found), Chained) {
				t.Errorf("found %q", found)
			}
		})
	}
}

// What a round has shown binds the rounds after it.
func TestRoundsFollowEachOther(t *testing.T) {
	first := good().round()
	last := len(first.Trail) - 1
	next := func(change func(*Round)) Round {
		h := good()
		before := len(h.ops)
		h.now, h.state = 10_000, nil
		h.policy("bbbbbbbbbbbb", "a")
		h.ask("t1", "a", "a2", "bbbbbbbbbbbb")
		h.read("a", "a2")
		r := h.round()
		r.Ops, r.Trail = r.Ops[before:], r.Trail[last:]
		change(&r)
		return r
	}
	for name, tt := range map[string]struct {
		change func(*Round)
		want   []Rule
	}{
		"all is well":                       {func(*Round) {}, nil},
		"a value of the round before":       {func(r *Round) { r.State[0].Value = "a1" }, []Rule{Agreed, Forgotten}},
		"the trail was cut":                 {func(r *Round) { r.Trail, r.Ops = r.Trail[1:], nil }, []Rule{Chained}},
		"the trail is gone":                 {func(r *Round) { r.Trail, r.Ops = nil, nil }, []Rule{Chained}},
		"the last record was written anew":  {func(r *Round) { r.Trail[0].Hash, r.Ops = "other", nil }, []Rule{Chained}},
		"a session of the round before":     {func(r *Round) { attestAgain(r) }, []Rule{Once}},
		"a policy of the round before":      {func(r *Round) { r.Trail[2].Policy = "resource-policy@sha256:" + denyNow; rechain(r) }, []Rule{Denied, Forgotten, Ordered}},
		"a record of the request of before": {func(r *Round) { r.Ops[1].RequestID, r.Trail[2].RequestID = "r10ns", "r10ns"; rechain(r) }, []Rule{Chained}},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(denyAll)
			if found := m.Round(first); len(found) > 0 {
				t.Fatal(found)
			}
			if m.Last() != int64(len(first.Trail)) {
				t.Fatalf("the last record seen is %d", m.Last())
			}
			slices.Sort(tt.want)
			if found := m.Round(next(tt.change)); !slices.Equal(rules(found), tt.want) {
				t.Errorf("found %q, want %s", found, tt.want)
			}
		})
	}
}

func attestAgain(r *Round) {
	r.Ops = append(r.Ops, Op{Kind: Attest, Outcome: Done, Invoked: 11_000, Answered: 11_009, RequestID: "again", Token: "t9",
		Affirming: true, Session: "session of t1"})
	r.Trail = append(r.Trail, kbs.AuditRecord{Event: "attest", Decision: "accepted", TokenID: "t9", RequestID: "again"})
	rechain(r)
}

// rechain chains the records of a round to its first one.
func rechain(r *Round) {
	for i := 1; i < len(r.Trail); i++ {
		record := &r.Trail[i]
		record.ID, record.Prev, record.Hash = r.Trail[i-1].ID+1, r.Trail[i-1].Hash, ""
		body, err := json.Marshal(record)
		if err != nil {
			panic(err)
		}
		digest := sha256.Sum256(body)
		record.Hash = hex.EncodeToString(digest[:])
	}
}
