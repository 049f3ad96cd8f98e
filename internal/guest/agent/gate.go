// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/policy"
)

// policyPackage is the Rego package of agent policies.
const policyPackage = "data.agent_policy."

// ungated are the methods that no policy is asked about: they tell whether the agent is there and which protocol it
// speaks, take nothing and change nothing. Every other method that exists or will exist is gated.
var ungated = map[string]bool{
	"/grpc.Health/Check":   true,
	"/grpc.Health/Version": true,
}

// Limits of one encoded request. Decoding multiplies the size of messages that are made of many small parts, so only
// those that carry one run of bytes may be as large as ttrpc allows.
const (
	maxRequest       = 512 << 10
	maxStreamRequest = 4 << 20
	maxCopyRequest   = 2 << 20 // hosts copy 1 MiB at a time
)

// Gate stands between the host's requests and their handlers: as the server's interceptor it decides every one of
// them, in one place, by the agent policy.
type Gate struct {
	policy *policy.Policy
	log    *slog.Logger

	deciding sync.Mutex // a decision sees the state that the one before it left

	mu    sync.Mutex
	state map[string]any
}

// NewGate compiles the agent policy. It is prepared for the requests of the agent service and no others.
func NewGate(ctx context.Context, rego string, log *slog.Logger) (*Gate, error) {
	p, err := policy.Compile(ctx, rego, policy.Options{Queries: queries()})
	if err != nil {
		return nil, fmt.Errorf("agent policy: %w", err)
	}
	return &Gate{policy: p, log: log, state: map[string]any{}}, nil
}

// PolicyDigest is the hex SHA-256 of the policy's text.
func (g *Gate) PolicyDigest() string { return g.policy.Digest() }

// queries are the rules of all requests of the agent service.
func queries() []string {
	seen := make(map[protoreflect.Name]bool)
	var rules []string
	methods := agent.File_api_agent_agent_proto.Services().ByName("AgentService").Methods()
	for i := range methods.Len() {
		if name := methods.Get(i).Input().Name(); !seen[name] {
			seen[name] = true
			rules = append(rules, policyPackage+string(name))
		}
	}
	return rules
}

// Intercept is the ttrpc server's interceptor. The generated handlers ask for their request message through the
// function that is handed to them; this is where the request is decided, so that no handler can run without.
func (g *Gate) Intercept(
	ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method,
) (answer any, err error) {
	defer func() {
		if r := recover(); r != nil {
			g.log.Error("a request made the agent fail", "method", info.FullMethod, "panic", fmt.Sprint(r))
			g.log.Debug("the failure's trace", "trace", string(debug.Stack()))
			answer, err = nil, status.Errorf(codes.Internal, "%s failed in the guest", info.FullMethod)
		}
	}()
	return method(ctx, func(target any) error {
		request, ok := target.(proto.Message)
		if !ok {
			return status.Errorf(codes.Internal, "%s takes no message", info.FullMethod)
		}
		if err := decodeLimited(decode, request); err != nil {
			return err
		}
		if ungated[info.FullMethod] {
			return nil
		}
		return g.decide(ctx, request)
	})
}

// decodeLimited decodes a request after its size was checked. The bytes reach us only through decode, and come out
// whole when they are decoded as a message that knows no fields.
func decodeLimited(decode ttrpc.Unmarshaler, request proto.Message) error {
	var raw emptypb.Empty
	if err := decode(&raw); err != nil {
		return status.Error(codes.InvalidArgument, "the request is not a protocol buffer")
	}
	encoded := raw.ProtoReflect().GetUnknown()
	limit := maxRequest
	switch request.(type) {
	case *agent.WriteStreamRequest:
		limit = maxStreamRequest
	case *agent.CopyFileRequest:
		limit = maxCopyRequest
	}
	name := request.ProtoReflect().Descriptor().Name()
	if len(encoded) > limit {
		return status.Errorf(codes.ResourceExhausted, "%s of %d bytes, at most %d are taken", name, len(encoded), limit)
	}
	if err := proto.Unmarshal(encoded, request); err != nil {
		return status.Errorf(codes.InvalidArgument, "decoding %s: it is not one", name)
	}
	return nil
}

// decide asks the policy; nil is a yes.
func (g *Gate) decide(ctx context.Context, request proto.Message) error {
	name := string(request.ProtoReflect().Descriptor().Name())
	g.deciding.Lock()
	defer g.deciding.Unlock()
	state, why := g.ask(ctx, name, request)
	if why == nil {
		g.mu.Lock()
		g.state = state
		g.mu.Unlock()
		return nil
	}
	g.log.Warn("blocked by policy", "request", name, "reason", why)
	return status.Errorf(codes.PermissionDenied, "%s is blocked by policy: %v", name, why)
}

// allows says whether the policy would say yes to a request now; its state stays as it is.
func (g *Gate) allows(ctx context.Context, request proto.Message) bool {
	_, err := g.ask(ctx, string(request.ProtoReflect().Descriptor().Name()), request)
	return err == nil
}

