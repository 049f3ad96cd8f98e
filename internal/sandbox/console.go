// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"io"
	"strings"
	"sync"
	"unicode"
)

const (
	// maxConsole is how much of a guest's console is kept, in bytes: the last.
	maxConsole = 64 << 10
	// maxLine is how much of a line is looked at, in bytes.
	maxLine = 1024

	refusalPrefix = "nacre: refused code="
)

// console keeps the last of what a guest prints and finds in it the line by which the guest's own code refuses to start.
//
// A guest can print what it likes, so the line is worth as much as the guest: it explains a failure, it never decides.
type console struct {
	copyTo io.Writer

	mu      sync.Mutex
	kept    []byte
	line    []byte
	refused *GuestRefused
}

// Write implements io.Writer; it always takes all.
func (c *console) Write(b []byte) (int, error) {
	// A sink that fails loses what it should have shown; the guest must not stall for it.
	_, _ = c.copyTo.Write(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, b...)
	if over := len(c.kept) - maxConsole; over > 0 {
		c.kept = append(c.kept[:0], c.kept[over:]...)
	}
	for _, char := range b {
		if char == '\n' {
			c.endLine()
		} else if len(c.line) < maxLine {
			c.line = append(c.line, char)
		}
	}
	return len(b), nil
}

func (c *console) endLine() {
	line := string(c.line)
	c.line = c.line[:0]
	if c.refused != nil {
		return
	}
	if refused, ok := parseRefusal(line); ok {
		c.refused = &refused
	}
}

// parseRefusal reads "nacre: refused code=<code> <text>", which may follow a kernel time stamp.
func parseRefusal(line string) (GuestRefused, bool) {
	_, rest, ok := strings.Cut(line, refusalPrefix)
	if !ok {
		return GuestRefused{}, false
	}
	code, text, _ := strings.Cut(strings.TrimRight(rest, "\r"), " ")
	if code == "" || len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return GuestRefused{}, false
	}
	return GuestRefused{Code: code, Text: clean(text)}, true
}

// clean makes a guest's text fit for a terminal and a log: one line, nothing that controls.
func clean(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}

// refusal is what the guest said, nil if nothing.
func (c *console) refusal() *GuestRefused {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// last returns the last n lines, cleaned.
func (c *console) last(n int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(c.kept)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return lines
}
