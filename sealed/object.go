// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/nacre-project/nacre/strictjson"
)

// only says whether an object has no members but those named.
func only(o strictjson.Object, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("member %q is not known", clip(name))
		}
	}
	return nil
}

// settings returns a member that must be there and be an object, without white space.
func settings(o strictjson.Object, name string) (json.RawMessage, error) {
	if _, err := o.Object(name); err != nil {
		return nil, fmt.Errorf("%w; it may be {}", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, o[name].Raw()); err != nil {
		return nil, fmt.Errorf("member %q: %w", name, err)
	}
	return compact.Bytes(), nil
}
