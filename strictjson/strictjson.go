// SPDX-License-Identifier: Apache-2.0

// Package strictjson reads foreign JSON in such a way that no two readers can see different things in the same bytes:
// text is UTF-8 in the grammar of RFC 8259 and nothing else, an object's member names are exact and unique, and nothing
// follows the value. encoding/json into a struct matches names in any case and lets the last of several win.
//
// A text is checked whole, once, before anything in it is looked at. What is then read are parts of it, so that long
// parts that are only passed on, as evidence is, cost no more than that. Size and depth are capped.
//
// It trusts nothing. It does not know what a message means, and does not write any.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may nest.
const MaxDepth = 128

// Value is a JSON value: part of a text that was checked. The zero Value stands for one that is absent.
type Value struct{ text []byte }

// Object is an object's members by name. One that is missing is the zero Value.
type Object map[string]Value

// Parse checks that text, of at most limit bytes, is one JSON value.
func Parse(text []byte, limit int) (Value, error) {
	if len(text) > limit {
		return Value{}, fmt.Errorf("%d bytes, at most %d are allowed", len(text), limit)
	}
	if !utf8.Valid(text) {
		return Value{}, errors.New("not UTF-8")
	}
	c := checker{text: text}
	value, err := c.document()
	if err != nil {
		return Value{}, fmt.Errorf("not JSON: %w", err)
	}
	return Value{value}, nil
}

// ParseObject checks that text, of at most limit bytes, is one JSON object, and returns its members.
func ParseObject(text []byte, limit int) (Object, error) {
	value, err := Parse(text, limit)
	if err != nil {
		return nil, err
	}
	return value.Object()
}

// Raw is the value's text, which is not to be changed; nil for one that is absent.
func (v Value) Raw() []byte { return v.text }

// Present says whether there is a value, and not null.
func (v Value) Present() bool { return v.text != nil && string(v.text) != "null" }

var errMissing = errors.New("it is missing")

// Object is the members of an object.
func (v Value) Object() (Object, error) {
	if v.text == nil {
		return nil, errMissing
	}
	if v.text[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	members := Object{}
	for rest := trim(v.text[1:]); rest[0] != '}'; {
		end := valueEnd(rest)
		name := unquote(rest[:end])
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("member %q appears twice", clip(name))
		}
		rest = trim(trim(rest[end:])[1:]) // the colon
		end = valueEnd(rest)
		members[name] = Value{rest[:end:end]}
		rest = next(rest[end:])
	}
	return members, nil
}

// Array is the elements of an array.
func (v Value) Array() ([]Value, error) {
	if v.text == nil {
		return nil, errMissing
	}
	if v.text[0] != '[' {
		return nil, errors.New("not a JSON array")
	}
	var elements []Value
	for rest := trim(v.text[1:]); rest[0] != ']'; {
		end := valueEnd(rest)
		elements = append(elements, Value{rest[:end:end]})
		rest = next(rest[end:])
	}
	return elements, nil
}

// Text is a string. What UTF-8 has no form for, half of a surrogate pair, becomes U+FFFD.
func (v Value) Text() (string, error) {
	if v.text == nil {
		return "", errMissing
	}
	if v.text[0] != '"' {
		return "", errors.New("not a string")
	}
	return unquote(v.text), nil
}

// Decoded is the value in Go: nil, bool, string, json.Number, []any and map[string]any. Of what is in it, too, member
// names are unique.
func (v Value) Decoded() (any, error) {
	if v.text == nil {
		return nil, errMissing
	}
	switch v.text[0] {
	case '{':
		members, err := v.Object()
		if err != nil {
			return nil, err
		}
		object := make(map[string]any, len(members))
		for name, value := range members {
			if object[name], err = value.Decoded(); err != nil {
				return nil, member(name, err)
			}
		}
		return object, nil
	case '[':
		elements, err := v.Array()
		if err != nil {
			return nil, err
		}
		array := make([]any, len(elements))
		for i, element := range elements {
			if array[i], err = element.Decoded(); err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
		}
		return array, nil
	case '"':
		return unquote(v.text), nil
	case 't', 'f':
		return v.text[0] == 't', nil
	case 'n':
		return nil, nil
	}
	return json.Number(v.text), nil
}

