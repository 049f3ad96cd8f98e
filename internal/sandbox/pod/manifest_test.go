// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"strings"
	"testing"
)

const ordinary = `# an ordinary pod
apiVersion: v1
kind: Pod
metadata:
  name: client
  namespace: default
  labels: {app.kubernetes.io/name: client}
  annotations: {example.org/note: kept}
spec:
  runtimeClassName: nacre
  restartPolicy: Never
  initContainers:
  - {name: first, image: "10.0.2.2:5000/a@sha256:00"}
  containers:
  - name: main
    image: "10.0.2.2:5000/a@sha256:00"
    imagePullPolicy: Always
    command: [sh, -c]
    args: ["echo $(WHO)"]
    workingDir: /tmp
    env: [{name: WHO, value: me}, {name: EMPTY}]
    ports: [{name: http, containerPort: 80}]
    resources: {limits: {cpu: 1500m, memory: 64Mi}, requests: {cpu: "1"}}
    securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - {name: scratch, emptyDir: {}}
`

func TestParse(t *testing.T) {
	p, err := Parse([]byte(ordinary))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "client" || len(p.Spec.Containers) != 1 {
		t.Errorf("got %+v", p)
	}
	if vcpus, memory := Size(p); vcpus != 2 || memory != 64+overheadMiB {
		t.Errorf("size %d vCPUs, %d MiB", vcpus, memory)
	}
	if raw, err := InitData(p); raw != nil || err != nil {
		t.Errorf("init-data %q, %v", raw, err)
	}
}

// What is dropped in silence is what goes wrong in secret.
func TestParseRefusesWhatItCannotDo(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown field":     {"workingDir:", "workingDirectory:", "workingDirectory"},
		"duplicate field":   {"workingDir: /tmp", "workingDir: /tmp\n    workingDir: /", "workingDir"},
		"host path":         {"emptyDir: {}", "hostPath: {path: /}", "spec.volumes[0].hostPath.path"},
		"config map volume": {"emptyDir: {}", "configMap: {name: a}", "spec.volumes[0].configMap.name"},
		"secret volume":     {"emptyDir: {}", "secret: {}", "spec.volumes[0].secret"},
		"privileged":        {"runAsUser: 1000", "privileged: true", "spec.containers[0].securityContext.privileged"},
		"host network":      {"restartPolicy: Never", "hostNetwork: true", "spec.hostNetwork"},
		"value from":        {"{name: EMPTY}", "{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}", "valueFrom.secretKeyRef"},
		"probe":             {"workingDir: /tmp", "livenessProbe: {exec: {command: [a]}}", "spec.containers[0].livenessProbe"},
		"sub path":          {"mountPath: /scratch", "mountPath: /scratch, subPath: a", "volumeMounts[0].subPath"},
		"restart policy":    {"restartPolicy: Never", "restartPolicy: Sometimes", "Sometimes"},
		"missing volume":    {"{name: scratch, mountPath", "{name: other, mountPath", `"other"`},
		"relative mount":    {"mountPath: /scratch", "mountPath: scratch", "not absolute"},
		"container twice":   {"name: first", "name: main", `"main"`},
		"name with slash":   {"name: client\n", "name: ../client\n", "DNS label"},
		"no image":          {`- {name: first, image: "10.0.2.2:5000/a@sha256:00"}`, "- {name: first}", "no image"},
		"a deployment":      {"kind: Pod", "kind: Deployment", "Deployment"},
		"other version":     {"apiVersion: v1", "apiVersion: v2", "v2"},
		"two documents":     {"  - {name: scratch, emptyDir: {}}\n", "---\nkind: Pod\n", "more than one"},
		"not YAML":          {"apiVersion: v1", "{", "reading the pod"},
		"too long":          {"# an", "#" + strings.Repeat("#", MaxManifest), "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(ordinary, c.old) {
				t.Fatalf("nothing to replace: %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(ordinary, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
		})
	}
}

func TestParseAllowsEmptyDocuments(t *testing.T) {
	if _, err := Parse([]byte("---\n" + ordinary + "---\n# nothing\n")); err != nil {
		t.Error(err)
	}
}

func TestInitDataMustDecode(t *testing.T) {
	text := strings.Replace(ordinary, "example.org/note: kept", `io.katacontainers.config.hypervisor.cc_init_data: "bm90IGd6aXA="`, 1)
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := InitData(p); err == nil || !strings.Contains(err.Error(), "nacre initdata create") {
		t.Errorf("got %v", err)
	}
}

func TestExpand(t *testing.T) {
	value := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "a", "EMPTY": "", "NESTED": "$(A)"}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"$(A)":          "a",
		"x$(A)y$(A)":    "xaya",
		"$(EMPTY)":      "",
		"$(UNKNOWN)":    "$(UNKNOWN)",
		"$$(A)":         "$(A)",
		"$$$(A)":        "$a",
		"$A":            "$A",
		"$(A":           "$(A",
		"$":             "$",
		"a$":            "a$",
		"$(NESTED)":     "$(A)",
		"$(A b)$(A)":    "$(A b)a",
		"$$$$(UNKNOWN)": "$$(UNKNOWN)",
	} {
		if got := expand(in, value); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(ordinary))
	f.Add([]byte("apiVersion: v1\nkind: Pod\nspec: {containers: [null]}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		Size(p)
		for i := range p.Spec.Containers {
			if _, err := createRequest(p, &p.Spec.Containers[i], "s", "c"); err != nil {
				t.Errorf("a valid pod's container cannot be asked for: %v", err)
			}
		}
	})
}
