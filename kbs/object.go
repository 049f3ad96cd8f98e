// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// object is a JSON object whose member names are exact and unique. encoding/json into a struct matches names in any
// case and lets the last of several win, so that two parsers may see different messages in the same bytes.
type object map[string]json.RawMessage

// parseObject reads text as one JSON object of at most limit bytes and nothing after it. The members' values are
// parts of text.
func parseObject(text []byte, limit int) (object, error) {
	if len(text) > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(text), limit)
	}
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	if !json.Valid(text) {
		return nil, syntax(text)
	}
	return split(text)
}

// syntax says what is wrong with a text that is not JSON.
func syntax(text []byte) error {
	var value json.RawMessage
	err := json.Unmarshal(text, &value)
	var at *json.SyntaxError
	if errors.As(err, &at) {
		return fmt.Errorf("not JSON: byte %d: %w", at.Offset, err)
	}
	return fmt.Errorf("not JSON: %w", err)
}

// split finds the members of an object in a text that is known to be JSON, so that a value ends where its brackets
// close. Evidence is long; it is read once to see that it is JSON and once to find its end.
func split(text []byte) (object, error) {
	rest := trim(text)
	if len(rest) == 0 || rest[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	members := object{}
	for rest = trim(rest[1:]); rest[0] != '}'; {
		end := valueEnd(rest)
		name, err := unquote(rest[:end])
		if err != nil {
			return nil, err
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("member %q appears twice", clip(name))
		}
		rest = trim(trim(rest[end:])[1:]) // the colon
		end = valueEnd(rest)
		members[name] = json.RawMessage(rest[:end:end])
		if rest = trim(rest[end:]); rest[0] == ',' {
			rest = trim(rest[1:])
		}
	}
	return members, nil
}

// trim takes away the white space in front.
func trim(text []byte) []byte { return bytes.TrimLeft(text, " \t\r\n") }

// valueEnd is the length of the JSON value that text begins with.
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
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	if end := bytes.IndexAny(text, ",]} \t\r\n"); end >= 0 { // a number or a word
		return end
	}
	return len(text)
}

// stringEnd is the length of the JSON string that text begins with.
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

// unquote reads a JSON string.
func unquote(text []byte) (string, error) {
	if len(text) < 2 || text[0] != '"' {
		return "", errors.New("not a string")
	}
	if bytes.IndexByte(text, '\\') < 0 {
		return string(text[1 : len(text)-1]), nil
	}
	var s string
	err := json.Unmarshal(text, &s)
	return s, err
}

// text is the string member called name, which must be present.
func (o object) text(name string) (string, error) {
	value, present := o[name]
	if !present {
		return "", fmt.Errorf("no member %q", name)
	}
	s, err := unquote(value)
	if err != nil {
		return "", fmt.Errorf("member %q: %w", name, err)
	}
	return s, nil
}

// texts fills several string members, all of which must be present.
func (o object) texts(into map[string]*string) error {
	for name, s := range into {
		var err error
		if *s, err = o.text(name); err != nil {
			return err
		}
	}
	return nil
}

// object is the object member called name, which must be present.
func (o object) object(name string) (object, error) {
	value, present := o[name]
	if !present {
		return nil, fmt.Errorf("no member %q", name)
	}
	members, err := split(value)
	if err != nil {
		return nil, fmt.Errorf("member %q: %w", name, err)
	}
	return members, nil
}

// has says whether a member is present and not null.
func (o object) has(name string) bool {
	value, present := o[name]
	return present && string(value) != "null"
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
