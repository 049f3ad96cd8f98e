// SPDX-License-Identifier: Apache-2.0

// Package model judges what a trustee did, by what its clients asked and were answered, and by what its store and its
// audit trail held after it was killed and started again.
//
// It knows nothing of how the trustee works. A register (a resource, the release policy, a reference value) is
// something that owners write and that somebody sees later. A write takes effect at one moment between its invocation
// and its answer, or, if no answer came, at one moment before the trustee was dead, or never. All times are of one clock
// that belongs to the clients. From that follows what may be seen, and what not: see the rules.
//
// The model looks for contradictions; it demands no serialization of everything. It sees what clients did to it and
// nothing else, so a trustee that loses what nobody looks at again is not found out. What it says is as good as the
// history: whoever writes that down must note an invocation before it is sent, and an answer after it was read.
package model

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/kbs"
)

// Time is when something happened: since the history began, by the clients' clock.
type Time = time.Duration

// Kind is what an operation does.
type Kind int

// The kinds.
const (
	// Write is an owner's change of a register.
	Write Kind = iota
	// Read is an owner's look at a register.
	Read
	// Attest is a guest's attestation.
	Attest
	// Ask is a guest's request for a resource.
	Ask
)

// Outcome is how an operation ended.
type Outcome int

// The outcomes.
const (
	// Lost is an operation without an answer: it may have taken effect.
	Lost Outcome = iota
	// Done is an operation that was answered as it was asked.
	Done
	// Refused is one that was answered with a refusal.
	Refused
	// Busy is one that the trustee put off: it says that nothing was done.
	Busy
)

// The registers that have a meaning beside their value. All others are resources.
const (
	Policy    = "release policy"
	Reference = "reference value"
)

// Codes of the refusals that say something about a register, as the trustee's.
const (
	CodeDenied  = "policy_denied"
	CodeAbsent  = "resource_not_found"
	CodeReplay  = "nonce_used"
	CodeExpired = "token_expired"
)

// Op is one operation.
type Op struct {
	Kind     Kind
	Register string // written, read or asked for
	// Value is what was written or seen; empty is absence. Of the policy it is the first digits of its digest, as audit
	// writes them. Each value but absence is written at most once.
	Value             string
	Invoked, Answered Time // Answered of a lost operation means nothing
	Outcome           Outcome
	Code              string // of a refusal
	RequestID         string // of an answer

	// Grants are the resources that a written policy grants to affirming guests; Affirms says that a written reference
	// value lets guests be affirming.
	Grants  []string
	Affirms bool

	// Token is the id of the token that came, or was shown. Affirming says how the guest was rated. Session names the
	// session that an attestation used up.
	Token     string
	Affirming bool
	Session   string
}

// Round is what happened from one start of the trustee to the next.
type Round struct {
	Ops []Op
	// Ended is when the trustee was dead for certain: nothing that was not answered takes effect any more.
	Ended Time
	// Trail is the audit trail after the next start, from the last record that the round before saw (the very first
	// round: from the first record).
	Trail []kbs.AuditRecord
	// State is what registers held after the next start, seen before any of them was written again.
	State []Op
}

// Rule is what a trustee must never break.
type Rule string

// The rules.
const (
	// Forgotten: what was acknowledged, or seen by somebody, is there until something else takes its place.
	Forgotten Rule = "forgotten"
	// Invented: what is seen was written by somebody.
	Invented Rule = "invented"
	// Denied: nothing is released that no policy allowed that may have been in force while it was asked for.
	Denied Rule = "denied"
	// Withheld: nothing is refused that every policy allowed that may have been in force while it was asked for.
	Withheld Rule = "withheld"
	// Appraised: a guest is affirming when a reference value says so that may have been in force, and only then.
	Appraised Rule = "appraised"
	// Recorded: what was answered has a record that tells the same.
	Recorded Rule = "recorded"
	// Unasked: a record is of something that was asked for.
	Unasked Rule = "unasked"
	// Chained: records have consecutive ids and fit together by their hashes; none that was seen is gone.
	Chained Rule = "chained"
	// Ordered: the policy that a release names is the last that was set before it in the trail.
	Ordered Rule = "ordered"
	// Agreed: a register holds what the last record about it says was written.
	Agreed Rule = "agreed"
	// Once: a session is used up by the first attestation that is accepted.
	Once Rule = "once"
	// Answered: no answer is one that only a trustee in trouble gives.
	Answered Rule = "answered"
)

