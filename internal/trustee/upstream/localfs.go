// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/refvalue"
	"github.com/nacre-project/nacre/internal/trustee/resource"
)

// Namespaces of a LocalFs store, which are directories (spec/trustee.md §2.7).
const (
	resources         = "repository"
	releasePolicies   = "kbs"
	releasePolicy     = "resource-policy.rego"
	appraisalPolicies = "attestation_service_policy"
	appraisalPolicy   = "default_cpu.rego"
	values            = "reference_value"
)

// slash is how LocalFs writes a "/" of a key in a file name: four characters.
const slash = `\x2F`

// Limits of a store that is read, in files and bytes.
const (
	maxFiles  = 1_000_000
	maxBytes  = 1 << 30
	maxPolicy = 1 << 20
)

// Contents are what a store holds, as far as there is a place for it here.
type Contents struct {
	Resources       map[string][]byte // by repository/type/tag
	Values          []refvalue.Value
	ReleasePolicy   string // "": none
	AppraisalPolicy string // "": none
	Warnings        []string
}

// ReadLocalFs reads the store in a directory. Reference values whose time is over are left out.
func ReadLocalFs(dir string, now time.Time) (*Contents, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	defer func() { _ = root.Close() }() // nothing was written
	r := &reader{fsys: root.FS(), now: now, contents: Contents{Resources: map[string][]byte{}}}
	found := 0
	for _, namespace := range []struct {
		name string
		take func(key string, content []byte) error
	}{
		{resources, r.resource}, {releasePolicies, r.releasePolicy}, {appraisalPolicies, r.appraisalPolicy},
		{values, r.value},
	} {
		info, err := fs.Stat(r.fsys, namespace.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("%s in the store is not a directory", namespace.name)
		}
		found++
		if err := r.namespace(namespace.name, namespace.take); err != nil {
			return nil, err
		}
	}
	if found == 0 {
		return nil, fmt.Errorf("%s has none of the directories of a LocalFs store (%s, %s, %s, %s); name the one that they are in",
			dir, resources, releasePolicies, appraisalPolicies, values)
	}
	return &r.contents, nil
}

type reader struct {
	fsys     fs.FS
	now      time.Time
	files    int
	bytes    int64
	contents Contents
}

func (r *reader) warn(format string, args ...any) {
	r.contents.Warnings = append(r.contents.Warnings, fmt.Sprintf(format, args...))
}

// namespace reads the files of a namespace. Keys are file names in which "\x2F" stands for "/"; older stores have
// directories instead.
func (r *reader) namespace(name string, take func(key string, content []byte) error) error {
	return fs.WalkDir(r.fsys, name, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%s in the store is not a regular file", path)
		}
		if r.files++; r.files > maxFiles {
			return fmt.Errorf("the store has more than %d files", maxFiles)
		}
		content, err := r.read(path)
		if err != nil {
			return fmt.Errorf("read %s in the store: %w", path, err)
		}
		key := strings.ReplaceAll(strings.TrimPrefix(path, name+"/"), slash, "/")
		if err := take(key, content); err != nil {
			return fmt.Errorf("%s in the store: %w", path, err)
		}
		return nil
	})
}

func (r *reader) read(path string) ([]byte, error) {
	f, err := r.fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	content, err := io.ReadAll(io.LimitReader(f, resource.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(content) > resource.MaxSize {
		return nil, fmt.Errorf("it is larger than %d bytes", resource.MaxSize)
	}
	if r.bytes += int64(len(content)); r.bytes > maxBytes {
		return nil, fmt.Errorf("the store has more than %d bytes", int64(maxBytes))
	}
	return content, nil
}

func (r *reader) resource(key string, content []byte) error {
	canonical, err := resource.Key(strings.Split(key, "/"))
	if err != nil {
		return err
	}
	if _, twice := r.contents.Resources[canonical]; twice {
		return fmt.Errorf("the resource %s is there twice", canonical)
	}
	r.contents.Resources[canonical] = content
	return nil
}

func (r *reader) releasePolicy(key string, content []byte) error {
	if key != releasePolicy {
		r.warn("%s/%s is left out: there is no place for it here", releasePolicies, key)
		return nil
	}
	return policyText(content, &r.contents.ReleasePolicy)
}

func (r *reader) appraisalPolicy(key string, content []byte) error {
	if key != appraisalPolicy {
		r.warn("%s/%s is left out: no evidence is appraised by it here", appraisalPolicies, key)
		return nil
	}
	return policyText(content, &r.contents.AppraisalPolicy)
}

func policyText(content []byte, into *string) error {
	if len(content) == 0 || len(content) > maxPolicy {
		return fmt.Errorf("a policy of %d bytes, want 1 to %d", len(content), maxPolicy)
	}
	*into = string(content)
	return nil
}

// value reads one record of upstream's: {"version","name","expiration","value"}.
func (r *reader) value(key string, content []byte) error {
	var v refvalue.Value
	if err := json.Unmarshal(content, &v); err != nil {
		return fmt.Errorf("parse the reference value: %w", err)
	}
	switch {
	case v.Name != key:
		return fmt.Errorf("the reference value says that it is %q", v.Name)
	case v.Expires.IsZero() || len(v.Value) == 0:
		return errors.New("the reference value has no expiration or no value")
	case !r.now.Before(v.Expires):
		r.warn("%s/%s is left out: its time was over at %s", values, key, v.Expires.UTC().Format(time.RFC3339))
		return nil
	}
	r.contents.Values = append(r.contents.Values, v)
	return nil
}
