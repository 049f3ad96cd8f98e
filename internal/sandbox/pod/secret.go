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

// values are those of the Secrets, or the ConfigMaps, beside a pod, by name and key.
type values map[string]map[string][]byte

func (m *Manifest) addSecret(secret *corev1.Secret) error {
	return m.secrets.add("secret", secret.Name, secret.Data, secret.StringData)
}

func (v values) add(kind, object string, binary map[string][]byte, text map[string]string) error {
	if !name.MatchString(object) && !subdomain.MatchString(object) {
		return fmt.Errorf("%s %q: its name is not a DNS name", kind, object)
	}
	if v[object] != nil {
		return fmt.Errorf("%s %q is there twice", kind, object)
	}
	all := map[string][]byte{}
	maps.Copy(all, binary)
	for key, value := range text { // which wins, as in Kubernetes
		all[key] = []byte(value)
	}
	for key, value := range all {
		if !secretKey.MatchString(key) || key == "." || strings.HasPrefix(key, "..") {
			return fmt.Errorf("%s %q: %q is not a key: want letters, digits, \"-\", \"_\" and \".\"", kind, object, key)
		}
		if len(value) > maxChunk {
			return fmt.Errorf("%s %q: %s has %d bytes, more than %d", kind, object, key, len(value), maxChunk)
		}
	}
	v[object] = all
	return nil
}

var subdomain = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)

// find returns the values of a Secret or a ConfigMap; optional ones may be missing.
func (v values) find(kind, name string, optional *bool) (map[string][]byte, error) {
	all, ok := v[name]
	if !ok && (optional == nil || !*optional) {
		return nil, fmt.Errorf("there is no %s %q: give it in the same file as the pod, as another document", kind, name)
	}
	return all, nil
}

// value returns one value of a Secret or a ConfigMap, and whether it is there.
func (v values) value(kind, name, key string, optional *bool) ([]byte, bool, error) {
	all, err := v.find(kind, name, optional)
	if err != nil {
		return nil, false, err
	}
	value, ok := all[key]
	if !ok && (optional == nil || !*optional) {
		return nil, false, fmt.Errorf("the %s %q has no key %q", kind, name, key)
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
		var values map[string][]byte
		var err error
		switch {
		case from.SecretRef != nil && from.ConfigMapRef == nil:
			values, err = m.secrets.find("Secret", from.SecretRef.Name, from.SecretRef.Optional)
		case from.ConfigMapRef != nil && from.SecretRef == nil:
			values, err = m.configs.find("ConfigMap", from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		default:
			return nil, fmt.Errorf("container %q: envFrom takes a secretRef or a configMapRef", c.Name)
		}
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
		var value []byte
		var ok bool
		var err error
		switch secret, config := e.ValueFrom.SecretKeyRef, e.ValueFrom.ConfigMapKeyRef; {
		case e.Value == "" && secret != nil && config == nil:
			value, ok, err = m.secrets.value("Secret", secret.Name, secret.Key, secret.Optional)
		case e.Value == "" && config != nil && secret == nil:
			value, ok, err = m.configs.value("ConfigMap", config.Name, config.Key, config.Optional)
		default:
			return nil, fmt.Errorf("container %q: variable %q takes a value, a configMapKeyRef or a secretKeyRef", c.Name, e.Name)
		}
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

// CopyRequests are the requests that put the pod's Secret and ConfigMap volumes into the guest: for each a directory, and its files.
func CopyRequests(m *Manifest) ([]*agent.CopyFileRequest, error) {
	var all []*agent.CopyFileRequest
	for _, v := range m.Spec.Volumes {
		var files map[string]file
		var err error
		switch {
		case v.Secret != nil:
			files, err = m.secrets.files("Secret", v.Secret.SecretName, v.Secret.Optional, v.Secret.DefaultMode, v.Secret.Items)
		case v.ConfigMap != nil:
			c := v.ConfigMap
			files, err = m.configs.files("ConfigMap", c.Name, c.Optional, c.DefaultMode, c.Items)
		default:
			continue
		}
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

// files are those of a volume, by path: all keys of the object, or the items that the volume names.
func (v values) files(kind, object string, optional *bool, defaultMode *int32, items []corev1.KeyToPath) (map[string]file, error) {
	values, err := v.find(kind, object, optional)
	if err != nil {
		return nil, err
	}
	mode := func(specific *int32) (uint32, error) {
		for _, m := range []*int32{specific, defaultMode} {
			if m != nil && (*m < 0 || *m > 0o777) {
				return 0, fmt.Errorf("mode %o: want 0 to 0777", *m)
			} else if m != nil {
				return uint32(*m), nil
			}
		}
		return defaultFileMode, nil
	}
	files := map[string]file{}
	if len(items) == 0 {
		bits, err := mode(nil)
		if err != nil {
			return nil, err
		}
		for key, value := range values {
			files[key] = file{value, bits}
		}
		return files, nil
	}
	for _, item := range items {
		value, ok, err := v.value(kind, object, item.Key, optional)
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
