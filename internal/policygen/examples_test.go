// SPDX-License-Identifier: Apache-2.0

//go:build linux

package policygen_test

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/initdata"
	guest "github.com/nacre-project/nacre/internal/guest/agent"
	"github.com/nacre-project/nacre/internal/policygen"
)

const someDigest = "@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

var taggedImage = regexp.MustCompile(`image: "?([a-z0-9./-]+:[a-z0-9.]+)"?`)

// pinnedText is a manifest with digests beside its tags, as --pin writes them.
func pinnedText(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return taggedImage.ReplaceAllString(string(text), `image: "$1`+someDigest+`"`)
}

// gateOf compiles a policy as a guest does.
func gateOf(t testing.TB, text string) *guest.Gate {
	t.Helper()
	gate, err := guest.NewGate(t.Context(), text, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return gate
}

// refusal puts a message to a gate; an empty answer is a yes.
func refusal(t testing.TB, gate *guest.Gate, message proto.Message) string {
	t.Helper()
	encoded, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(target any) error { return proto.Unmarshal(encoded, target.(proto.Message)) }
	target := message.ProtoReflect().New().Interface()
	_, err = gate.Intercept(t.Context(), decode, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/Test"},
		func(_ context.Context, decode func(any) error) (any, error) { return nil, decode(target) })
	if err != nil && status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	return status.Convert(err).Message()
}

// known are values of the downward API as a host fills them in.
func known(r *agent.CreateContainerRequest) {
	values := strings.NewReplacer(policygen.Field("metadata.name"), "downward", policygen.Field("status.podIP"), "10.1.2.3",
		policygen.Field("spec.nodeName"), "node-1", policygen.Field("resource"), "67108864")
	for _, words := range [][]string{r.OCI.Process.Args, r.OCI.Process.Env} {
		for i := range words {
			words[i] = values.Replace(words[i])
		}
	}
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) != 20 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	const most = 16 << 10
	image := &ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"PATH=/bin"}, User: "0"}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			m, err := policygen.Read([]byte(pinnedText(t, file)))
			if err != nil || len(m.Templates) == 0 {
				t.Fatal(len(m.Templates), err)
			}
			for _, template := range m.Templates {
				images := map[string]*ocispec.ImageConfig{}
				for _, name := range template.Images() {
					images[name] = image
				}
				p, err := m.Pod(template, policygen.Allowed{Logs: true}, images)
				if err != nil {
					t.Fatal(err)
				}
				text := rego(t, p)
				annotation, err := initdata.EncodeAnnotation(mustFormat(t, text))
				if err != nil {
					t.Fatal(err)
				}
				if n := base64.StdEncoding.DecodedLen(len(annotation)); n >= most {
					t.Errorf("%d bytes, compressed", n)
				}
				gate := gateOf(t, text)
				for _, f := range p.Files {
					if why := refusal(t, gate, f); why != "" {
						t.Errorf("%s: %s", f.Path, why)
					}
				}
				for _, r := range p.Requests {
					name := r.OCI.Annotations["io.kubernetes.cri.container-name"]
					r.ContainerId = "id-" + name
					known(r)
					if why := refusal(t, gate, r); why != "" {
						t.Errorf("%s: %s", name, why)
					}
					for _, command := range p.Kubelet[name].Commands {
						run := execution(r, command)
						if why := refusal(t, gate, run); why != "" {
							t.Errorf("%s: %q: %s", name, command, why)
						}
						run.Process.Args = append(run.Process.Args, "x")
						if refusal(t, gate, run) == "" {
							t.Errorf("%s: another command is allowed", name)
						}
					}
				}
			}
		})
	}
}

func execution(r *agent.CreateContainerRequest, command []string) *agent.ExecProcessRequest {
	p := proto.CloneOf(r.OCI.Process)
	p.Args = command
	return &agent.ExecProcessRequest{ContainerId: r.ContainerId, ExecId: "e1", Process: p}
}

func mustFormat(t *testing.T, policy string) []byte {
	t.Helper()
	raw, err := initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: initdata.SHA256,
		Files: map[string]string{initdata.AgentPolicy: policy}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// An image by tag is refused with what to do about it.
func TestTagsAreRefused(t *testing.T) {
	text, err := os.ReadFile("../../examples/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := policygen.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Pod(m.Templates[0], policygen.Allowed{}, nil); !errors.Is(err, policygen.ErrTag) || !strings.Contains(err.Error(), "--pin") {
		t.Error(err)
	}
}
