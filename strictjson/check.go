// SPDX-License-Identifier: Apache-2.0

package strictjson

import (
	"errors"
	"fmt"
	"strings"
)

// checker walks over a text and finds out whether it is JSON (RFC 8259). Its methods move past what they check.
type checker struct {
	text []byte
	at   int // how much of the text was found good
}

var (
	errEnd  = errors.New("unexpected end")
	errDeep = fmt.Errorf("nested deeper than %d", MaxDepth)
)

// unexpected is the error about the next character.
func (c *checker) unexpected() error {
	if c.at >= len(c.text) {
		return errEnd
	}
	return fmt.Errorf("byte %d: unexpected %q", c.at+1, c.text[c.at])
}

// peek is the next character, or 0, which is in no JSON text, at the end.
func (c *checker) peek() byte {
	if c.at < len(c.text) {
		return c.text[c.at]
	}
	return 0
}

// take moves past a character if it is the next.
func (c *checker) take(b byte) bool {
	if c.peek() != b {
		return false
	}
	c.at++
	return true
}

func (c *checker) space() {
	for space(c.peek()) {
		c.at++
	}
}

// document is one value with nothing but space around it; it returns the value's text.
func (c *checker) document() ([]byte, error) {
	c.space()
	start := c.at
	if err := c.value(0); err != nil {
		return nil, err
	}
	end := c.at
	if c.space(); c.at < len(c.text) {
		return nil, c.unexpected()
	}
	return c.text[start:end:end], nil
}

func (c *checker) value(depth int) error {
	switch c.peek() {
	case '"':
		return c.string()
	case '{':
		return c.list(depth, '}', c.member)
	case '[':
		return c.list(depth, ']', c.value)
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	}
	return c.number()
}

// list is the inside of brackets, which the next character opens: items with commas between them.
func (c *checker) list(depth int, closing byte, item func(depth int) error) error {
	if depth == MaxDepth {
		return errDeep
	}
	c.at++
	if c.space(); c.take(closing) {
		return nil
	}
	if closing == ']' {
		c.integers()
		c.space()
	}
	for {
		if err := item(depth + 1); err != nil {
			return err
		}
		c.space()
		switch c.peek() {
		case ',':
			c.at++
		case closing:
			c.at++
			return nil
		default:
			return c.unexpected()
		}
		c.space()
	}
}

// integers moves past integers with a comma behind each, as many as there are: evidence is lists of thousands of them.
func (c *checker) integers() {
	for i := c.at; ; i++ {
		start := i
		for i < len(c.text) && c.text[i]-'0' <= 9 {
			i++
		}
		if i == start || i > start+1 && c.text[start] == '0' || i == len(c.text) || c.text[i] != ',' {
			return
		}
		c.at = i + 1
	}
}

// member is a name, a colon and a value.
func (c *checker) member(depth int) error {
	if c.peek() != '"' {
		return c.unexpected()
	}
	if err := c.string(); err != nil {
		return err
	}
	if c.space(); !c.take(':') {
		return c.unexpected()
	}
	c.space()
	return c.value(depth)
}

// word is one of the three that JSON has.
func (c *checker) word(word string) error {
	for i := range len(word) {
		if !c.take(word[i]) {
			return c.unexpected()
		}
	}
	return nil
}

// plain are the characters that stand for themselves in a string, as far as one byte tells.
var plain = func() (set [256]bool) {
	for c := range set {
		set[c] = c >= 0x20 && c != '"' && c != '\\'
	}
	return set
}()

// string is a string, of which the next character is the first quotation mark.
func (c *checker) string() error {
	for c.at++; ; c.at++ {
		end := c.at
		for end < len(c.text) && plain[c.text[end]] {
			end++
		}
		c.at = end
		switch {
		case c.take('"'):
			return nil
		case c.peek() != '\\':
			return c.unexpected()
		}
		if c.at++; c.peek() == 'u' {
			for range 4 {
				if c.at++; !hexDigit(c.peek()) {
					return c.unexpected()
				}
			}
		} else if escapes[c.peek()] == 0 {
			return c.unexpected()
		}
	}
}

func hexDigit(b byte) bool { return b != 0 && strings.IndexByte("0123456789abcdefABCDEF", b) >= 0 }

// number is a number as JSON writes it: no plus in front, no zeros before a digit.
func (c *checker) number() error {
	c.take('-')
	zero := c.peek() == '0'
	start := c.at
	if err := c.digits(); err != nil {
		return err
	}
	if zero && c.at > start+1 {
		c.at = start + 1
		return c.unexpected()
	}
	switch c.peek() {
	case '.', 'e', 'E':
		return c.fraction()
	}
	return nil
}

// fraction is what a number may have after its integer: decimals, an exponent.
func (c *checker) fraction() error {
	if c.take('.') {
		if err := c.digits(); err != nil {
			return err
		}
	}
	if !c.take('e') && !c.take('E') {
		return nil
	}
	if !c.take('+') {
		c.take('-')
	}
	return c.digits()
}

// digits is one digit or more.
func (c *checker) digits() error {
	end := c.at
	for end < len(c.text) && c.text[end]-'0' <= 9 {
		end++
	}
	if end == c.at {
		return c.unexpected()
	}
	c.at = end
	return nil
}
