// SPDX-License-Identifier: Apache-2.0

// Package policy evaluates Rego, for all of Nacre's policies: what a guest's agent may be asked to do, how evidence
// is appraised, what is released to whom.
//
// A policy is compiled once and evaluated often, by many at a time. It is a pure function of what an evaluation is
// given: it reaches no network, no file but the time zones, no environment, no random numbers, and no clock unless it is
// handed one.
// The texts come from owners, or from a host that claims to be one, so sizes, time and result are bounded; the
// memory that an evaluation takes is not. The package knows Rego and none of the documents that policies speak of.
// What a missing answer means is the caller's to decide, and deny is the only safe reading.
package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// MaxModuleSize is the longest policy text, in bytes.
const MaxModuleSize = 2 << 20

// DefaultTimeout ends an evaluation that its caller does not end earlier.
const DefaultTimeout = 2 * time.Second

// Builtin is a function that policies may call, with one string. It answers from what its caller put into the
// context of the evaluation, and so from one snapshot throughout. A value that is there already as a [Document] costs
// nothing to hand over. No value is null to the policy, in which nothing is contained.
type Builtin struct {
	Name string
	Fn   func(ctx context.Context, id string) (any, bool)
}

// Options says what a policy is compiled for.
type Options struct {
	// Queries are the rules that will be asked for, such as data.policy.allow. Others cannot be.
	Queries []string

	// Builtins are functions beyond Rego's own.
	Builtins []Builtin

	// Timeout ends each evaluation; 0 is DefaultTimeout.
	Timeout time.Duration

	// Clock, when set, gives the policy time.now_ns, which is undefined otherwise. A guest must not set it: its
	// clock is the host's.
	Clock func() time.Time

	// SkipTypeCheck accepts texts that contradict themselves, such as a member that a constant does not have, which
	// is then undefined. Policies generated for other engines count on it; a slip in one's own goes unnoticed.
	SkipTypeCheck bool
}

// Policy is a compiled policy. It is safe for concurrent use.
type Policy struct {
	digest   string
	compiler *ast.Compiler
	queries  map[string]prepared
	builtins map[string]*topdown.Builtin
	timeout  time.Duration
	clock    func() time.Time
}

