// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/nacre-project/nacre/api/agent"
)

// denyAll is a policy that says nothing, and so allows nothing.
const denyAll = "package agent_policy\n"

// allow is a policy that says yes to the named requests.
func allow(names ...string) string {
	rego := denyAll
	for _, n := range names {
		rego += n + " := true\n"
	}
	return rego
}

func newGate(t testing.TB, rego string) *Gate {
	t.Helper()
	g, err := NewGate(t.Context(), rego, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// everyMethod is every method of every service of the agent's protocol files.
func everyMethod(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var all []protoreflect.MethodDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		agent.File_api_agent_agent_proto, agent.File_api_agent_health_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				all = append(all, methods.Get(j))
			}
		}
	}
	if len(all) < 44 {
		t.Fatalf("only %d methods found", len(all))
	}
	return all
}

func fullMethod(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func newMessage(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// call sends a request through the gate to a handler that reports that it ran.
func call(g *Gate, method string, request proto.Message, encoded []byte) (ran bool, err error) {
	decode := func(target any) error { return proto.Unmarshal(encoded, target.(proto.Message)) }
	_, err = g.Intercept(context.Background(), decode, &ttrpc.UnaryServerInfo{FullMethod: method},
		func(_ context.Context, decode func(any) error) (any, error) {
			if err := decode(request); err != nil {
				return nil, err
			}
			ran = true
			return request, nil
		})
	return ran, err
}

// TestAttackRequestWithoutDecision walks over every request of the protocol under a policy that says nothing: only the
// two that tell whether the agent is there may get through. It is the test that a gate which lets undecided requests
// through must fail.
func TestAttackRequestWithoutDecision(t *testing.T) {
	g := newGate(t, denyAll)
	for _, m := range everyMethod(t) {
		ran, err := call(g, fullMethod(m), newMessage(t, m.Input()), nil)
		if m.Parent().Name() == "Health" {
			if !ran || err != nil {
				t.Errorf("%s: %v", m.FullName(), err)
			}
			continue
		}
		want := fmt.Sprintf("%s is blocked by policy: data.agent_policy.%s is undefined", m.Input().Name(), m.Input().Name())
		if ran || status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != want {
			t.Errorf("%s under a policy without rules: ran %v, %v", m.FullName(), ran, err)
		}
	}
	// A method that nobody has thought of is gated like the others.
	ran, err := call(g, "/grpc.AgentService/Invented", &agent.SetPolicyRequest{}, nil)
	if ran || status.Code(err) != codes.PermissionDenied {
		t.Errorf("an unknown method: ran %v, %v", ran, err)
	}
}

// TestDefaultPolicyDecidesEverything demands a line in the image's policy for every request that exists.
func TestDefaultPolicyDecidesEverything(t *testing.T) {
	text, err := os.ReadFile("../boot/default-policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, string(text))
	allowed := map[string]bool{}
	for _, m := range everyMethod(t) {
		if m.Parent().Name() == "Health" {
			continue
		}
		_, err := call(g, fullMethod(m), newMessage(t, m.Input()), nil)
		if err == nil {
			allowed[string(m.Input().Name())] = true
		} else if !strings.HasSuffix(err.Error(), "is false") {
			t.Errorf("%s has no line in the default policy: %v", m.Input().Name(), err)
		}
	}
	want := map[string]bool{
		"CreateSandboxRequest": true, "CreateContainerRequest": true, "StartContainerRequest": true,
		"RemoveContainerRequest": true, "SignalProcessRequest": true, "WaitProcessRequest": true, "ReadStreamRequest": true,
		"UpdateInterfaceRequest": true, "UpdateRoutesRequest": true, "GuestDetailsRequest": true,
		"DestroySandboxRequest": true,
	}
	if !reflect.DeepEqual(allowed, want) {
		t.Errorf("the default policy allows %v", allowed)
	}
}

func TestAttackDefaultPolicy(t *testing.T) {
	text, err := os.ReadFile("../boot/default-policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, string(text))
	for name, request := range map[string]proto.Message{
		"hook":           &agent.CreateSandboxRequest{GuestHookPath: "/hooks"},
		"module":         &agent.CreateSandboxRequest{KernelModules: []*agent.KernelModule{{Name: "virtio_rng"}}},
		"shared pids":    &agent.CreateSandboxRequest{SandboxPidns: true},
		"host's disk":    &agent.CreateSandboxRequest{Storages: []*agent.Storage{{Driver: "blk"}}},
		"device":         &agent.CreateContainerRequest{Devices: []*agent.Device{{ContainerPath: "/dev/sda"}}},
		"shared mount":   &agent.CreateContainerRequest{SharedMounts: []*agent.SharedMount{{}}},
		"virtio-fs":      &agent.CreateContainerRequest{Storages: []*agent.Storage{{Driver: "virtio-fs"}}},
		"second storage": &agent.CreateContainerRequest{Storages: []*agent.Storage{{Driver: "ephemeral"}, {Driver: "blk"}}},
		"exec":           &agent.ExecProcessRequest{ContainerId: "c", Process: &agent.Process{Args: []string{"sh"}}},
		"policy":         &agent.SetPolicyRequest{Policy: "package agent_policy\ndefault ExecProcessRequest := true"},
		"copy":           &agent.CopyFileRequest{Path: "/run/x"},
		"clock":          &agent.SetGuestDateTimeRequest{Sec: 1},
		"entropy":        &agent.ReseedRandomDevRequest{Data: []byte{0}},
	} {
		t.Run(name, func(t *testing.T) {
			encoded, err := proto.Marshal(request)
			if err != nil {
				t.Fatal(err)
			}
			ran, err := call(g, "/grpc.AgentService/X", request.ProtoReflect().New().Interface(), encoded)
			if ran || status.Code(err) != codes.PermissionDenied {
				t.Errorf("ran %v, %v", ran, err)
			}
		})
	}
}

// ops is a rule whose answer says yes and brings these operations on the state.
func ops(list string) string {
	return `StartContainerRequest := {"allowed": true, "ops": ` + list + `}`
}

// TestAttackAnswersThatAreNoYes gives the gate every kind of answer that is not true.
func TestAttackAnswersThatAreNoYes(t *testing.T) {
	for name, rule := range map[string]string{
		"false":              `StartContainerRequest := false`,
		"null":               `StartContainerRequest := null`,
		"text":               `StartContainerRequest := "true"`,
		"number":             `StartContainerRequest := 1`,
		"set":                `StartContainerRequest contains true`,
		"list":               `StartContainerRequest := [true]`,
		"object without":     `StartContainerRequest := {"ops": []}`,
		"allowed is text":    `StartContainerRequest := {"allowed": "true"}`,
		"allowed is false":   `StartContainerRequest := {"allowed": false}`,
		"ops is no list":     ops(`1`),
		"ops elsewhere":      ops(`[{"op": "add", "path": "/agent_policy", "value": 1}]`),
		"ops on the root":    ops(`[{"op": "add", "path": "/pstate", "value": 1}]`),
		"ops through a text": ops(`[{"op": "add", "path": "/pstate/a/b", "value": 1}]`),
		"ops unknown":        ops(`[{"op": "move", "path": "/pstate/a", "from": "/pstate/b"}]`),
		"ops remove nothing": ops(`[{"op": "remove", "path": "/pstate/a"}]`),
		"too many ops":       ops(`[{"op": "add", "path": "/pstate/a", "value": i} | i := numbers.range(1, 65)[_]]`),
		"too much state":     ops(`[{"op": "add", "path": "/pstate/a", "value": numbers.range(1, 5000)}]`),
		"conflict":           `StartContainerRequest := input.container_id == x if { some x in ["", "a"] }`,
		"other package's":    `AllowRequestsFailingPolicy := true`,
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, denyAll+rule+"\n")
			ran, err := call(g, "/grpc.AgentService/StartContainer", &agent.StartContainerRequest{}, nil)
			if ran || status.Code(err) != codes.PermissionDenied {
				t.Errorf("ran %v, %v", ran, err)
			}
			if len(g.state) != 0 {
				t.Errorf("a refusal left the state %v", g.state)
			}
		})
	}
}

// TestState lets a policy remember what it allowed, as policies of Kata's generator do.
func TestState(t *testing.T) {
	g := newGate(t, `package agent_policy
CreateContainerRequest := {
	"allowed": true,
	"ops": [{"op": "add", "path": concat("", ["/pstate/", key]), "value": {"n": 1}}],
} if {
	key := replace(input.container_id, "/", "~1")
	not data.pstate[input.container_id]
}
RemoveContainerRequest := {
	"allowed": true,
	"ops": [{"op": "remove", "path": concat("/", ["/pstate", input.container_id])}],
} if {
	data.pstate[input.container_id].n == 1
}
`)
	create := func(id string) error {
		encoded, _ := proto.Marshal(&agent.CreateContainerRequest{ContainerId: id})
		_, err := call(g, "/grpc.AgentService/CreateContainer", &agent.CreateContainerRequest{}, encoded)
		return err
	}
	remove := func(id string) error {
		encoded, _ := proto.Marshal(&agent.RemoveContainerRequest{ContainerId: id})
		_, err := call(g, "/grpc.AgentService/RemoveContainer", &agent.RemoveContainerRequest{}, encoded)
		return err
	}
	if err := create("a/b"); err != nil || g.state["a/b"] == nil {
		t.Errorf("first: %v, state %v", err, g.state)
	}
	if create("a/b") == nil {
		t.Error("the same twice")
	}
	if create("c") != nil || remove("c") != nil || remove("c") == nil || create("c") != nil {
		t.Error("create and remove of c")
	}
	if g.allows(t.Context(), &agent.CreateContainerRequest{ContainerId: "d"}); g.state["d"] != nil {
		t.Error("asking beforehand changed the state")
	}
}

// TestInputNames pins how a request looks to a policy.
func TestInputNames(t *testing.T) {
	got, err := json.Marshal(messageInput((&agent.CreateContainerRequest{
		ContainerId: "c",
		OCI: &agent.Spec{Process: &agent.Process{OOMScoreAdj: -997, User: &agent.User{UID: 7}},
			Mounts: []*agent.Mount{{Destination: "/x", Type: "bind"}}, Annotations: map[string]string{"k": "v"}},
		Storages: []*agent.Storage{{FsGroup: &agent.FSGroup{GroupChangePolicy: agent.FSGroupChangePolicy_OnRootMismatch}}},
	}).ProtoReflect()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"container_id":"c"`, `"string_user":null`, `"devices":[]`, `"OOMScoreAdj":-997`, `"UID":7`, `"type":"bind"`,
		`"type_":"bind"`, `"Annotations":{"k":"v"}`, `"Hooks":null`, `"Linux":null`, `"group_change_policy":1`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	bytes := messageInput((&agent.WriteStreamRequest{Data: []byte("hi")}).ProtoReflect())
	if bytes["data"] != "aGk=" {
		t.Errorf("bytes are %v", bytes["data"])
	}
	clock := messageInput((&agent.SetGuestDateTimeRequest{Sec: 1 << 60}).ProtoReflect())
	if clock["Sec"] != json.Number("1152921504606846976") {
		t.Errorf("int64 is %v", clock["Sec"])
	}
}

// TestAttackEncoding sends bytes that are no request, or too many.
func TestAttackEncoding(t *testing.T) {
	g := newGate(t, allow("CreateContainerRequest", "WriteStreamRequest"))
	large, _ := proto.Marshal(&agent.CreateContainerRequest{ContainerId: strings.Repeat("x", maxRequest)})
	stream, _ := proto.Marshal(&agent.WriteStreamRequest{Data: make([]byte, maxRequest)})
	many := []byte(strings.Repeat("\x2a\x00", maxRequest)) // empty storages, each of which becomes a struct
	for name, c := range map[string]struct {
		request proto.Message
		encoded []byte
		want    codes.Code
	}{
		"not a message":    {&agent.CreateContainerRequest{}, []byte{0xff, 0xff}, codes.InvalidArgument},
		"wrong wire type":  {&agent.CreateContainerRequest{}, []byte{0x0a, 0x05, 'x'}, codes.InvalidArgument},
		"invalid text":     {&agent.CreateContainerRequest{}, []byte{0x0a, 0x01, 0xff}, codes.InvalidArgument},
		"too large":        {&agent.CreateContainerRequest{}, large, codes.ResourceExhausted},
		"many small parts": {&agent.CreateContainerRequest{}, many, codes.ResourceExhausted},
		"large stream":     {&agent.WriteStreamRequest{}, stream, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			ran, err := call(g, "/grpc.AgentService/X", c.request, c.encoded)
			if status.Code(err) != c.want || ran != (c.want == codes.OK) {
				t.Errorf("ran %v, %v", ran, err)
			}
		})
	}
}

// TestAttackHandlerPanics makes a handler fail: the request is refused, and the agent lives.
func TestAttackHandlerPanics(t *testing.T) {
	g := newGate(t, denyAll)
	_, err := g.Intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/X"},
		func(context.Context, func(any) error) (any, error) { panic("secret detail") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret detail") {
		t.Errorf("got %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, m := range []proto.Message{
		ordinary(nil),
		&agent.CreateSandboxRequest{Dns: []string{"nameserver 1.1.1.1"}},
	} {
		encoded, _ := proto.Marshal(m)
		f.Add(encoded)
	}
	g := newGate(f, allow("CreateContainerRequest", "UpdateInterfaceRequest", "UpdateRoutesRequest",
		"CreateSandboxRequest"))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		for _, request := range []proto.Message{
			&agent.CreateContainerRequest{}, &agent.UpdateInterfaceRequest{}, &agent.UpdateRoutesRequest{},
			&agent.CreateSandboxRequest{},
		} {
			if ran, err := call(g, "/grpc.AgentService/X", request, encoded); ran == (err != nil) {
				t.Errorf("ran %v, %v", ran, err)
			}
		}
	})
}

func BenchmarkGate(b *testing.B) {
	text, err := os.ReadFile("../boot/default-policy.rego")
	if err != nil {
		b.Fatal(err)
	}
	g := newGate(b, string(text))
	encoded, _ := proto.Marshal(&agent.ReadStreamRequest{ContainerId: "c", ExecId: "c", Len: 4096})
	b.ReportAllocs()
	for b.Loop() {
		if ran, err := call(g, "/grpc.AgentService/ReadStdout", &agent.ReadStreamRequest{}, encoded); !ran {
			b.Fatal(err)
		}
	}
}