// ask returns the state that the policy's yes leaves, and an error that says why when it is no yes.
func (g *Gate) ask(ctx context.Context, name string, request proto.Message) (map[string]any, error) {
	rule := policyPackage + name
	g.mu.Lock()
	state := g.state // never changed, only replaced
	g.mu.Unlock()
	value, err := g.policy.Eval(ctx, rule, policy.Input{
		Input: requestInput(request),
		Data:  map[string]any{stateName: state},
	})
	if err != nil {
		g.log.Warn("the policy could not be evaluated", "rule", rule, "error", err)
		return nil, fmt.Errorf("%s could not be evaluated", rule)
	}
	if !value.Defined() {
		return nil, fmt.Errorf("%s is undefined", rule)
	}
	if allowed, ok := value.Bool(); ok {
		if !allowed {
			return nil, fmt.Errorf("%s is false", rule)
		}
		return state, nil
	}
	if state, err = metadata(state, value); err != nil {
		return nil, fmt.Errorf("%s: %w", rule, err)
	}
	return state, nil
}

// stateName is the name below data under which a policy finds what its own answers have left.
const stateName = "pstate"

// Limits of what a policy can make the agent keep.
const (
	maxOps       = 64   // operations in one answer
	maxStateKeys = 4096 // members of all objects of the state together
	maxDepth     = 8    // path elements
)

// metadata reads an answer of the form {"allowed": bool, "ops": [JSON patch operations on /pstate]}, which policies
// of Kata's generator give, and returns the state after the operations.
func metadata(state map[string]any, value policy.Value) (map[string]any, error) {
	answer, err := value.JSON()
	if err != nil {
		return nil, err
	}
	object, ok := answer.(map[string]any)
	if !ok {
		return nil, errors.New("the answer is neither a boolean nor an object")
	}
	if allowed, ok := object["allowed"].(bool); !ok || !allowed {
		return nil, refusal(object["reasons"])
	}
	ops, ok := object["ops"].([]any)
	if !ok && object["ops"] != nil {
		return nil, errors.New("ops is not a list")
	}
	if len(ops) > maxOps {
		return nil, fmt.Errorf("%d state operations, at most %d are done", len(ops), maxOps)
	}
	state = copyObject(state)
	for _, op := range ops {
		if err := applyOp(state, op); err != nil {
			return nil, err
		}
	}
	if n := countKeys(state); n > maxStateKeys {
		return nil, fmt.Errorf("the state would have %d entries, at most %d are kept", n, maxStateKeys)
	}
	return state, nil
}

// refusal says why an answer does not allow: by its member "reasons", a list of texts that name fields, where it has one.
func refusal(reasons any) error {
	const most, longest = 8, 200
	list, _ := reasons.([]any)
	var texts []string
	for _, reason := range list[:min(len(list), most)] {
		if text, ok := reason.(string); ok {
			texts = append(texts, strings.Trim(fmt.Sprintf("%.*q", longest, text), `"`)) // one line, whatever is in it
		}
	}
	if len(texts) == 0 {
		return errors.New("allowed is not true")
	}
	return errors.New(strings.Join(texts, "; "))
}

// applyOp does one operation of RFC 6902: add, replace or remove of an object's member.
func applyOp(state map[string]any, op any) error {
	fields, _ := op.(map[string]any)
	kind, _ := fields["op"].(string)
	path, _ := fields["path"].(string)
	rest, ok := strings.CutPrefix(path, "/"+stateName+"/")
	if !ok {
		return fmt.Errorf("state operation on %q, which is not below /%s", path, stateName)
	}
	elements := strings.Split(rest, "/")
	if len(elements) > maxDepth {
		return fmt.Errorf("state operation on a path of %d elements, at most %d are followed", len(elements), maxDepth)
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~") // RFC 6901 section 4
	for i, e := range elements {
		elements[i] = unescape.Replace(e)
	}
	parent := state
	for _, e := range elements[:len(elements)-1] {
		next, ok := parent[e].(map[string]any)
		if !ok {
			return fmt.Errorf("state operation on %q: %q is not an object", path, e)
		}
		parent = next
	}
	last := elements[len(elements)-1]
	_, exists := parent[last]
	switch {
	case kind == "add", kind == "replace" && exists:
		parent[last] = fields["value"]
	case kind == "remove" && exists:
		delete(parent, last)
	default:
		return fmt.Errorf("state operation %q on %q cannot be done", kind, path)
	}
	return nil
}

// copyObject copies the objects of a tree; what else is in it is never changed.
func copyObject(m map[string]any) map[string]any {
	c := make(map[string]any, len(m))
	for k, v := range m {
		if o, ok := v.(map[string]any); ok {
			v = copyObject(o)
		}
		c[k] = v
	}
	return c
}

func countKeys(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, e := range v {
			n += countKeys(e)
		}
	case []any:
		n = len(v)
		for _, e := range v {
			n += countKeys(e)
		}
	}
	return n
}