// Text is the string member called name, which must be present.
func (o Object) Text(name string) (string, error) {
	s, err := o[name].Text()
	if err != nil {
		return "", member(name, err)
	}
	return s, nil
}

// Texts fills several string members, all of which must be present.
func (o Object) Texts(into map[string]*string) error {
	for name, s := range into {
		var err error
		if *s, err = o.Text(name); err != nil {
			return err
		}
	}
	return nil
}

// Object is the object member called name, which must be present.
func (o Object) Object(name string) (Object, error) {
	members, err := o[name].Object()
	if err != nil {
		return nil, member(name, err)
	}
	return members, nil
}

// Array is the elements of the array member called name, which must be present.
func (o Object) Array(name string) ([]Value, error) {
	elements, err := o[name].Array()
	if err != nil {
		return nil, member(name, err)
	}
	return elements, nil
}

func member(name string, err error) error {
	if errors.Is(err, errMissing) {
		return fmt.Errorf("no member %q", name)
	}
	return fmt.Errorf("member %q: %w", name, err)
}

// What follows reads text that was checked: what must come next does come.

// space are the characters that mean nothing between values.
func space(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// trim takes away the white space in front.
func trim(text []byte) []byte {
	for len(text) > 0 && space(text[0]) {
		text = text[1:]
	}
	return text
}

// next goes on to the next member or element, or to the closing bracket.
func next(text []byte) []byte {
	if text = trim(text); text[0] == ',' {
		text = trim(text[1:])
	}
	return text
}

// valueEnd is the length of the value that text begins with.
func valueEnd(text []byte) int {
	switch text[0] {
	case '"':
		return stringEnd(text)
	case '{', '[':
		depth := 0
		for i := 0; ; i++ {
			switch text[i] {
			case '"':
				i += stringEnd(text[i:]) - 1
			case '[':
				depth++
				i += numbersEnd(text[i+1:])
			case '{':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	end := 0 // a number or a word
	for end < len(text) && text[end] != ',' && text[end] != ']' && text[end] != '}' && !space(text[end]) {
		end++
	}
	return end
}

// numbersEnd is the length of what is inside the array that text is the rest of, if it is nothing but numbers and words,
// and otherwise 0. It is what evidence is full of.
func numbersEnd(text []byte) int {
	inside := text[:bytes.IndexByte(text, ']')]
	if bytes.IndexByte(inside, '"') >= 0 || bytes.IndexByte(inside, '[') >= 0 || bytes.IndexByte(inside, '{') >= 0 {
		return 0
	}
	return len(inside)
}

// stringEnd is the length of the string that text begins with.
func stringEnd(text []byte) int {
	for i := 1; ; i++ {
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
}

// escapes are the characters that a backslash and another character stand for.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unquote is what a string says.
func unquote(quoted []byte) string {
	rest := string(quoted[1 : len(quoted)-1])
	plain, rest, escaped := strings.Cut(rest, `\`)
	if !escaped {
		return plain
	}
	var out strings.Builder
	out.Grow(len(quoted))
	for ; escaped; plain, rest, escaped = strings.Cut(rest, `\`) {
		out.WriteString(plain)
		if rest[0] != 'u' {
			out.WriteByte(escapes[rest[0]])
			rest = rest[1:]
			continue
		}
		r := hexRune(rest[1:5])
		rest = rest[5:]
		if utf16.IsSurrogate(r) {
			second := rune(-1)
			if strings.HasPrefix(rest, `\u`) {
				second = hexRune(rest[2:6])
			}
			if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
				rest = rest[6:]
			}
		}
		out.WriteRune(r)
	}
	out.WriteString(plain)
	return out.String()
}

// hexRune reads four hexadecimal digits.
func hexRune(digits string) (r rune) {
	for i := range len(digits) {
		c := rune(digits[i])
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		r = r<<4 | c
	}
	return r
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
