// SPDX-License-Identifier: Apache-2.0

package ear

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxDepth caps how deep claims are nested.
const maxDepth = 128

// unique refuses JSON in which an object has two members of one name: programs differ in which of them they believe.
func unique(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	type level struct {
		names map[string]bool // nil: an array
		name  bool            // a name comes next
	}
	var open []level
	for {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '}' || t == ']' {
				open = open[:len(open)-1]
				break
			}
			if len(open) == maxDepth {
				return errors.New("nested too deep")
			}
			l := level{name: t == '{'}
			if l.name {
				l.names = map[string]bool{}
			}
			open = append(open, l)
			continue
		case string:
			if n := len(open); n > 0 && open[n-1].name {
				if open[n-1].names[t] {
					return fmt.Errorf("member %q appears twice", clip(t))
				}
				open[n-1].names[t], open[n-1].name = true, false
				continue
			}
		}
		if len(open) == 0 {
			return nil
		}
		if last := &open[len(open)-1]; last.names != nil {
			last.name = true
		}
	}
}
