// SPDX-License-Identifier: Apache-2.0

// Package resource holds what the trustee releases: plugins, each of which answers the requests below its name, and
// the plugin "resource", which keeps secrets in the store.
//
// A plugin says what a request needs (an administrator, or a token and a release decision) from its method and path
// alone, before anything of the body is looked at; it is handed the request only after that was satisfied. It does
// not decide who may have what.
package resource

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// The methods of requests. The package does not import net/http, whose names these are.
const (
	Get    = "GET"
	Post   = "POST"
	Put    = "PUT"
	Delete = "DELETE"
)

// Access is what a request needs before a plugin may handle it. The zero value is that nobody may have it.
type Access int

const (
	Nobody  Access = iota // the plugin has no such operation
	Admin                 // an administrator
	Release               // an attested guest, and a release policy that allows it
)

var (
	// ErrNotFound says that there is no such resource.
	ErrNotFound = errors.New("there is no such resource")
	// ErrPath is wrapped by what is wrong with a resource path.
	ErrPath = errors.New("not a resource path")
	// ErrTooLarge says that a resource is larger than the store takes.
	ErrTooLarge = errors.New("the resource is too large")
)

// MaxSize caps a resource, in bytes: what an envelope can carry.
const MaxSize = kbs.MaxPlaintextSize

// Request is what a plugin is asked for.
type Request struct {
	Method string            // Get, Post, Put or Delete
	Path   []string          // segments after the plugin's name
	Query  map[string]string // one value a name
	Body   []byte
}

// Answer is what a plugin answers.
type Answer struct {
	// Body goes to the guest, sealed to its key.
	Body secret.Bytes
	// Change, when there is one, runs in the transaction that records the request.
	Change func(*store.Tx) error
}

// Plugin answers the requests below a name.
type Plugin interface {
	Access(method string, path []string) Access
	Handle(ctx context.Context, r Request) (Answer, error)
}

// namespace is upstream's name for the values of the plugin "resource".
const namespace store.Namespace = "repository"

// Stored is the plugin "resource": repository/type/tag to bytes, in the store.
type Stored struct{ Store *store.Store }

// Access lets attested guests get, and administrators set and delete.
func (Stored) Access(method string, _ []string) Access {
	switch method {
	case Get:
		return Release
	case "POST", "DELETE":
		return Admin
	}
	return Nobody
}

// Handle reads a resource, or says how to change one.
func (p Stored) Handle(ctx context.Context, r Request) (Answer, error) {
	key, err := Key(r.Path)
	if err != nil {
		return Answer{}, err
	}
	switch r.Method {
	case Get:
		value, err := p.Store.Get(ctx, namespace, key)
		if errors.Is(err, store.ErrNotFound) {
			return Answer{}, ErrNotFound
		}
		return Answer{Body: secret.New(value)}, err
	case Post:
		if len(r.Body) > MaxSize {
			return Answer{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(r.Body), MaxSize)
		}
		return Answer{Change: func(tx *store.Tx) error { return tx.Put(namespace, key, r.Body) }}, nil
	case Delete:
		return Answer{Change: func(tx *store.Tx) error {
			if err := tx.Delete(namespace, key); errors.Is(err, store.ErrNotFound) {
				return ErrNotFound
			} else if err != nil {
				return err
			}
			return nil
		}}, nil
	}
	return Answer{}, fmt.Errorf("the plugin \"resource\" has no operation %s", r.Method)
}

// List describes at most limit resources whose paths begin with prefix and come after the one given, in the order of
// their bytes.
func (p Stored) List(ctx context.Context, prefix, after string, limit int) ([]kbs.ResourceInfo, error) {
	list, err := p.Store.List(ctx, namespace, prefix, after, limit)
	infos := make([]kbs.ResourceInfo, len(list))
	for i, v := range list {
		infos[i] = kbs.ResourceInfo{Path: v.Key, Size: v.Size, Updated: v.Updated}
	}
	return infos, err
}

// Key is the key of a path in the store. Segments hold no "/", so distinct paths have distinct keys.
func Key(path []string) (string, error) {
	if err := kbs.ValidPath(path); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPath, err)
	}
	return strings.Join(path, "/"), nil
}
