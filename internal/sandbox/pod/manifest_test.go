// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pod

import (
	"fmt"
	"slices"
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
		"value from":        {"{name: EMPTY}", "{name: A, valueFrom: {configMapKeyRef: {name: a, key: b}}}", "valueFrom.configMapKeyRef"},
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
		"two documents":     {"  - {name: scratch, emptyDir: {}}\n", "---\napiVersion: v1\nkind: Pod\n", "more than one"},
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

const withSecrets = `
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {user: "$(WHO)", password: sealed.a.b.c}
data: {user: aWdub3JlZA==, port: NTQzMg==}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - name: main
    image: a
    envFrom: [{secretRef: {name: db}, prefix: DB_}, {secretRef: {name: none, optional: true}}]
    env:
    - {name: WHO, value: me}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
    - {name: NONE, valueFrom: {secretKeyRef: {name: db, key: none, optional: true}}}
    - {name: BOTH, value: "$(WHO) $(DB_user)"}
    volumeMounts: [{name: all, mountPath: /all}, {name: some, mountPath: /some}]
  volumes:
  - {name: all, secret: {secretName: db, defaultMode: 0400}}
  - {name: some, secret: {secretName: db, items: [{key: password, path: deep/pw, mode: 0444}]}}
`

func TestSecretsBesideThePod(t *testing.T) {
	documents := strings.Split(withSecrets, "---\n")
	list := "apiVersion: v1\nkind: List\nitems:\n"
	for _, d := range documents {
		list += "- " + strings.ReplaceAll(strings.TrimSpace(d), "\n", "\n  ") + "\n"
	}
	for form, text := range map[string]string{"documents": withSecrets, "a list": list, "the other way round": documents[1] + "---\n" + documents[0]} {
		m, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		r, err := createRequest(m, &m.Spec.Containers[0], "s", "c")
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"HOSTNAME=client", "DB_password=sealed.a.b.c", "DB_port=5432", "DB_user=$(WHO)", "WHO=me", "PASSWORD=sealed.a.b.c",
			"BOTH=me $(WHO)"}
		if !slices.Equal(r.OCI.Process.Env, want) {
			t.Errorf("%s: %q", form, r.OCI.Process.Env)
		}
		var volumes []string
		for _, m := range r.OCI.Mounts {
			if strings.HasPrefix(m.Source, copiedVolumes) {
				volumes = append(volumes, m.Destination+" "+m.Source[len(copiedVolumes):]+" "+m.Options[2])
			}
		}
		if want := []string{"/all all ro", "/some some ro"}; !slices.Equal(volumes, want) || len(r.Storages) != 1 {
			t.Errorf("%s: %q, %d storages", form, volumes, len(r.Storages))
		}
		files, err := CopyRequests(m)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			got = append(got, fmt.Sprintf("%s %o %d %s", f.Path[len(copiedVolumes):], f.FileMode, f.FileSize, f.Data))
		}
		if want := []string{
			"all 40755 0 ", "all/password 100400 12 sealed.a.b.c", "all/port 100400 4 5432", "all/user 100400 6 $(WHO)", "some 40755 0 ",
			"some/deep/pw 100444 12 sealed.a.b.c",
		}; !slices.Equal(got, want) {
			t.Errorf("%s: %q", form, got)
		}
		if want := []string{"db/port", "db/user"}; !slices.Equal(m.Exposed(), want) {
			t.Errorf("%s: exposed %q", form, m.Exposed())
		}
	}
}

func TestSecretsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"no such secret":   {"name: db}\nstringData", "name: other}\nstringData", `no Secret "db"`},
		"no such key":      {"key: password}}}", "key: word}}}", `no key "word"`},
		"no such item":     {"key: password, path", "key: word, path", `no key "word"`},
		"an item's path":   {"deep/pw", "../pw", "clean path"},
		"a hidden path":    {"deep/pw", "..data", "clean path"},
		"a mode":           {"mode: 0444", "mode: 04755", "want 0 to 0777"},
		"a key with dots":  {"password: sealed", "../password: sealed", "not a key"},
		"a kubelet's key":  {"password: sealed", "..data: sealed", "not a key"},
		"not base64":       {"NTQzMg==", "5432!", "base64"},
		"unknown field":    {"stringData", "stringValues", "stringValues"},
		"secret twice":     {"---\n", "---\napiVersion: v1\nkind: Secret\nmetadata: {name: db}\n---\n", "twice"},
		"value and source": {"valueFrom: {secretKeyRef: {name: db, key: password}}", "value: x, valueFrom: {secretKeyRef: {name: db, key: password}}", "or a secretKeyRef"},
		"a secret's name":  {"name: db}\nstringData", "name: ../db}\nstringData", "not a DNS name"},
		"no pod":           {"kind: Pod", "kind: Secret", "unknown field"},
		"a list in a list": {"---\n", "---\napiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List}]\n---\n", `kind "List"`},
		"behind the end":   {"---\n", "...\napiVersion: v1\nkind: Job\n---\n", `kind "Job"`},
		"a zero byte":      {"NTQzMg==", "NTQAMg==", "zero byte"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(withSecrets, c.old) {
				t.Fatalf("nothing to replace: %q", c.old)
			}
			_, err := Parse([]byte(strings.Replace(withSecrets, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
		})
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
	f.Add([]byte(withSecrets))
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
