// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// object is a JSON object whose member names are exact and unique. encoding/json into a struct matches names in any
// case and lets the last of several win, so that two parsers may see different messages in the same bytes.
type object map[string]json.RawMessage

// parseObject reads text as one JSON object of at most limit bytes and nothing after it.
func parseObject(text []byte, limit int) (object, error) {
	if len(text) > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(text), limit)
	}
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, err := dec.Token(); err != nil {
		return nil, syntax(err)
	} else if start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := object{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, syntax(err)
		}
		name, _ := token.(string) // the decoder accepts nothing else in this place
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("member %q appears twice", clip(name))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, syntax(err)
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, syntax(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the JSON object")
	}
	return members, nil
}

// syntax keeps encoding/json's words, and says in ours when the text just ends.
func syntax(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON text ends too early")
	}
	return err
}

// text is the string member called name, which must be present.
func (o object) text(name string) (string, error) {
	value, present := o[name]
	if !present {
		return "", fmt.Errorf("no member %q", name)
	}
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", fmt.Errorf("member %q is not a string", name)
	}
	return *s, nil
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
