// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of what [CanonicalJSON] takes.
const (
	maxCanonicalSize  = MaxAttestationSize
	maxCanonicalDepth = 64
	maxSafeInteger    = 1<<53 - 1 // the largest integer that every JSON reader keeps exact
)

// CanonicalJSON rewrites a JSON text in the one form that RFC 8785 gives it, for hashing. Of the numbers it takes
// integers that every reader keeps exact; nothing in this protocol hashes another, so others are refused rather than
// printed as ECMAScript would.
func CanonicalJSON(text []byte) ([]byte, error) {
	value, err := parseCanonicalizable(text)
	if err != nil {
		return nil, fmt.Errorf("canonicalising JSON: %w", err)
	}
	out, err := appendCanonical(nil, value)
	if err != nil {
		return nil, fmt.Errorf("canonicalising JSON: %w", err)
	}
	return out, nil
}

// parseCanonicalizable reads one JSON value. Object members are unique; strings are Unicode without lone surrogates,
// which have no UTF-8 form to hash.
func parseCanonicalizable(text []byte) (any, error) {
	if len(text) > maxCanonicalSize {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(text), maxCanonicalSize)
	}
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	if hasLoneSurrogate(text) {
		return nil, errors.New("a string has half of a surrogate pair in it")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	value, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the JSON value")
	}
	return value, nil
}

// tooShort keeps encoding/json's words, and says in ours when the text just ends.
func tooShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON text ends too early")
	}
	return err
}

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxCanonicalDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxCanonicalDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, tooShort(err)
	}
	switch token {
	case json.Delim('{'):
		members := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, tooShort(err)
			}
			key, _ := name.(string) // the decoder accepts nothing else in this place
			if _, twice := members[key]; twice {
				return nil, fmt.Errorf("member %q appears twice", clip(key))
			}
			if members[key], err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return members, err
	case json.Delim('['):
		elements := []any{}
		for dec.More() {
			element, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			elements = append(elements, element)
		}
		_, err := dec.Token()
		return elements, err
	}
	return token, nil
}

// hasLoneSurrogate finds \ud800 to \udfff escapes in a JSON text that do not come as a high and a low one.
// encoding/json would make U+FFFD of each, so that different texts had one hash.
func hasLoneSurrogate(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		first, ok := unicodeEscape(text[i:])
		switch {
		case !ok:
			i++ // the escaped character is not the start of an escape
		case !utf16.IsSurrogate(first):
			i += 5
		default:
			second, _ := unicodeEscape(text[i+6:])
			if utf16.DecodeRune(first, second) == utf8.RuneError {
				return true
			}
			i += 11
		}
	}
	return false
}

// unicodeEscape reads \uXXXX at the start of text.
func unicodeEscape(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	code, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(code), err == nil
}

func appendCanonical(out []byte, value any) ([]byte, error) {
	switch value := value.(type) {
	case nil:
		return append(out, "null"...), nil
	case bool:
		return strconv.AppendBool(out, value), nil
	case string:
		return appendCanonicalString(out, value), nil
	case json.Number:
		n, err := strconv.ParseInt(value.String(), 10, 64)
		if err != nil || n > maxSafeInteger || n < -maxSafeInteger {
			return nil, fmt.Errorf("the number %s is not an integer of at most 53 bits", clip(value.String()))
		}
		return strconv.AppendInt(out, n, 10), nil
	case []any:
		out = append(out, '[')
		for i, element := range value {
			if i > 0 {
				out = append(out, ',')
			}
			var err error
			if out, err = appendCanonical(out, element); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case map[string]any:
		out = append(out, '{')
		for i, name := range slices.SortedFunc(maps.Keys(value), compareUTF16) {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendCanonicalString(out, name), ':')
			var err error
			if out, err = appendCanonical(out, value[name]); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	}
	return nil, fmt.Errorf("a value of type %T", value)
}

// compareUTF16 orders member names by their UTF-16 code units (RFC 8785 section 3.2.3). That differs from the order
// of the bytes only where a character beyond the basic plane meets one from U+E000 to U+FFFF.
func compareUTF16(a, b string) int {
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

// appendCanonicalString writes s as ECMAScript's JSON.stringify does (RFC 8785 section 3.2.2.2).
func appendCanonicalString(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c >= 0x20:
			out = append(out, c)
		case c == '\b':
			out = append(out, `\b`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\f':
			out = append(out, `\f`...)
		case c == '\r':
			out = append(out, `\r`...)
		default:
			out = append(out, `\u00`...)
			out = append(out, hex[c>>4], hex[c&15])
		}
	}
	return append(out, '"')
}
