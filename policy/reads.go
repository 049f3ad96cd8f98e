// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Reads returns the places in the document input that the policy looks at, each a path of member names, such that its
// answers depend on nothing else there; false when it looks at the whole, or computes the name of what it looks at first.
//
// Rego has no way to the input but by its name, and whatever a text makes of that name (aliases, imports) is a reference
// that begins with it once the text is compiled. So every such reference counts, whether or not a query can reach it,
// as far as its names are constants.
func (p *Policy) Reads() (paths [][]string, ok bool) {
	whole := false
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(node any) bool {
		switch node := node.(type) {
		case ast.Ref:
			if node[0].Equal(ast.InputRootDocument) {
				path := constants(node[1:])
				whole = whole || len(path) == 0
				paths = append(paths, path)
			} else {
				visitor.Walk(node[0])
			}
			for _, operand := range node[1:] {
				visitor.Walk(operand)
			}
			return true
		case ast.Var:
			whole = whole || node.Equal(ast.InputRootDocument.Value)
		}
		return false
	})
	for _, module := range p.compiler.Modules {
		visitor.Walk(module)
	}
	if whole {
		return nil, false
	}
	slices.SortFunc(paths, slices.Compare)
	return slices.CompactFunc(paths, slices.Equal), true
}

// constants are the names that operands begin with.
func constants(operands []*ast.Term) (names []string) {
	for _, operand := range operands {
		name, ok := operand.Value.(ast.String)
		if !ok {
			break
		}
		names = append(names, string(name))
	}
	return names
}
