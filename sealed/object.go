// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nacre-project/nacre/kbs"
)

// object is a JSON object whose member names are exact and unique, at any depth. encoding/json matches a struct's names in
// any case and lets the last of several win, so that two readers may see different secrets in the same bytes.
type object map[string]json.RawMessage

func parseObject(text []byte, limit int) (object, error) {
	if len(text) > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), limit)
	}
	canonical, err := kbs.CanonicalJSON(text) // refuses members that appear twice
	if err != nil {
		return nil, err
	}
	if canonical[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	var members object
	if err := json.Unmarshal(canonical, &members); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	return members, nil
}

// text returns a string member, which must be there.
func (o object) text(name string) (string, error) {
	raw, ok := o[name]
	if !ok {
		return "", fmt.Errorf("member %q is missing", name)
	}
	if raw[0] != '"' {
		return "", fmt.Errorf("member %q is not a string", name)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("member %q: %w", name, err)
	}
	return s, nil
}

// texts reads string members, all of which must be there.
func (o object) texts(into map[string]*string) error {
	for _, name := range slices.Sorted(maps.Keys(into)) {
		var err error
		if *into[name], err = o.text(name); err != nil {
			return err
		}
	}
	return nil
}

// object returns a member that is an object, and must be there, as canonical JSON.
func (o object) object(name string) (json.RawMessage, error) {
	raw, ok := o[name]
	if !ok {
		return nil, fmt.Errorf("member %q is missing; it may be {}", name)
	}
	if raw[0] != '{' {
		return nil, fmt.Errorf("member %q is not an object", name)
	}
	return raw, nil
}

// only says whether there are no members but those named.
func (o object) only(names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("member %q is not known", clip(name))
		}
	}
	return nil
}
