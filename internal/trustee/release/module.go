// SPDX-License-Identifier: Apache-2.0

package release

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// module is the syntax tree of a policy, looked at when it is set.
type module struct{ *ast.Module }

// parse reads a policy as the engine does: as Rego v1, and failing that as v0.
func parse(text string) (module, error) {
	m, err := ast.ParseModuleWithOpts("policy.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		if m, err = ast.ParseModuleWithOpts("policy.rego", text,
			ast.ParserOptions{RegoVersion: ast.RegoV0}); err != nil {
			return module{}, err
		}
	}
	return module{m}, nil
}

// defines says whether the module is of the package and has the rule.
func (m module) defines(pkg, rule string) bool {
	if !m.Package.Path.Equal(ast.Ref{ast.DefaultRootDocument, ast.StringTerm(pkg)}) {
		return false
	}
	for _, r := range m.Rules {
		if r.Head.Name.Equal(ast.Var(rule)) {
			return true
		}
	}
	return false
}

// neverTrue says whether every rule of the name has the value false, whatever its body says.
func (m module) neverTrue(rule string) bool {
	for _, r := range m.Rules {
		for r := r; r != nil; r = r.Else {
			if r.Head.Name.Equal(ast.Var(rule)) && (r.Head.Value == nil ||
				!r.Head.Value.Equal(ast.BooleanTerm(false))) {
				return false
			}
		}
	}
	return true
}

// mentions says whether a string of the text, as an operand or as part of a reference, is the name.
func (m module) mentions(name string) bool {
	found := false
	ast.WalkTerms(m.Module, func(t *ast.Term) bool {
		if s, ok := t.Value.(ast.String); ok && string(s) == name {
			found = true
		}
		return found
	})
	return found
}
