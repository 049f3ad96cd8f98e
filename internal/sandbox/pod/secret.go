// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/sealed"
)

// copiedVolumes is where the guest keeps the files that its host copies to it, by Kata's convention.
const copiedVolumes = "/run/kata-containers/shared/containers/"

// Types of files in stat(2)'s st_mode.
const (
	typeDirectory = 0o040000
	typeRegular   = 0o100000
)

// defaultFileMode is what files of a Secret get that says nothing else.
const defaultFileMode = 0o644

// maxChunk is how much of a file one request copies, in bytes. Kubernetes keeps a whole Secret below that.
const maxChunk = 1 << 20

// secretKey is what keys of a Secret consist of; "..", and what begins so, is the kubelet's.
var secretKey = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

// secrets are the Secrets beside a pod: their values, by name and key.
type secrets map[string]map[string][]byte

func (s secrets) add(secret *corev1.Secret) error {
	if !name.MatchString(secret.Name) && !subdomain.MatchString(secret.Name) {
		return fmt.Errorf("secret %q: its name is not a DNS name", secret.Name)
	}
	if s[secret.Name] != nil {
		return fmt.Errorf("secret %q is there twice", secret.Name)
	}
	values := map[string][]byte{}
	maps.Copy(values, secret.Data)
	for key, value := range secret.StringData { // which wins, as in Kubernetes
		values[key] = []byte(value)
	}
	for key, value := range values {
		if !secretKey.MatchString(key) || key == "." || strings.HasPrefix(key, "..") {
			return fmt.Errorf("secret %q: %q is not a key: want letters, digits, \"-\", \"_\" and \".\"", secret.Name, key)
		}
		if len(value) > maxChunk {
			return fmt.Errorf("secret %q: %s has %d bytes, more than %d", secret.Name, key, len(value), maxChunk)
		}
	}
	s[secret.Name] = values
	return nil
}

var subdomain = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)

// find returns the values of a Secret; optional ones may be missing.
func (s secrets) find(name string, optional *bool) (map[string][]byte, error) {
	values, ok := s[name]
	if !ok && (optional == nil || !*optional) {
		return nil, fmt.Errorf("there is no Secret %q: give it in the same file as the pod, as another document", name)
	}
	return values, nil
}

// value returns one value of a Secret, and whether it is there.
func (s secrets) value(name, key string, optional *bool) ([]byte, bool, error) {
	values, err := s.find(name, optional)
	if err != nil {
		return nil, false, err
	}
	value, ok := values[key]
	if !ok && (optional == nil || !*optional) {
		return nil, false, fmt.Errorf("the Secret %q has no key %q", name, key)
	}
	return value, ok, nil
}

// variable is one of a container's environment; literal values are not expanded.
type variable struct {
	name, value string
	literal     bool
}

// environment lists a container's variables with the values from Secrets in them: first those of whole Secrets, then the
// others, in order.
func (m *Manifest) environment(c *corev1.Container) ([]variable, error) {
	var all []variable
	for _, from := range c.EnvFrom {
		if from.SecretRef == nil {
			return nil, fmt.Errorf("container %q: envFrom takes a secretRef", c.Name)
		}
		values, err := m.secrets.find(from.SecretRef.Name, from.SecretRef.Optional)
		if err != nil {
			return nil, fmt.Errorf("container %q: %w", c.Name, err)
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			all = append(all, variable{from.Prefix + key, string(values[key]), true})
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			all = append(all, variable{e.Name, e.Value, false})
			continue
		}
		ref := e.ValueFrom.SecretKeyRef
		if ref == nil || e.Value != "" {
			return nil, fmt.Errorf("container %q: variable %q takes a value or a secretKeyRef", c.Name, e.Name)
		}
		value, ok, err := m.secrets.value(ref.Name, ref.Key, ref.Optional)
		if err != nil {
			return nil, fmt.Errorf("container %q: variable %q: %w", c.Name, e.Name, err)
		}
		if ok {
			all = append(all, variable{e.Name, string(value), true})
		}
	}
	for _, v := range all {
		if strings.ContainsRune(v.value, 0) {
			return nil, fmt.Errorf("container %q: variable %q has a zero byte in it", c.Name, v.name)
		}
	}
	return all, nil
}

// CopyRequests are the requests that put the pod's Secret volumes into the guest: for each a directory, and its files.
func CopyRequests(m *Manifest) ([]*agent.CopyFileRequest, error) {
	var all []*agent.CopyFileRequest
	for _, v := range m.Spec.Volumes {
		if v.Secret == nil {
			continue
		}
		files, err := m.files(v.Secret)
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		root := copiedVolumes + v.Name
		all = append(all, &agent.CopyFileRequest{Path: root, FileMode: typeDirectory | 0o755, DirMode: 0o755})
		for _, path := range slices.Sorted(maps.Keys(files)) {
			f := files[path]
			all = append(all, &agent.CopyFileRequest{
				Path: root + "/" + path, FileMode: typeRegular | f.mode, DirMode: 0o755, FileSize: int64(len(f.content)), Data: f.content,
			})
		}
	}
	return all, nil
}

type file struct {
	content []byte
	mode    uint32
}

// files are those of a Secret volume, by path: all keys, or the items that it names.
func (m *Manifest) files(v *corev1.SecretVolumeSource) (map[string]file, error) {
	values, err := m.secrets.find(v.SecretName, v.Optional)
	if err != nil {
		return nil, err
	}
	mode := func(specific *int32) (uint32, error) {
		for _, m := range []*int32{specific, v.DefaultMode} {
			if m != nil && (*m < 0 || *m > 0o777) {
				return 0, fmt.Errorf("mode %o: want 0 to 0777", *m)
			} else if m != nil {
				return uint32(*m), nil
			}
		}
		return defaultFileMode, nil
	}
	files := map[string]file{}
	if len(v.Items) == 0 {
		bits, err := mode(nil)
		if err != nil {
			return nil, err
		}
		for key, value := range values {
			files[key] = file{value, bits}
		}
		return files, nil
	}
	for _, item := range v.Items {
		value, ok, err := m.secrets.value(v.SecretName, item.Key, v.Optional)
		if err != nil {
			return nil, err
		}
		bits, err := mode(item.Mode)
		if err != nil {
			return nil, err
		}
		if !filepath.IsLocal(item.Path) || filepath.Clean(item.Path) != item.Path || item.Path == "." || strings.HasPrefix(item.Path, "..") {
			return nil, fmt.Errorf("item %q: path %q is not a clean path below the volume", item.Key, item.Path)
		}
		if ok {
			files[item.Path] = file{value, bits}
		}
	}
	return files, nil
}

// Exposed names the values of Secrets beside the pod that are not sealed, as secret/key: the host reads them.
func (m *Manifest) Exposed() []string {
	var exposed []string
	for secret, values := range m.secrets {
		for key, value := range values {
			if !sealed.Is(string(value)) {
				exposed = append(exposed, secret+"/"+key)
			}
		}
	}
	slices.Sort(exposed)
	return exposed
}
