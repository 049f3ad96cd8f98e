// SPDX-License-Identifier: Apache-2.0

package policy

import "github.com/open-policy-agent/opa/v1/ast"

// AllowedBuiltins are the names of the builtins that policies may call.
func AllowedBuiltins() []string {
	var names []string
	for _, builtin := range allowed(ast.RegoV1, Options{}).Builtins {
		names = append(names, builtin.Name)
	}
	return names
}
