// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// store hands an evaluation the documents below data. It has none itself: they come with the transaction, which is
// one evaluation's own, so evaluations share nothing and take no locks.
type store struct {
	storage.WritesNotSupported
	storage.PolicyNotSupported
	storage.TriggersNotSupported
}

// transaction is the data of one evaluation.
type transaction struct{ documents map[string]ast.Value }

// ID implements storage.Transaction. Nothing compares it, since no transaction outlives its evaluation.
func (*transaction) ID() uint64 { return 0 }

var errNotFound = &storage.Error{Code: storage.NotFoundErr}

// Read implements storage.Store.
func (store) Read(_ context.Context, txn storage.Transaction, path storage.Path) (any, error) {
	if len(path) == 0 { // all of data has the policy in it, which the compiler calls recursive
		return nil, errNotFound
	}
	value, ok := txn.(*transaction).documents[path[0]]
	for _, segment := range path[1:] {
		if !ok {
			break
		}
		value, ok = step(value, segment)
	}
	if !ok {
		return nil, errNotFound
	}
	return value, nil
}

// step goes one segment deeper.
func step(value ast.Value, segment string) (ast.Value, bool) {
	var term *ast.Term
	switch value := value.(type) {
	case ast.Object:
		term = value.Get(ast.StringTerm(segment))
	case *ast.Array:
		i, err := strconv.Atoi(segment)
		if err != nil || i < 0 || i >= value.Len() {
			return nil, false
		}
		term = value.Elem(i)
	}
	if term == nil {
		return nil, false
	}
	return term.Value, true
}

// NewTransaction implements storage.Store; evaluations bring their own.
func (store) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return &transaction{}, nil
}

// Commit implements storage.Store.
func (store) Commit(context.Context, storage.Transaction) error { return nil }

// Abort implements storage.Store.
func (store) Abort(context.Context, storage.Transaction) {}

// Truncate implements storage.Store.
func (store) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return &storage.Error{Code: storage.WritesNotSupportedErr}
}
