// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nacre-project/nacre/initdata"
)

// MaxManifest caps a manifest, in bytes; Kubernetes' own limit for an object is 1.5 MiB.
const MaxManifest = 1536 << 10

// Fields of a Pod that mean something here. "*" stands for every key of a map or element of a list.
var supported = paths(`
apiVersion kind metadata.name metadata.annotations.*
spec.restartPolicy spec.hostname spec.terminationGracePeriodSeconds
spec.securityContext.runAsUser spec.securityContext.runAsGroup spec.securityContext.supplementalGroups.*
spec.volumes.*.name spec.volumes.*.emptyDir spec.volumes.*.emptyDir.sizeLimit spec.volumes.*.emptyDir.medium
spec.volumes.*.secret.secretName spec.volumes.*.secret.defaultMode spec.volumes.*.secret.optional
spec.volumes.*.secret.items.*.key spec.volumes.*.secret.items.*.path spec.volumes.*.secret.items.*.mode
@.env.*.valueFrom.secretKeyRef.name @.env.*.valueFrom.secretKeyRef.key @.env.*.valueFrom.secretKeyRef.optional
@.envFrom.*.prefix @.envFrom.*.secretRef.name @.envFrom.*.secretRef.optional
@.name @.image @.command.* @.args.* @.workingDir @.env.*.name @.env.*.value
@.volumeMounts.*.name @.volumeMounts.*.mountPath @.volumeMounts.*.readOnly
@.resources.limits.cpu @.resources.limits.memory
@.securityContext.runAsUser @.securityContext.runAsGroup @.securityContext.readOnlyRootFilesystem
@.securityContext.allowPrivilegeEscalation @.securityContext.capabilities.add.* @.securityContext.capabilities.drop.*
`)

// Fields that a manifest may have although nothing follows from them here: they speak to a scheduler or to a kubelet, or they
// name what is the case anyway.
var harmless = paths(`
metadata.namespace metadata.labels.* metadata.creationTimestamp
spec.runtimeClassName spec.enableServiceLinks spec.automountServiceAccountToken spec.nodeSelector.* spec.schedulerName
@.imagePullPolicy @.terminationMessagePath @.terminationMessagePolicy @.ports.*.name @.ports.*.containerPort
@.ports.*.protocol @.resources.requests.*
status metadata.labels metadata.annotations spec.securityContext spec.nodeSelector
@.securityContext @.securityContext.capabilities @.resources @.resources.limits @.resources.requests
`)

// paths reads a list of fields; "@" stands for the containers of either kind.
func paths(text string) map[string]bool {
	set := map[string]bool{}
	for _, field := range strings.Fields(text) {
		if rest, ok := strings.CutPrefix(field, "@"); ok {
			set["spec.containers.*"+rest], set["spec.initContainers.*"+rest] = true, true
			continue
		}
		set[field] = true
	}
	return set
}

// Manifest is a pod with the Secrets beside it.
type Manifest struct {
	*corev1.Pod
	secrets, configs values
}

// Parse reads the manifest of one Pod, in YAML or JSON, and of the Secrets that it uses: as documents of one text, or as the items of a
// List. It checks that this package can run all of it.
func Parse(text []byte) (*Manifest, error) {
	if len(text) > MaxManifest {
		return nil, fmt.Errorf("reading the pod: %d bytes, at most %d are read", len(text), MaxManifest)
	}
	m := &Manifest{secrets: values{}}
	for _, document := range documents(text) {
		if err := m.add([]byte(document), true); err != nil {
			return nil, err
		}
	}
	if m.Pod == nil {
		return nil, errors.New("reading the pod: there is none: give a Pod (apiVersion v1)")
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("pod %q: %w", m.Name, err)
	}
	return m, nil
}

// add reads one object.
func (m *Manifest) add(text []byte, list bool) error {
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(text, &kind); err != nil {
		return fmt.Errorf("reading the pod: this is not the manifest of a Pod: %w", err)
	}
	switch {
	case kind.APIVersion == "v1" && kind.Kind == "Pod" && m.Pod != nil:
		return errors.New("reading the pod: more than one Pod; give one Pod a file")
	case kind.APIVersion == "v1" && kind.Kind == "Pod":
		m.Pod = &corev1.Pod{}
		if err := yaml.UnmarshalStrict(text, m.Pod); err != nil {
			return fmt.Errorf("reading the pod: %w", err)
		}
		return nil
	case kind.APIVersion == "v1" && kind.Kind == "Secret":
		secret := &corev1.Secret{}
		if err := yaml.UnmarshalStrict(text, secret); err != nil {
			return fmt.Errorf("reading a secret: %w", err)
		}
		return m.addSecret(secret)
	case kind.APIVersion == "v1" && kind.Kind == "List" && list:
		return m.addItems(text)
	}
	return fmt.Errorf("reading the pod: this is apiVersion %q, kind %q; give a Pod, and the Secrets that it uses (apiVersion v1)",
		kind.APIVersion, kind.Kind)
}

func (m *Manifest) addItems(text []byte) error {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return fmt.Errorf("reading the pod's list: %w", err)
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("reading the pod's list: %w", err)
	}
	for _, item := range list.Items {
		if err := m.add(item, false); err != nil {
			return err
		}
	}
	return nil
}

var separator = regexp.MustCompile(`(?m)^(---|\.\.\.)(\s|$)`)

// documents are the YAML documents that hold anything: a parser that reads the first only would drop the others.
func documents(text []byte) []string {
	var all []string
	for _, document := range separator.Split(string(text), -1) {
		for line := range strings.Lines(document) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				all = append(all, document)
				break
			}
		}
	}
	return all
}