// ruleName is what a query looks like.
var ruleName = regexp.MustCompile(`^data(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

// prepared is a query that has been through the compiler.
type prepared struct {
	body     ast.Body
	compiler ast.QueryCompiler
}

// result is the variable that a query binds to the rule's value.
var result = ast.Var("result")

// Compile parses a policy, as Rego v1 or, failing that, as v0, and prepares its queries. Errors name line and column.
// A rule that a query names need not exist.
func Compile(ctx context.Context, module string, options Options) (*Policy, error) {
	if len(module) > MaxModuleSize {
		return nil, fmt.Errorf("compiling the policy: %d bytes, at most %d are allowed", len(module), MaxModuleSize)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("compiling the policy: %w", err)
	}
	sum := sha256.Sum256([]byte(module))
	p := &Policy{
		digest:   hex.EncodeToString(sum[:]),
		queries:  make(map[string]prepared, len(options.Queries)),
		builtins: make(map[string]*topdown.Builtin, len(options.Builtins)),
		timeout:  options.Timeout,
		clock:    options.Clock,
	}
	if p.timeout <= 0 {
		p.timeout = DefaultTimeout
	}
	for _, builtin := range options.Builtins {
		p.builtins[builtin.Name] = &topdown.Builtin{Decl: declare(builtin), Func: call(builtin)}
	}
	var err error
	if p.compiler, err = compile(module, options); err != nil {
		return nil, fmt.Errorf("compiling the policy: %w", err)
	}
	for _, query := range options.Queries {
		if p.queries[query], err = p.prepare(query); err != nil {
			return nil, fmt.Errorf("preparing the query %s: %w", query, err)
		}
	}
	return p, nil
}

// compile tries both versions of the language. Which one a text is meant in shows in whose errors are told.
func compile(module string, options Options) (*ast.Compiler, error) {
	compiler, errV1 := compileAs(ast.RegoV1, module, options)
	if errV1 == nil {
		return compiler, nil
	}
	compiler, errV0 := compileAs(ast.RegoV0, module, options)
	if errV0 == nil {
		return compiler, nil
	}
	if strings.Contains(module, " if ") || strings.Contains(module, "import rego.v1") {
		return nil, located(errV1)
	}
	return nil, located(errV0)
}

// filename is what the compiler calls the text.
const filename = "policy.rego"

func compileAs(version ast.RegoVersion, module string, options Options) (_ *ast.Compiler, err error) {
	defer contain(&err)
	capabilities := allowed(version, options)
	parsed, err := ast.ParseModuleWithOpts(
		filename,
		module,
		ast.ParserOptions{RegoVersion: version, Capabilities: capabilities},
	)
	if err != nil {
		return nil, err
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities).WithDefaultRegoVersion(version)
	if options.SkipTypeCheck {
		compiler = compiler.WithSkipStages(ast.StageCheckTypes)
	}
	if compiler.Compile(map[string]*ast.Module{filename: parsed}); compiler.Failed() {
		return nil, compiler.Errors
	}
	return compiler, nil
}

func (p *Policy) prepare(query string) (prepared, error) {
	if !ruleName.MatchString(query) {
		return prepared{}, errors.New("want the name of a rule, such as data.policy.allow")
	}
	ref, err := ast.ParseRef(query)
	if err != nil {
		return prepared{}, located(err)
	}
	compiler := p.compiler.QueryCompiler()
	body, err := compiler.Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(result), ast.NewTerm(ref))))
	if err != nil {
		return prepared{}, located(err)
	}
	return prepared{body, compiler}, nil
}

// Digest is the hex SHA-256 of the policy's text.
func (p *Policy) Digest() string { return p.digest }

// Input is what one evaluation is about.
type Input struct {
	Input any            // the document input, undefined when nil; a [Document] is taken as it is
	Data  map[string]any // documents below data, by name, for this evaluation only; no name may be the policy's package
}

// Eval asks for the value of a rule that the policy was compiled for. The value is undefined, without error, when no
// rule of that name applies.
func (p *Policy) Eval(ctx context.Context, query string, input Input) (Value, error) {
	compiled, known := p.queries[query]
	if !known {
		return Value{}, fmt.Errorf("evaluating the policy: it was not compiled for %s", query)
	}
	value, err := p.eval(ctx, compiled, input)
	if err != nil {
		return Value{}, fmt.Errorf("evaluating %s: %w", query, located(err))
	}
	return value, nil
}

func (p *Policy) eval(ctx context.Context, compiled prepared, input Input) (_ Value, err error) {
	defer contain(&err)
	data, err := p.snapshot(input.Data)
	if err != nil {
		return Value{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	query := topdown.NewQuery(compiled.body).
		WithQueryCompiler(compiled.compiler).
		WithCompiler(p.compiler).
		WithStore(store{}).
		WithTransaction(data).
		WithBuiltins(p.builtins).
		WithCancel(untilDone{ctx})
	if input.Input != nil {
		document, err := NewDocument(input.Input)
		if err != nil {
			return Value{}, fmt.Errorf("input: %w", err)
		}
		query = query.WithInput(ast.NewTerm(document.value))
	}
	if p.clock != nil {
		query = query.WithTime(p.clock())
	}
	var value Value
	err = query.Iter(ctx, func(bindings topdown.QueryResult) error {
		if term := bindings[result]; term != nil {
			value.value = term.Value
		}
		return nil
	})
	if ctx.Err() != nil { // a cancelled evaluation has no value, whatever it returned
		return Value{}, fmt.Errorf("it was stopped before it had an answer: %w", context.Cause(ctx))
	}
	if err != nil {
		return Value{}, err
	}
	return value, nil
}

// contain makes an error of a crash. The engine is not ours and the text may not be the owner's, so a crash is that
// text's only.
func contain(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the Rego engine failed: %v", r)
	}
}

// snapshot makes the data of an evaluation.
func (p *Policy) snapshot(data map[string]any) (*transaction, error) {
	txn := &transaction{documents: make(map[string]ast.Value, len(data))}
	for name, value := range data {
		if p.compiler.RuleTree.Child(ast.DefaultRootDocument.Value).Child(ast.String(name)) != nil {
			return nil, fmt.Errorf("data.%s: the policy's package has this name", name)
		}
		document, err := NewDocument(value)
		if err != nil {
			return nil, fmt.Errorf("data.%s: %w", name, err)
		}
		txn.documents[name] = document.value
	}
	return txn, nil
}

// untilDone stops an evaluation when its context ends, without a goroutine that waits for it.
type untilDone struct{ ctx context.Context }

func (untilDone) Cancel()           {}
func (u untilDone) Cancelled() bool { return u.ctx.Err() != nil }

// declare is the signature of a builtin: a string to anything.
func declare(builtin Builtin) *ast.Builtin {
	return &ast.Builtin{
		Name: builtin.Name,
		Decl: types.NewFunction(types.Args(types.Named("id", types.S)), types.Named("value", types.A)),
	}
}

func call(builtin Builtin) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		id, ok := operands[0].Value.(ast.String)
		if !ok {
			return fmt.Errorf("%s: the argument is not a string", builtin.Name)
		}
		value, found := builtin.Fn(bctx.Context, string(id))
		if !found {
			return iter(ast.NullTerm())
		}
		document, err := NewDocument(value)
		if err != nil {
			return fmt.Errorf("%s(%s): %w", builtin.Name, id, err)
		}
		return iter(ast.NewTerm(document.value))
	}
}

// located rewrites the compiler's errors, each with line and column, and not more than a person reads.
func located(err error) error {
	const most = 5
	var list ast.Errors
	var single *ast.Error
	var evaluation *topdown.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &single):
		list = ast.Errors{single}
	case errors.As(err, &evaluation) && evaluation.Location != nil:
		return fmt.Errorf(
			"line %d, column %d: %s",
			evaluation.Location.Row,
			evaluation.Location.Col,
			evaluation.Message,
		)
	default:
		return err
	}
	var lines []string
	for i, e := range list {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		if e.Location == nil || e.Location.Row == 0 {
			lines = append(lines, e.Message)
			continue
		}
		lines = append(lines, fmt.Sprintf("line %d, column %d: %s", e.Location.Row, e.Location.Col, e.Message))
	}
	return errors.New(strings.Join(lines, "; "))
}

var _ storage.Transaction = (*transaction)(nil)
