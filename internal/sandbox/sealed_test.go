// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/test/brokertest"
)

const sealingKey = "kbs:///default/sealing/key"

// sealedPod takes a variable and a file from the Secret beside it.
const sealedPod = `
  restartPolicy: Never
  containers:
  - name: main
    image: "IMAGE"
    command: [sh, -c, "echo env $DB_PASSWORD; echo file $(cat /etc/secret/token); touch /etc/secret/x 2>/dev/null || echo readonly"]
    env: [{name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
    volumeMounts: [{name: v, mountPath: /etc/secret}]
  volumes: [{name: v, secret: {secretName: db}}]
---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: PASSWORD, token: TOKEN}
`

// withBroker is init-data for a pod: the broker, whose keys seal, and what may run.
func withBroker(t *testing.T, b *brokertest.Broker, text string) []byte {
	t.Helper()
	m, err := pod.Parse([]byte(manifest(t, text)))
	if err != nil {
		t.Fatal(err)
	}
	files, err := pod.CopyRequests(m)
	if err != nil {
		t.Fatal(err)
	}
	rego, err := policygen.Pod{Requests: requests(t, text), Files: files, AllowLogs: true}.Rego()
	if err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(b.URL, "127.0.0.1", "10.0.2.2", 1)
	raw, err := initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256, Files: map[string]string{
		initdata.AgentPolicy: rego,
		initdata.AgentConfig: fmt.Sprintf("[token_configs.kbs]\nurl = %q\ncert = '''%s'''\n", url, b.Pin),
		initdata.DataConfig: fmt.Sprintf("[kbc]\nname = \"cc_kbc\"\nurl = %q\nkbs_cert = '''%s'''\n[sealed_secrets]\nkeys = [%q]\n",
			url, b.Pin, sealingKey),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func resource(path string) kbs.ResourceURI { return kbs.ResourceURI{Path: strings.Split(path, "/")} }

// A pod whose Secrets are sealed, through a real guest: it sees what they stand for, and without one of them it does not start.
func TestSealedSecrets(t *testing.T) {
	cfg := config(t)
	cfg.Platform = brokertest.Platform(t)
	b := brokertest.New(t)
	key, err := sealed.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := key.Verifying().JWK(sealingKey)
	if err != nil {
		t.Fatal(err)
	}
	kek := sealed.NewKey()
	b.Resources["default/sealing/key"], b.Resources["default/sealing/kek"] = string(jwk), string(kek.Reveal())
	b.Resources["default/db/password"] = "hunter2"
	signer := sealed.Signer{KeyID: sealingKey, Key: key}
	vault, err := signer.SealVault(resource("default/db/password"))
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := signer.SealEnvelope(resource("default/sealing/kek"), kek, secret.New([]byte("a token")))
	if err != nil {
		t.Fatal(err)
	}
	signer.KeyID = "kbs:///default/mallory/key"
	unpinned, err := signer.SealVault(resource("default/db/password"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ password, token, prints, refusal string }{
		"opened":  {vault, envelope, "env hunter2\nfile a token\nreadonly\n", ""},
		"but one": {vault, unpinned, "", `file "token" of the volume at "/etc/secret": unsealing a secret (sealed_key_not_pinned)`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.NewReplacer("password: PASSWORD", "password: "+c.password, "token: TOKEN", "token: "+c.token).
				Replace(sealedPod)
			cfg := cfg
			cfg.InitData = withBroker(t, b, text)
			code, printed, err := run(t, start(t, cfg), text, nil)
			if (err != nil) != (c.refusal != "") || err != nil && !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("code %d, %v", code, err)
			}
			if printed["main"] != c.prints {
				t.Errorf("printed %q, want %q", printed["main"], c.prints)
			}
		})
	}
}
