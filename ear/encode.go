// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// writer writes a token's claims, once and in one piece: what encoding/json would write, to the byte. Where MarshalJSON
// calls json.Marshal for a part that has a MarshalJSON too, each level scans and copies again all that lies below it,
// and evidence is long.
type writer struct {
	text  []byte
	first bool // of an object's members
	err   error
}

// open begins an object.
func (w *writer) open() {
	w.text = append(w.text, '{')
	w.first = true
}

// close ends an object.
func (w *writer) close() {
	w.text = append(w.text, '}')
	w.first = false
}

// name begins a member.
func (w *writer) name(name string) {
	if !w.first {
		w.text = append(w.text, ',')
	}
	w.first = false
	w.string(name)
	w.text = append(w.text, ':')
}

// member writes a member.
func (w *writer) member(name string, value any) {
	w.name(name)
	failed := w.err != nil
	if w.value(value); w.err != nil && !failed {
		w.err = fmt.Errorf("member %q: %w", name, w.err)
	}
}

// members writes an object's members sorted. Those that were encoded before are written as they are.
func (w *writer) members(object map[string]any, encoded map[string]json.RawMessage) {
	w.open()
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if text, ok := encoded[name]; ok {
			w.name(name)
			w.text = append(w.text, text...)
		} else {
			w.member(name, object[name])
		}
	}
	w.close()
}

// value writes a value. What claims mostly consist of does not need encoding/json to find out its type.
func (w *writer) value(value any) {
	switch v := value.(type) {
	case string:
		w.string(v)
	case bool:
		w.text = strconv.AppendBool(w.text, v)
	case int64:
		w.text = strconv.AppendInt(w.text, v, 10)
	case Claim:
		w.text = strconv.AppendInt(w.text, int64(v), 10)
	case Vector:
		v.write(w)
	case map[string]any:
		if v != nil {
			w.members(v, nil)
			return
		}
		w.text = append(w.text, "null"...)
	default:
		w.encode(value)
	}
}

// encode writes a value as encoding/json does.
func (w *writer) encode(value any) {
	text, err := json.Marshal(value)
	if err != nil && w.err == nil {
		w.err = err
	}
	w.text = append(w.text, text...)
}

// unescaped are the characters that encoding/json writes as they are.
var unescaped = func() (set [256]bool) {
	for c := byte(' '); c < 0x7f; c++ {
		set[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return set
}()

func (w *writer) string(s string) {
	for i := range len(s) {
		if !unescaped[s[i]] {
			w.encode(s)
			return
		}
	}
	w.text = append(w.text, '"')
	w.text = append(w.text, s...)
	w.text = append(w.text, '"')
}
