// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// never is later than everything.
const never Time = math.MaxInt64

// write is a change of a register that takes effect at one moment in (from, to], or, unless it is known, never.
type write struct {
	value    string
	from, to Time
	known    Time // by then it has taken effect; never: it may not have
}

// view is a look at a register that saw it as it was at one moment in [from, to].
type view struct {
	register, value string
	from, to        Time
}

func (v view) span() string {
	return fmt.Sprintf("[%s, %s]", v.from.Round(time.Microsecond), v.to.Round(time.Microsecond))
}

// register is what may have been written to one, as far as it may still be there.
type register struct {
	writes   []*write
	replaced map[string]bool // values that cannot be there any more
}

func newRegister(value string) *register {
	return &register{writes: []*write{{value: value, from: -1, to: -1, known: -1}}, replaced: map[string]bool{}}
}

func (r *register) write(value string, from, to, known Time) {
	r.writes = append(r.writes, &write{value, from, to, known})
}

// candidates are the writes that a view may have seen.
func (r *register) candidates(v view) []*write {
	var found []*write
	for _, w := range r.writes {
		if w.value == v.value && w.from < v.to {
			found = append(found, w)
		}
	}
	return found
}

// see notes that what was seen has taken effect: it is not forgotten any more, acknowledged or not.
func (r *register) see(v view) {
	if found := r.candidates(v); len(found) == 1 {
		found[0].known, found[0].to = min(found[0].known, v.to), min(found[0].to, v.to)
	}
}

// successor is a write that has taken effect before a moment, and after w; nil if there is none.
func (r *register) successor(w *write, before Time) *write {
	for _, next := range r.writes {
		if next.known < before && w.to < next.from {
			return next
		}
	}
	return nil
}

// mayHold says whether the register may have held w at a moment in [from, to].
func (r *register) mayHold(w *write, from, to Time) bool {
	return w.from < to && r.successor(w, from) == nil
}

// possible are the writes that the register may have held at a moment in [from, to].
func (r *register) possible(from, to Time) []*write {
	var found []*write
	for _, w := range r.writes {
		if r.mayHold(w, from, to) {
			found = append(found, w)
		}
	}
	return found
}

// forget drops the writes that have a successor which has taken effect: no later view may see them.
func (r *register) forget() {
	var kept []*write
	for _, w := range r.writes {
		if r.successor(w, never) == nil {
			kept = append(kept, w)
		}
	}
	for _, w := range r.writes {
		if w.value != "" && !slices.ContainsFunc(kept, func(k *write) bool { return k.value == w.value }) {
			r.replaced[w.value] = true
		}
	}
	r.writes = kept
}