// InitData returns the init-data text in the pod's annotation, nil if it has none.
func InitData(p *Manifest) ([]byte, error) {
	value, ok := p.Annotations[initdata.Annotation]
	if !ok {
		return nil, nil
	}
	raw, err := initdata.DecodeAnnotation(value)
	if err != nil {
		return nil, fmt.Errorf("pod %q: %w; write the annotation with `nacre initdata create --pod`", p.Name, err)
	}
	return raw, nil
}

// Memory that a guest needs beside its containers' limits, in MiB: kernel, agent and page tables.
const overheadMiB = 256

// Size returns what the containers' limits ask for: virtual processors, and memory of the guest in MiB. 0 means that some
// container has no limit, so that the default applies.
func Size(p *Manifest) (vcpus, memoryMiB int) {
	const mib = 1 << 20
	var milliCPU, bytes int64
	cpuLimited, memoryLimited := true, true
	for _, c := range p.Spec.Containers {
		cpu, memory := c.Resources.Limits.Cpu(), c.Resources.Limits.Memory()
		cpuLimited = cpuLimited && !cpu.IsZero()
		memoryLimited = memoryLimited && !memory.IsZero()
		milliCPU += cpu.MilliValue()
		bytes += memory.Value()
	}
	if cpuLimited {
		vcpus = int((milliCPU + 999) / 1000)
	}
	if memoryLimited {
		memoryMiB = int((bytes+mib-1)/mib) + overheadMiB
	}
	return vcpus, memoryMiB
}

func (m *Manifest) validate() error {
	if err := unsupported(m.Pod, func(pattern string) bool { return supported[pattern] || harmless[pattern] }); err != nil {
		return fmt.Errorf("%w; remove these fields to run the pod here", err)
	}
	return m.check()
}

// check says what is wrong with the fields that are understood.
func (m *Manifest) check() error {
	p := m.Pod
	var errs []error
	if !name.MatchString(p.Name) {
		errs = append(errs, fmt.Errorf("metadata.name %q is not a DNS label", p.Name))
	}
	switch p.Spec.RestartPolicy {
	case "":
		// Kubernetes' own default.
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	case corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure:
	default:
		errs = append(errs, fmt.Errorf("restartPolicy %q: must be Never, OnFailure or Always", p.Spec.RestartPolicy))
	}
	if p.Spec.Hostname != "" && !name.MatchString(p.Spec.Hostname) {
		errs = append(errs, fmt.Errorf("hostname %q is not a DNS label", p.Spec.Hostname))
	}
	var volumes []string
	for _, v := range p.Spec.Volumes {
		if !name.MatchString(v.Name) || slices.Contains(volumes, v.Name) {
			errs = append(errs, fmt.Errorf("volume %q: must be a DNS label and the only one of its name", v.Name))
		}
		kinds := 0
		for _, given := range []bool{v.EmptyDir != nil, v.Secret != nil, v.ConfigMap != nil} {
			if given {
				kinds++
			}
		}
		if kinds != 1 {
			errs = append(errs, fmt.Errorf("volume %q: only emptyDir, secret and configMap volumes can be mounted yet", v.Name))
		}
		volumes = append(volumes, v.Name)
	}
	if len(p.Spec.Containers) == 0 {
		errs = append(errs, errors.New("spec.containers is empty"))
	}
	var names []string
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if !name.MatchString(c.Name) || slices.Contains(names, c.Name) {
			errs = append(errs, fmt.Errorf("container %q: must be a DNS label and the only one of its name", c.Name))
		}
		names = append(names, c.Name)
		if c.Image == "" {
			errs = append(errs, fmt.Errorf("container %q: no image", c.Name))
		}
		for _, mount := range c.VolumeMounts {
			if !slices.Contains(volumes, mount.Name) {
				errs = append(errs, fmt.Errorf("container %q mounts volume %q, which the pod does not have", c.Name, mount.Name))
			}
			if !strings.HasPrefix(mount.MountPath, "/") {
				errs = append(errs, fmt.Errorf("container %q: mountPath %q is not absolute", c.Name, mount.MountPath))
			}
		}
		_, err := m.environment(&c)
		errs = append(errs, err)
	}
	_, err := CopyRequests(m)
	return errors.Join(append(errs, err)...)
}

var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// unsupported names every field of the pod that is not known.
func unsupported(p *corev1.Pod, known func(pattern string) bool) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("examining its fields: %w", err)
	}
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil {
		return fmt.Errorf("examining its fields: %w", err)
	}
	var found []string
	leaves(tree, "", "", func(pattern, path string) {
		if !known(pattern) {
			found = append(found, path)
		}
	})
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	return fmt.Errorf("not supported yet: %s", strings.Join(found, ", "))
}

// leaves calls visit for every value and every empty object in tree, with its path and with the path's pattern, in which list
// positions and the keys of free-form maps are "*".
func leaves(tree any, pattern, path string, visit func(pattern, path string)) {
	join := func(a, b string) string {
		if a == "" {
			return b
		}
		return a + "." + b
	}
	switch node := tree.(type) {
	case map[string]any:
		if len(node) == 0 {
			// An empty object can be a choice, e.g. of a kind of volume.
			visit(pattern, path)
		}
		free := freeForm[pattern[strings.LastIndexByte(pattern, '.')+1:]]
		for key, value := range node {
			element := key
			if free {
				element = "*"
			}
			leaves(value, join(pattern, element), join(path, key), visit)
		}
	case []any:
		for i, value := range node {
			leaves(value, join(pattern, "*"), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	case nil:
	default:
		visit(pattern, path)
	}
}

// Maps whose keys the author of a manifest chooses.
var freeForm = map[string]bool{"labels": true, "annotations": true, "nodeSelector": true, "requests": true}
