// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyPrefix is the version of the key file's form: prefix, 43 characters of unpadded URL-safe base64 (32 random
// bytes), newline.
const keyPrefix = "nacre-store-key-v1:"

const keySize = 32

// maxKeyFile caps what is read of a key file, in bytes.
const maxKeyFile = 256

// loadKey reads the key file, or creates it with a fresh key when it does not exist. It refuses a file that others
// than its owner can read, and, unless beside is set, one that lies at or below the data directory: a copy of that
// directory must not carry its own key.
func loadKey(path, dataDir string, beside bool) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the key file: %w", err)
	}
	if !beside {
		if err := apart(path, dataDir); err != nil {
			return nil, err
		}
	}
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, keySize)
	rand.Read(key)
	if err := writeKey(path, key); err != nil {
		return nil, fmt.Errorf("create the key file %s: %w", path, err)
	}
	return key, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("inspect the key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the key file %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the key file %s has mode %04o: others than its owner can open it; "+
			"run `chmod 600 %[1]s`, and think about who may have read it", path, info.Mode().Perm())
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("the key file %s has %d bytes; a key file has one short line", path, info.Size())
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read the key file %s: %w", path, err)
	}
	return parseKey(string(text), path)
}

func parseKey(text, path string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSuffix(text, "\n"), keyPrefix)
	if !ok {
		return nil, fmt.Errorf("the key file %s does not begin with %q", path, keyPrefix)
	}
	key, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	// The decoder skips line ends; the form has none but the last.
	if err != nil || len(key) != keySize || len(encoded) != base64.RawURLEncoding.EncodedLen(keySize) {
		return nil, fmt.Errorf("the key file %s does not hold %d bytes in unpadded URL-safe base64", path, keySize)
	}
	return key, nil
}

// writeKey puts the key in place whole or not at all, and never over another.
func writeKey(path string, key []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".nacre-key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if _, err := f.WriteString(keyPrefix + base64.RawURLEncoding.EncodeToString(key) + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// apart refuses a key file at or below the data directory. Both are resolved first, and directories are compared by
// identity, so neither a symbolic link nor a second mount of the same directory hides it.
func apart(keyFile, dataDir string) error {
	data, err := os.Stat(dataDir)
	if err != nil {
		return fmt.Errorf("inspect the data directory: %w", err)
	}
	real, err := filepath.EvalSymlinks(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		// Not created yet: its directory decides. A dangling link would be created where it points to, so it is
		// refused.
		if _, lerr := os.Lstat(keyFile); lerr == nil {
			return fmt.Errorf("the key file %s is a symbolic link to nothing; remove it", keyFile)
		}
		real, err = filepath.EvalSymlinks(filepath.Dir(keyFile))
	}
	if err != nil {
		return fmt.Errorf("resolve the path of the key file: %w", err)
	}
	real, err = filepath.Abs(real)
	if err != nil {
		return fmt.Errorf("resolve the path of the key file: %w", err)
	}
	for dir := real; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("inspect the path of the key file: %w", err)
		}
		if os.SameFile(info, data) {
			return fmt.Errorf("the key file %s lies below the data directory %s: whoever copies that directory "+
				"would have the key to it; name another place with --key-file, or accept it with --unsafe-key-beside-data", keyFile, dataDir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// sealer seals values. A random 96-bit nonce is safe for 2^32 values under one key.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, err
}

// place is the associated data of a value: kind of table, namespace and key, each with its length, so that no two
// places have the same.
func place(kind string, ns Namespace, key string) []byte {
	b := make([]byte, 0, len(kind)+len(ns)+len(key)+12)
	for _, part := range []string{kind, string(ns), key} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

func (s sealer) seal(kind string, ns Namespace, key string, value []byte) []byte {
	return s.aead.Seal(make([]byte, 0, len(value)+s.aead.Overhead()), nil, value, place(kind, ns, key))
}

func (s sealer) open(kind string, ns Namespace, key string, sealed []byte) ([]byte, error) {
	value, err := s.aead.Open(nil, nil, sealed, place(kind, ns, key))
	if err != nil {
		return nil, fmt.Errorf("open the sealed value %s/%s: it was not sealed with this key for this place: %w", ns,
			key, err)
	}
	return value, nil
}