// Violation is a rule that was broken.
type Violation struct {
	Rule Rule
	Text string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s", v.Rule, v.Text) }

// Model is what is known of a trustee so far. Rounds are judged one after the other.
type Model struct {
	registers map[string]*register
	policies  map[string][]string // what each value of the policy grants
	affirms   map[string]bool     // by value of the reference value
	sessions  map[string]bool     // used up
	trail     trail

	found []Violation
}

// New is the model of a fresh trustee, whose registers are absent and whose policy grants nothing.
func New(policy string) *Model {
	m := &Model{
		registers: map[string]*register{}, policies: map[string][]string{policy: nil}, affirms: map[string]bool{},
		sessions: map[string]bool{},
		trail:    trail{requests: map[string]bool{}, last: map[string]latest{}, policy: policy},
	}
	m.registers[Policy] = newRegister(policy)
	return m
}

func (m *Model) register(name string) *register {
	r := m.registers[name]
	if r == nil {
		r = newRegister("")
		m.registers[name] = r
	}
	return r
}

func (m *Model) broken(rule Rule, format string, args ...any) {
	m.found = append(m.found, Violation{rule, fmt.Sprintf(format, args...)})
}

// Last is the id of the last record of the trail that was seen, 0 before the first.
func (m *Model) Last() int64 { return m.trail.id }

// Round judges a round.
func (m *Model) Round(r Round) []Violation {
	m.found = nil
	records := m.follow(r)
	for _, op := range r.Ops {
		if op.Kind == Write {
			m.wrote(op, r.Ended)
		}
	}
	views := m.views(r, records)
	for _, v := range views {
		m.register(v.register).see(v)
	}
	for _, v := range views {
		m.judge(v)
	}
	for _, op := range r.Ops {
		m.answered(op, records)
	}
	for _, s := range r.State {
		m.agree(s, r)
	}
	for _, register := range m.registers {
		register.forget()
	}
	return m.found
}

// wrote notes a write.
func (m *Model) wrote(op Op, ended Time) {
	switch op.Register {
	case Policy:
		m.policies[op.Value] = op.Grants
	case Reference:
		m.affirms[op.Value] = op.Affirms
	}
	switch op.Outcome {
	case Done:
		m.register(op.Register).write(op.Value, op.Invoked, op.Answered, op.Answered)
	case Lost:
		m.register(op.Register).write(op.Value, op.Invoked, ended, never)
	}
}

// views are the moments at which a register was seen: by owners, by guests, and by the decisions that records tell of.
func (m *Model) views(r Round, records map[string]kbs.AuditRecord) []view {
	var views []view
	for _, op := range slices.Concat(r.Ops, r.State) {
		seen := view{op.Register, op.Value, op.Invoked, op.Answered}
		switch {
		case op.Outcome == Lost || op.Outcome == Busy || op.Kind == Write || op.Kind == Attest:
		case op.Kind == Read && op.Outcome == Done, op.Kind == Ask && op.Outcome == Done:
			views = append(views, seen)
		case op.Code == CodeAbsent:
			seen.value = ""
			views = append(views, seen)
		}
		if record, ok := records[op.RequestID]; ok && op.Kind == Ask && op.Outcome != Lost {
			views = append(views, view{Policy, policyOf(record), op.Invoked, op.Answered})
		}
	}
	return views
}

// judge says whether a register may have been seen as it was.
func (m *Model) judge(v view) {
	register := m.register(v.register)
	candidates := register.candidates(v)
	switch {
	case len(candidates) == 0 && register.replaced[v.value]:
		m.broken(Forgotten, "%s is %q in %s, which was replaced for good before", v.register, v.value, v.span())
	case len(candidates) == 0:
		m.broken(Invented, "%s is %q in %s, which nobody had written", v.register, v.value, v.span())
	case !slices.ContainsFunc(candidates, func(w *write) bool { return register.mayHold(w, v.from, v.to) }):
		m.broken(Forgotten, "%s is %q in %s, although %q was acknowledged or seen after it", v.register, v.value, v.span(),
			register.successor(candidates[0], v.from).value)
	}
}

// answered judges one answer beside what it says of a register.
func (m *Model) answered(op Op, records map[string]kbs.AuditRecord) {
	if op.Outcome == Lost || op.Outcome == Busy {
		return
	}
	if op.Outcome == Refused && !slices.Contains([]string{CodeDenied, CodeAbsent, CodeReplay, CodeExpired}, op.Code) {
		m.broken(Answered, "request %s was answered %q", op.RequestID, op.Code)
		return
	}
	if op.Kind == Read || op.Code == CodeExpired || op.Kind == Write && op.Outcome == Refused {
		return // leaves no record
	}
	record, ok := records[op.RequestID]
	if !ok {
		m.broken(Recorded, "request %s was answered, and has no record", op.RequestID)
		return
	}
	switch op.Kind {
	case Write:
		m.expect(op, record, "admin", "changed")
	case Attest:
		m.attested(op, record)
	case Ask:
		m.asked(op, record)
	}
}

func (m *Model) attested(op Op, record kbs.AuditRecord) {
	if op.Outcome == Refused {
		m.expect(op, record, "attest", "refused")
		return
	}
	m.expect(op, record, "attest", "accepted")
	if m.sessions[op.Session] {
		m.broken(Once, "request %s: the session %s was accepted again", op.RequestID, op.Session)
	}
	m.sessions[op.Session] = true
	possible := m.register(Reference).possible(op.Invoked, op.Answered)
	if !slices.ContainsFunc(possible, func(w *write) bool { return m.affirms[w.value] == op.Affirming }) {
		m.broken(Appraised, "request %s: affirming is %t, which no reference value says that may have been in force", op.RequestID,
			op.Affirming)
	}
}

func (m *Model) asked(op Op, record kbs.AuditRecord) {
	grants := func(policy string) bool { return op.Affirming && slices.Contains(m.policies[policy], op.Register) }
	grant := func(w *write) bool { return grants(w.value) }
	deny := func(w *write) bool { return !grants(w.value) }
	possible := m.register(Policy).possible(op.Invoked, op.Answered)
	if op.Code == CodeDenied {
		m.expect(op, record, "release", "refused")
		if !slices.ContainsFunc(possible, deny) || grants(policyOf(record)) {
			m.broken(Withheld, "request %s: %s was refused, in force was %s", op.RequestID, op.Register, policyOf(record))
		}
		return
	}
	decision := "released"
	if op.Outcome == Refused {
		decision = "refused" // there is no such resource: who learns that must be allowed to
	}
	m.expect(op, record, "release", decision)
	if !slices.ContainsFunc(possible, grant) || !grants(policyOf(record)) {
		m.broken(Denied, "request %s: %s was answered by the policy %s", op.RequestID, op.Register, policyOf(record))
	}
}

// expect compares a record with the answer.
func (m *Model) expect(op Op, record kbs.AuditRecord, event, decision string) {
	code := op.Code
	if op.Outcome == Done {
		code = ""
	}
	told := record.Event == event && record.Decision == decision && record.Code == code
	switch op.Kind {
	case Write:
		told = told && registerOf(record) == op.Register && (op.Register != Policy || policyOf(record) == op.Value)
	case Attest:
		told = told && (op.Outcome != Done || record.TokenID == op.Token)
	case Ask:
		told = told && record.TokenID == op.Token && record.Resource == resourcePrefix+op.Register
	}
	if !told {
		m.broken(Recorded, "request %s has record %d, which tells another story: %s %s %s %s", op.RequestID, record.ID, record.Event,
			record.Decision, record.Code, record.Resource)
	}
}

// resourcePrefix is what audit writes before a resource's path.
const resourcePrefix = "kbs:///"

// policyOf is the value of the policy that a record names.
func policyOf(r kbs.AuditRecord) string {
	_, digest, _ := strings.Cut(r.Policy, "@sha256:")
	return digest
}

// registerOf is the register that a record says was written, empty if none.
func registerOf(r kbs.AuditRecord) string {
	switch {
	case r.Event != "admin":
		return ""
	case strings.HasPrefix(r.Policy, "resource-policy@"):
		return Policy
	case r.Resource != "":
		return strings.TrimPrefix(r.Resource, resourcePrefix)
	case strings.Contains(r.Detail, "reference value"):
		return Reference
	}
	return ""
}
