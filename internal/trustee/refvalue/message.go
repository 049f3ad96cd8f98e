// SPDX-License-Identifier: Apache-2.0

package refvalue

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/nacre-project/nacre/policy"
)

// Limits of a message.
const (
	MaxMessage = 2 << 20 // bytes
	MaxValues  = 100_000 // values in one message
	MaxName    = 256     // bytes of a name
)

// version is the one version of the message there is; an absent one means the same.
const version = "0.1.0"

// ErrMessage is wrapped by what is wrong with a message, for the one who sent it.
var ErrMessage = errors.New("reference value message")

// Message is a parsed registration: names and their new values, as JSON.
type Message struct{ values map[string]json.RawMessage }

// Names returns the names in the message, sorted.
func (m *Message) Names() []string { return slices.Sorted(maps.Keys(m.values)) }

// ParseMessage parses the reference value provider's message (spec/trustee.md §4.2):
// {"version":"0.1.0","type":"sample","payload":"<base64 of a JSON object, name to value>"}.
func ParseMessage(text []byte) (*Message, error) {
	m, err := parseMessage(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return m, nil
}

func parseMessage(text []byte) (*Message, error) {
	if len(text) > MaxMessage {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(text), MaxMessage)
	}
	members, err := object(text)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{"version": version}
	for name, raw := range members {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("member %q is not a string", name)
		}
		fields[name] = s
	}
	if fields["version"] != version {
		return nil, fmt.Errorf("version %q, understood is %q", fields["version"], version)
	}
	switch fields["type"] {
	case "sample":
	case "swid", "corim":
		return nil, fmt.Errorf("type %q is not supported yet; register the values themselves with type \"sample\"",
			fields["type"])
	default:
		return nil, fmt.Errorf("type %q is not known, understood is \"sample\"", fields["type"])
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(fields["payload"])
	if err != nil {
		return nil, fmt.Errorf("the payload is not base64 with padding: %w", err)
	}
	values, err := object(payload)
	if err != nil {
		return nil, fmt.Errorf("the payload: %w", err)
	}
	if len(values) == 0 || len(values) > MaxValues {
		return nil, fmt.Errorf("%d values, a message has 1 to %d", len(values), MaxValues)
	}
	for name, raw := range values {
		if err := CheckName(name); err != nil {
			return nil, err
		}
		if _, err := document(raw); err != nil {
			return nil, fmt.Errorf("value %q: %w", name, err)
		}
	}
	return &Message{values: values}, nil
}

// CheckName refuses names outside of what every store of reference values can keep: letters, digits and "-_./".
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: a name of %d bytes, want 1 to %d", ErrMessage, len(name), MaxName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '/':
		default:
			return fmt.Errorf("%w: the name %q has a character other than letters, digits and \"-_./\"", ErrMessage,
				name)
		}
	}
	return nil
}

// object parses exactly one JSON object without duplicate names.
func object(text []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	} else if t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		name, _ := t.(string)
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("member %q appears twice", name)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		members[name] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the JSON object")
	}
	return members, nil
}

// document parses a value into the form that policies compute with, so that they need not do it at every query.
func document(raw json.RawMessage) (policy.Document, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return policy.Document{}, err
	}
	return policy.NewDocument(value)
}
