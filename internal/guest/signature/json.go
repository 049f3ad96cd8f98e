// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"encoding/json"

	"github.com/nacre-project/nacre/strictjson"
)

// object parses one JSON object into its members: a policy in which one reader sees the first of two scopes and another the second is
// none.
func object(text []byte) (map[string]json.RawMessage, error) {
	parsed, err := strictjson.ParseObject(text, maxPolicy)
	if err != nil {
		return nil, err
	}
	members := make(map[string]json.RawMessage, len(parsed))
	for name, value := range parsed {
		members[name] = json.RawMessage(value.Raw())
	}
	return members, nil
}
