// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// imageKeys are the keys that an owner encrypts images with: those that she has in files, and those that were made here. The
// trustee gets the new ones, and gives none back: what was made in an earlier call is out of reach.
type imageKeys struct {
	admin   *kbs.Admin // nil: the trustee is not spoken to
	replace bool       // put a new key over one that is there

	mu   sync.Mutex
	held map[string]heldKey // by URI
}

// heldKey is a key, and whether the trustee has it.
type heldKey struct {
	secret.Bytes
	put bool
}

// imageKeyPath checks that a URI names a resource that can hold a key, and returns its path.
func imageKeyPath(uri string) (string, error) {
	u, err := kbs.ParseResourceURI(uri)
	if err != nil {
		return "", err
	}
	if err := kbs.ValidPath(u.Path); err != nil || u.Plugin != kbs.DefaultPlugin || len(u.Query) > 0 || u.String() != uri {
		return "", fmt.Errorf("%q names no key: want kbs:///repository/type/tag", uri)
	}
	return strings.Join(u.Path, "/"), nil
}

// readImageKey reads a key from a file.
func readImageKey(path string) (secret.Bytes, error) {
	file, err := os.Open(path)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the key: %w", err)
	}
	defer file.Close()
	key, err := io.ReadAll(io.LimitReader(file, imagecrypt.KeySize+1))
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the key: %w", err)
	}
	if len(key) != imagecrypt.KeySize {
		return secret.Bytes{}, fmt.Errorf("%s does not hold a key: want %d bytes, as head -c %d /dev/urandom makes them",
			path, imagecrypt.KeySize, imagecrypt.KeySize)
	}
	return secret.New(key), nil
}

// stored says whether the trustee has something at path.
func (k *imageKeys) stored(ctx context.Context, path string) (bool, error) {
	list, err := k.admin.Resources(ctx, path)
	if err != nil {
		return false, err
	}
	for _, r := range list {
		if r.Path == path {
			return true, nil
		}
	}
	return false, nil
}

// errKeyStored says that a key's place is taken.
var errKeyStored = errors.New("the trustee has a key there already, and gives none back: choose another name, or name the file with that key, " +
	"or put a new key over it with --replace-key, after which images that the old one encrypted open no more")

// choose returns the key to encrypt with under a URI: the one of the file if there is one, or one that is held, or a new one. Nothing is put into
// the trustee yet; put does that.
func (k *imageKeys) choose(ctx context.Context, uri, file string) (key secret.Bytes, made bool, err error) {
	path, err := imageKeyPath(uri)
	if err != nil {
		return secret.Bytes{}, false, err
	}
	if file != "" {
		key, err = readImageKey(file)
		return key, false, err
	}
	if key, ok := k.held[uri]; ok {
		return key.Bytes, false, nil
	}
	if k.admin == nil {
		return secret.Bytes{}, false, fmt.Errorf("there is no key for %s: name its file, since a new one could not be put into the trustee", uri)
	}
	if !k.replace {
		taken, err := k.stored(ctx, path)
		if err != nil {
			return secret.Bytes{}, false, err
		}
		if taken {
			return secret.Bytes{}, false, fmt.Errorf("%s: %w", uri, errKeyStored)
		}
	}
	b := make([]byte, imagecrypt.KeySize)
	_, _ = rand.Read(b) // never fails
	return secret.New(b), true, nil
}

// put has the trustee hold the key, and says whether it put it there. A key from a file is not put over what is there: it cannot be seen whether that
// is the same.
func (k *imageKeys) put(ctx context.Context, uri string, key secret.Bytes, made bool) (bool, error) {
	path, err := imageKeyPath(uri)
	if err != nil || k.admin == nil {
		return false, err
	}
	if !k.replace {
		taken, err := k.stored(ctx, path)
		if err != nil {
			return false, err
		}
		if taken && made {
			return false, fmt.Errorf("%s: %w", uri, errKeyStored)
		}
		if taken {
			return false, nil
		}
	}
	return true, k.admin.PutResource(ctx, path, key.Reveal())
}

// obtain returns the key to encrypt with under a URI, once the trustee holds it. Several ask at the same time: a tool encrypts layers side by side.
func (k *imageKeys) obtain(ctx context.Context, uri, file string) (secret.Bytes, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, made, err := k.choose(ctx, uri, file)
	if err != nil || k.held[uri].put && k.held[uri].Equal(key) {
		return key, err
	}
	if _, err := k.put(ctx, uri, key, made); err != nil {
		return secret.Bytes{}, err
	}
	k.held[uri] = heldKey{key, true}
	return key, nil
}

// Key is a key that is held here. (imagecrypt.KeySource)
func (k *imageKeys) Key(_ context.Context, kid string) (secret.Bytes, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.held[kid]
	if !ok {
		return secret.Bytes{}, errors.New("this program does not have it: name its file with --key-file")
	}
	return key.Bytes, nil
}
