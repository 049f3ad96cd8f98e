// SPDX-License-Identifier: Apache-2.0

//go:build linux

package policygen

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

// Manifests are the pod templates of a text, with the Secrets and ConfigMaps beside them. Other objects in it are passed over.
type Manifests struct {
	Templates []*Template
	Secrets   []*corev1.Secret
	Configs   []*corev1.ConfigMap
}

// Template is one pod template.
type Template struct {
	Kind, Name string
	Pod        corev1.PodTemplateSpec
}

// maxItems caps the objects of one text.
const maxItems = 1024

// Read reads the objects of a text, in YAML or JSON: documents, and the items of Lists.
func Read(text []byte) (*Manifests, error) {
	if len(text) > pod.MaxManifest {
		return nil, fmt.Errorf("reading the manifest: %d bytes, at most %d are read", len(text), pod.MaxManifest)
	}
	if bytes.ContainsAny(text, fieldBegin+fieldEnd) {
		return nil, errors.New("reading the manifest: there is a code point in it that is no character (U+FDD0 or U+FDD1)")
	}
	m := &Manifests{}
	objects := 0
	for d := yamlv3.NewDecoder(bytes.NewReader(text)); ; {
		var document yamlv3.Node
		if err := d.Decode(&document); errors.Is(err, io.EOF) {
			return m, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
		one, err := yamlv3.Marshal(&document)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
		raw, err := yaml.YAMLToJSONStrict(one)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
		if err := m.add(raw, &objects); err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
	}
}

func (m *Manifests) add(raw []byte, objects *int) error {
	if *objects++; *objects > maxItems {
		return fmt.Errorf("more than %d objects", maxItems)
	}
	var head struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	decode := func(into any) error { return yaml.UnmarshalStrict(raw, into) }
	switch head.Kind {
	case "List":
		for _, item := range head.Items {
			if err := m.add(item, objects); err != nil {
				return err
			}
		}
		return nil
	case "Secret":
		m.Secrets = append(m.Secrets, &corev1.Secret{})
		return decode(m.Secrets[len(m.Secrets)-1])
	case "ConfigMap":
		m.Configs = append(m.Configs, &corev1.ConfigMap{})
		return decode(m.Configs[len(m.Configs)-1])
	}
	template, err := templateOf(head.Kind, decode)
	if err != nil {
		return fmt.Errorf("%s: %w", head.Kind, err)
	}
	if template != nil {
		m.Templates = append(m.Templates, template)
	}
	return nil
}

// templateOf reads an object that has a pod template, and returns nil for others.
func templateOf(kind string, decode func(any) error) (*Template, error) {
	var name string
	var template *corev1.PodTemplateSpec
	var err error
	switch kind {
	case "Pod":
		var o corev1.Pod
		err = decode(&o)
		name, template = o.Name, &corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec}
	case "Deployment":
		var o appsv1.Deployment
		err = decode(&o)
		name, template = o.Name, &o.Spec.Template
	case "StatefulSet":
		var o appsv1.StatefulSet
		err = decode(&o)
		if len(o.Spec.VolumeClaimTemplates) > 0 {
			return nil, errors.New("volumeClaimTemplates: a disk of the host's cannot be mounted yet; use an emptyDir")
		}
		name, template = o.Name, &o.Spec.Template
	case "DaemonSet":
		var o appsv1.DaemonSet
		err = decode(&o)
		name, template = o.Name, &o.Spec.Template
	case "ReplicaSet":
		var o appsv1.ReplicaSet
		err = decode(&o)
		name, template = o.Name, &o.Spec.Template
	case "Job":
		var o batchv1.Job
		err = decode(&o)
		name, template = o.Name, &o.Spec.Template
	case "CronJob":
		var o batchv1.CronJob
		err = decode(&o)
		name, template = o.Name, &o.Spec.JobTemplate.Spec.Template
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Template{kind, name, *template}, nil
}

// Images are the images of a template's containers, as they are written.
func (t *Template) Images() []string {
	var all []string
	for _, c := range slices.Concat(t.Pod.Spec.InitContainers, t.Pod.Spec.Containers) {
		if !slices.Contains(all, c.Image) {
			all = append(all, c.Image)
		}
	}
	return all
}

// Allowed is what the owner lets the host do besides running the pod. The zero value allows nothing.
type Allowed struct {
	Logs bool     // read what containers print
	Copy bool     // copy files into and out of containers, as kubectl cp does
	Exec []string // patterns of commands, as [Command] makes them
}

// copyCommands are those that kubectl cp runs.
var copyCommands = [][]string{{"tar", "cf", "-", "**"}, {"tar", "-xmf", "-", "**"}, {"tar", "xmf", "-", "**"}}

// Pod is the policy's pod for a template. Every image needs a digest. Configurations of images, by reference, make the policy fit hosts that
// fill in what the manifest leaves to the image.
func (m *Manifests) Pod(t *Template, allowed Allowed, images map[string]*ocispec.ImageConfig) (Pod, error) {
	p, err := m.manifest(t)
	if err != nil {
		return Pod{}, err
	}
	out := Pod{AllowLogs: allowed.Logs, Kubelet: map[string]Kubelet{}}
	if out.Requests, err = pod.CreateRequests(p); err != nil {
		return Pod{}, err
	}
	if out.Files, err = pod.CopyRequests(p); err != nil {
		return Pod{}, err
	}
	patterns := slices.Clone(allowed.Exec)
	if allowed.Copy {
		for _, words := range copyCommands {
			pattern, err := Command(words)
			if err != nil {
				return Pod{}, err
			}
			patterns = append(patterns, pattern)
		}
	}
	score := outOfMemory(&t.Pod.Spec)
	for _, c := range slices.Concat(t.Pod.Spec.InitContainers, t.Pod.Spec.Containers) {
		references, err := otherNames(c.Image)
		if err != nil {
			return Pod{}, fmt.Errorf("container %q: %w", c.Name, err)
		}
		automount := t.Pod.Spec.AutomountServiceAccountToken
		out.Kubelet[c.Name] = Kubelet{
			References: references, Values: fieldPatterns, Services: services(t.Pod.Spec.EnableServiceLinks), OOMScore: &score,
			Image: images[c.Image], Commands: commands(&c), Exec: patterns, ServiceAccount: automount == nil || *automount,
		}
	}
	return out, nil
}

// manifest is a template as one pod of it, with fields of the downward API marked.
func (m *Manifests) manifest(t *Template) (*pod.Manifest, error) {
	p := &corev1.Pod{ObjectMeta: *t.Pod.ObjectMeta.DeepCopy(), Spec: *t.Pod.Spec.DeepCopy()}
	p.Name, p.GenerateName = t.Name, ""
	for i := range p.Spec.InitContainers {
		if err := markFields(&p.Spec.InitContainers[i], p); err != nil {
			return nil, err
		}
	}
	for i := range p.Spec.Containers {
		if err := markFields(&p.Spec.Containers[i], p); err != nil {
			return nil, err
		}
	}
	return pod.Template(p, m.Secrets, m.Configs)
}

// fieldPatterns are what values of the downward API look like. They are the host's to choose; a pattern keeps them from being anything.
var fieldPatterns = map[string]string{
	"metadata.name": `[a-z0-9.-]{1,253}`, "metadata.namespace": `[a-z0-9-]{1,63}`, "metadata.uid": `[0-9a-f-]{36}`,
	"spec.nodeName": `[a-z0-9.-]{1,253}`, "spec.serviceAccountName": `[a-z0-9.-]{1,253}`,
	"status.hostIP": `[0-9a-f.:]{2,45}`, "status.podIP": `[0-9a-f.:]{2,45}`,
	"status.hostIPs": `[0-9a-f.:,]{2,91}`, "status.podIPs": `[0-9a-f.:,]{2,91}`,
	"resource": `[0-9]{1,20}`,
}

var metadataKey = regexp.MustCompile(`^metadata\.(labels|annotations)\['([^']+)'\]$`)

// markFields replaces references to fields by their marks; labels and annotations are the template's own.
func markFields(c *corev1.Container, p *corev1.Pod) error {
	for i := range c.Env {
		e := &c.Env[i]
		if e.ValueFrom == nil || e.ValueFrom.FieldRef == nil && e.ValueFrom.ResourceFieldRef == nil {
			continue
		}
		if e.ValueFrom.ResourceFieldRef != nil {
			*e = corev1.EnvVar{Name: e.Name, Value: Field("resource")}
			continue
		}
		path := e.ValueFrom.FieldRef.FieldPath
		if match := metadataKey.FindStringSubmatch(path); match != nil {
			from := map[string]map[string]string{"labels": p.Labels, "annotations": p.Annotations}[match[1]]
			*e = corev1.EnvVar{Name: e.Name, Value: strings.ReplaceAll(from[match[2]], "$", "$$")}
			continue
		}
		if fieldPatterns[path] == "" || path == "resource" {
			return fmt.Errorf("container %q: variable %q: the field %q is not known", c.Name, e.Name, path)
		}
		*e = corev1.EnvVar{Name: e.Name, Value: Field(path)}
	}
	return nil
}

// services are the variables that a kubelet makes of Services: always that of the cluster's own, and unless switched off those of the
// namespace, whose names nobody knows beforehand.
func services(links *bool) []string {
	const address, port = `(\d{1,3}(\.\d{1,3}){3}|[0-9a-f:]{2,39})`, `\d{1,5}`
	prefix := `[A-Z][A-Z0-9_]*`
	if links != nil && !*links {
		prefix = "KUBERNETES"
	}
	url := `(tcp|udp|sctp)://(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:]{2,39}\]):` + port
	numbered := prefix + `_PORT_` + port + `_(TCP|UDP|SCTP)`
	return []string{
		prefix + "_SERVICE_HOST=" + address,
		prefix + "_SERVICE_PORT(_[A-Z0-9_]+)?=" + port,
		prefix + "_PORT=" + url,
		numbered + "=" + url,
		numbered + "_PROTO=(tcp|udp|sctp)",
		numbered + "_PORT=" + port,
		numbered + "_ADDR=" + address,
	}
}

// outOfMemory are the lowest and the highest score of the pod's class of service (Kubernetes, "Node out of memory behavior").
func outOfMemory(s *corev1.PodSpec) [2]int64 {
	guaranteed, bestEffort := true, true
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, limited := c.Resources.Limits[name]
			request, requested := c.Resources.Requests[name]
			bestEffort = bestEffort && !limited && !requested
			guaranteed = guaranteed && limited && (!requested || request.Cmp(limit) == 0)
		}
	}
	switch {
	case guaranteed:
		return [2]int64{-997, -997}
	case bestEffort:
		return [2]int64{1000, 1000}
	}
	return [2]int64{2, 999}
}

// commands are what a kubelet runs in a container by itself.
func commands(c *corev1.Container) [][]string {
	var all [][]string
	add := func(e *corev1.ExecAction) {
		if e != nil && len(e.Command) > 0 {
			all = append(all, e.Command)
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			add(p.Exec)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				add(h.Exec)
			}
		}
	}
	return all
}

// ErrTag says that an image is named by a tag alone, which whoever has the registry, or the way to it, can point elsewhere.
var ErrTag = errors.New("is named by a tag, which can be pointed elsewhere")

// otherNames are the names by which a runtime may know an image that has a digest.
func otherNames(image string) ([]string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, fmt.Errorf("%q is no image reference: %w", image, err)
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("the image %s %w; write NAME@sha256:… instead, or let --pin do so", image, ErrTag)
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(named), digested.Digest())
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	all := slices.DeleteFunc([]string{named.String(), canonical.String()}, func(n string) bool { return n == image })
	return slices.Compact(all), nil
}
