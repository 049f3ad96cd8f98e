// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Document is a JSON value in the form that evaluations use. Making one costs as much as a small evaluation, so what
// many evaluations need is made once. It does not change, and is safe for concurrent use.
type Document struct{ value ast.Value }

// NewDocument makes a document of a value built of nil, bool, string, numbers (json.Number, int, int64, float64…),
// []any and map[string]any; others go through encoding/json. A Document is returned as it is. The value is copied.
func NewDocument(value any) (Document, error) {
	if document, ok := value.(Document); ok {
		return document, nil
	}
	if value == nil {
		return Document{ast.NullValue}, nil
	}
	converted, err := ast.InterfaceToValue(value)
	if err != nil {
		return Document{}, err
	}
	return Document{converted}, nil
}

// Value is the answer to a query. The zero value is undefined.
type Value struct{ value ast.Value }

// Defined says whether there is a value at all.
func (v Value) Defined() bool { return v.value != nil }

// True says whether the value is the boolean true. An undefined value is not, nor is any other.
func (v Value) True() bool { return v.value != nil && v.value.Compare(ast.Boolean(true)) == 0 }

// Bool is the value's boolean; ok is false for an undefined value and one of another type.
func (v Value) Bool() (value, ok bool) {
	b, ok := v.value.(ast.Boolean)
	return bool(b), ok
}

// JSON is the value as encoding/json would have decoded it with numbers as json.Number. Sets become arrays.
func (v Value) JSON() (any, error) {
	if v.value == nil {
		return nil, ErrUndefined
	}
	out, err := ast.JSON(v.value)
	if err != nil {
		return nil, fmt.Errorf("reading the policy's answer: %w", err)
	}
	return out, nil
}

// ErrUndefined says that a policy gave no answer.
var ErrUndefined = errors.New("the policy gives no answer: the rule is undefined")
