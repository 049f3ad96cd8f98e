// SPDX-License-Identifier: Apache-2.0

package appraisal

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/nacre-project/nacre/initdata"
)

const (
	// policyDataMarker is the text at which a generated agent policy's data begins: JSON from the brace to the end of
	// the file.
	policyDataMarker = "policy_data := {"
	// agentPolicyClaims is the name of that data among the claims.
	agentPolicyClaims = "agent_policy_claims"
	// maxDepth bounds how deep a file may nest to be shown as an object.
	maxDepth = 64
	// maxConfig bounds how long a configuration file may be for that, in bytes.
	maxConfig = 64 << 10
)

// InitData is an init-data text that was read, in the forms that are needed of it. Many guests have the same one, so it
// is worth keeping. It does not change.
type InitData struct {
	Digest  []byte          // by the algorithm that the text names
	Claims  map[string]any  // its files, as InitDataClaims shows them
	value   ast.Value       // the same as policies see it
	encoded json.RawMessage // the same as tokens have it
}

// ReadInitData reads an init-data text of which verified evidence has the digest. It takes the files apart, which costs
// more than a digest, and so is not to be done for everybody who sends a text.
func ReadInitData(text, digest []byte) (*InitData, error) {
	parsed, err := initdata.Parse(text)
	if err != nil {
		return nil, err
	}
	return newInitData(digest, InitDataClaims(parsed))
}

func newInitData(digest []byte, claims map[string]any) (*InitData, error) {
	value, err := ast.InterfaceToValue(claims)
	if err != nil {
		return nil, fmt.Errorf("prepare the init-data for policies: %w", err)
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("prepare the init-data for tokens: %w", err)
	}
	return &InitData{Digest: digest, Claims: claims, value: value, encoded: encoded}, nil
}

// InitDataClaims shows init-data to policies (spec/trustee.md §1.6): its files by name, configuration files as
// objects, and of an agent policy the data, under agent_policy_claims, when it can be told apart. What cannot be
// parsed stays text.
func InitDataClaims(d *initdata.Data) map[string]any {
	claims := make(map[string]any, len(d.Files))
	for name, text := range d.Files {
		claims[name] = text
	}
	for _, name := range []string{initdata.AgentConfig, initdata.DataConfig} {
		if object, ok := parseTOML(d.Files[name]); ok {
			claims[name] = object
		}
	}
	if data, ok := policyData(d.Files[initdata.AgentPolicy]); ok {
		delete(claims, initdata.AgentPolicy)
		claims[agentPolicyClaims] = data
	}
	return claims
}

func parseTOML(text string) (any, bool) {
	if text == "" || len(text) > maxConfig || !shallow([]byte(text)) {
		return nil, false
	}
	var table map[string]any
	if err := toml.Unmarshal([]byte(text), &table); err != nil {
		return nil, false
	}
	return plain(table, maxDepth)
}

// shallow says of a TOML document, before anything is built of it, that no key has more than maxDepth parts and that
// no value nests deeper. A table for each of many thousand parts costs far more than the text is long.
func shallow(text []byte) bool {
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		if !shallowNode(p.Expression(), maxDepth) {
			return false
		}
	}
	return p.Error() == nil
}

func shallowNode(n *unstable.Node, depth int) bool {
	if depth == 0 {
		return false
	}
	switch n.Kind {
	case unstable.KeyValue, unstable.Table, unstable.ArrayTable:
		for key := n.Key(); key.Next(); depth-- {
			if depth == 0 {
				return false
			}
		}
		return n.Kind != unstable.KeyValue || shallowNode(n.Value(), depth)
	case unstable.Array, unstable.InlineTable:
		for items := n.Children(); items.Next(); {
			if !shallowNode(items.Node(), depth-1) {
				return false
			}
		}
	}
	return true
}

// plain turns what a TOML document can hold into what a JSON one can: times, and numbers that JSON lacks, become text.
func plain(value any, depth int) (any, bool) {
	if depth == 0 {
		return nil, false
	}
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			var ok bool
			if out[name], ok = plain(item, depth-1); !ok {
				return nil, false
			}
		}
		return out, true
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var ok bool
			if out[i], ok = plain(item, depth-1); !ok {
				return nil, false
			}
		}
		return out, true
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return "not a number", true
		}
		return v, true
	case string, bool, int64:
		return v, true
	case interface{ MarshalText() ([]byte, error) }:
		text, err := v.MarshalText()
		return string(text), err == nil
	}
	return nil, false
}

func policyData(text string) (any, bool) {
	i := strings.Index(text, policyDataMarker)
	if i < 0 {
		return nil, false
	}
	brace := i + len(policyDataMarker) - 1
	if !shallowJSON(text[brace:]) {
		return nil, false
	}
	dec := json.NewDecoder(strings.NewReader(text[brace:]))
	dec.UseNumber()
	var data map[string]any
	if err := dec.Decode(&data); err != nil {
		return nil, false
	}
	if strings.TrimSpace(text[brace+int(dec.InputOffset()):]) != "" {
		return nil, false
	}
	return data, true
}

// shallowJSON says of a JSON text that it nests no deeper than maxDepth.
func shallowJSON(text string) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return false
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return true
}
