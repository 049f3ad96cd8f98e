// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import "strings"

// expand replaces $(NAME) in s by the value of NAME, as Kubernetes does in command, args and env: an unknown name stays as it
// is, and $$ stands for one dollar sign, so that $$(NAME) is never replaced.
func expand(s string, value func(name string) (string, bool)) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		if after, ok := strings.CutPrefix(rest, "$"); ok {
			out.WriteByte('$')
			s = after
			continue
		}
		if inner, ok := strings.CutPrefix(rest, "("); ok {
			if name, after, closed := strings.Cut(inner, ")"); closed {
				if v, known := value(name); known {
					out.WriteString(v)
				} else {
					out.WriteString("$(" + name + ")")
				}
				s = after
				continue
			}
		}
		out.WriteByte('$')
		s = rest
	}
}
