// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Fields of a pod that a kubelet or a scheduler acts upon and that change no request to create a container: probes, hooks, where the pod
// runs. A name that ends in a dot stands for all below it.
var kubelet = slices.Collect(strings.FieldsSeq(`
metadata.generateName metadata.uid metadata.resourceVersion metadata.generation metadata.ownerReferences.
metadata.finalizers. metadata.managedFields.
spec.affinity. spec.tolerations. spec.topologySpreadConstraints. spec.imagePullSecrets. spec.priority spec.priorityClassName
spec.preemptionPolicy spec.readinessGates. spec.serviceAccountName spec.serviceAccount spec.dnsPolicy spec.dnsConfig. spec.hostAliases.
spec.nodeName spec.activeDeadlineSeconds spec.subdomain spec.setHostnameAsFQDN spec.securityContext.runAsNonRoot
spec.securityContext.seccompProfile. spec.securityContext.appArmorProfile. spec.overhead.
@.livenessProbe. @.readinessProbe. @.startupProbe. @.lifecycle. @.ports. @.restartPolicy @.resizePolicy.
@.resources.limits. @.securityContext.privileged @.securityContext.runAsNonRoot @.securityContext.seccompProfile.
@.securityContext.appArmorProfile. @.env.*.valueFrom.configMapKeyRef. @.envFrom.*.configMapRef.
spec.volumes.*.configMap. @.livenessProbe @.readinessProbe @.startupProbe @.lifecycle spec.affinity spec.overhead
`))

func forKubelet(pattern string) bool {
	pattern = strings.Replace(pattern, "spec.initContainers.*", "@", 1)
	pattern = strings.Replace(pattern, "spec.containers.*", "@", 1)
	return slices.ContainsFunc(kubelet, func(field string) bool {
		return field == pattern || strings.HasSuffix(field, ".") && strings.HasPrefix(pattern, field)
	})
}

// Template is a pod as a cluster runs it, with the Secrets and ConfigMaps that it uses. What a kubelet does besides the requests for its
// containers, such as probing them, may stand in it; what this package knows nothing of is refused by name, as [Parse] does.
func Template(p *corev1.Pod, secrets []*corev1.Secret, configs []*corev1.ConfigMap) (*Manifest, error) {
	m := &Manifest{Pod: p, secrets: values{}, configs: values{}}
	for _, s := range secrets {
		if err := m.addSecret(s); err != nil {
			return nil, err
		}
	}
	for _, c := range configs {
		if err := m.configs.add("configmap", c.Name, c.BinaryData, c.Data); err != nil {
			return nil, err
		}
	}
	known := func(pattern string) bool { return supported[pattern] || harmless[pattern] || forKubelet(pattern) }
	if err := unsupported(p, known); err != nil {
		return nil, fmt.Errorf("pod %q: %w", p.Name, err)
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if s := c.SecurityContext; s != nil && s.Privileged != nil && *s.Privileged {
			return nil, fmt.Errorf("pod %q: container %q is privileged, which no guest takes", p.Name, c.Name)
		}
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("pod %q: %w", p.Name, err)
	}
	return m, nil
}
