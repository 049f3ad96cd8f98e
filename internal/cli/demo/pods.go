// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// The resources of the story. The release policy names the first; the second exists, but nobody may have it.
const (
	password      = "default/db/password"
	adminPassword = "default/db/admin-password"
)

// storyPod is the manifest that the owner of the story writes.
const storyPod = `apiVersion: v1
kind: Pod
metadata:
  name: reporting
spec:
  runtimeClassName: nacre
  restartPolicy: Never
  containers:
  - name: app
    image: %s
    command:
    - sh
    - -c
    - |
      echo "I am $(uname -n), on Linux $(uname -r)"
      echo "the database password is: $(wget -qO- http://127.0.0.1:8006/cdh/resource/default/db/password)"
`

// plainPod is the same without init-data; it shows what it is told instead of a secret.
const plainPod = `apiVersion: v1
kind: Pod
metadata:
  name: plain
spec:
  runtimeClassName: nacre
  restartPolicy: Never
  containers:
  - name: app
    image: %s
    command:
    - sh
    - -c
    - |
      echo "I am $(uname -n), and I run"
      { printf 'GET /cdh/resource/default/db/password HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n'; sleep 60 & } | nc 127.0.0.1 8006
      echo
`

// probePod asks for both resources, prints the answers as they come over the wire, and stays. (busybox's wget hides the body of a refusal, and
// the sleep keeps the request's side of the connection open until the answer is there.)
const probePod = `apiVersion: v1
kind: Pod
metadata:
  name: probe
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: %s
    command:
    - sh
    - -c
    - |
      for path in default/db/password default/db/admin-password; do
        echo "== ask $path"
        { printf 'GET /cdh/resource/%%s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' $path; sleep 60 & } | nc 127.0.0.1 8006
        echo
        echo "== answered $path"
      done
      exec sleep 600
`

// answer is what the data hub said to a container.
type answer struct {
	status int
	body   []byte
}

// refusal is the error document of the data hub, which passes on who refused.
func (a answer) refusal() (refusal, error) {
	if a.status == http.StatusOK {
		return refusal{}, nil
	}
	var e struct {
		Code      string `json:"code"`
		Message   string `json:"message"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(a.body, &e); err != nil || e.Code == "" {
		return refusal{}, fmt.Errorf("the data hub answered %d, and no error document: %q", a.status, a.body)
	}
	if strings.HasPrefix(e.RequestID, "guest-") { // the trustee was not asked, or did not answer
		return refusal{By: "guest", Code: e.Code, Text: e.Message}, nil
	}
	return refusal{By: "trustee", Code: e.Code, Text: e.Message, RequestID: e.RequestID}, nil
}

// parseAnswer reads a response as it came over the wire.
func parseAnswer(text []byte) (answer, error) {
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
	if err != nil {
		return answer{}, fmt.Errorf("the container printed no HTTP response: %w: %q", err, text)
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, bytes.TrimRight(body.Bytes(), "\n")}, nil
}

// answers finds what the probe printed about each path, once it has printed both.
func answers(output string) (map[string]answer, bool, error) {
	found := map[string]answer{}
	for _, path := range []string{password, adminPassword} {
		_, rest, begun := strings.Cut(output, "== ask "+path+"\n")
		text, _, ended := strings.Cut(rest, "\n== answered "+path+"\n")
		if !begun || !ended {
			return nil, false, nil
		}
		a, err := parseAnswer([]byte(text))
		if err != nil {
			return nil, true, err
		}
		found[path] = a
	}
	return found, true, nil
}
