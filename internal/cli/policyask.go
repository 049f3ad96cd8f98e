// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/initdata"
	guest "github.com/nacre-project/nacre/internal/guest/agent"
	"github.com/nacre-project/nacre/internal/policygen"
)

// question is a request of a host and what is expected of a policy, as files have it.
type question struct {
	Request string          `json:"request"` // the message's name, such as CreateContainerRequest
	Message json.RawMessage `json:"message"` // its fields, as in the .proto file
	Allowed bool            `json:"allowed"`
	Reason  string          `json:"reason"` // what a refusal has to mention; may be empty
}

func readQuestion(path string) (question, proto.Message, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return question{}, nil, err
	}
	var q question
	if err := json.Unmarshal(text, &q); err != nil {
		return question{}, nil, fmt.Errorf("%s: %w; want {\"request\": NAME, \"message\": {…}, \"allowed\": true}", path, err)
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(agent.File_api_agent_agent_proto.Package().Append(protoreflect.Name(q.Request)))
	if err != nil || !protoreflect.Name(q.Request).IsValid() {
		return question{}, nil, fmt.Errorf("%s: there is no request %q", path, q.Request)
	}
	message := kind.New().Interface()
	if len(q.Message) > 0 {
		if err := protojson.Unmarshal(q.Message, message); err != nil {
			return question{}, nil, fmt.Errorf("%s: reading the message: %w", path, err)
		}
	}
	return q, message, nil
}

// refusedBy puts a request to a guest's gate and returns its refusal, empty when it allows.
func refusedBy(ctx context.Context, gate *guest.Gate, message proto.Message) (string, error) {
	encoded, err := proto.Marshal(message)
	if err != nil {
		return "", err
	}
	decode := func(target any) error { return proto.Unmarshal(encoded, target.(proto.Message)) }
	_, err = gate.Intercept(ctx, decode, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService"},
		func(_ context.Context, decode func(any) error) (any, error) {
			return nil, decode(message.ProtoReflect().New().Interface())
		})
	if status.Code(err) == codes.PermissionDenied {
		return status.Convert(err).Message(), nil
	}
	return "", err
}

func openGate(ctx context.Context, path string) (*guest.Gate, error) {
	text, err := readPolicy(path)
	if err != nil {
		return nil, err
	}
	gate, err := guest.NewGate(ctx, text, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return gate, nil
}

// readPolicy reads an agent policy: Rego, or the one in init-data or in the annotation of the only pod template of a manifest.
func readPolicy(path string) (string, error) {
	text, err := readManifest(path)
	if err != nil {
		return "", err
	}
	if strings.Contains(string(text), "package agent_policy") && filepath.Ext(path) == ".rego" {
		return string(text), nil
	}
	data, err := initdata.Parse(text)
	if err != nil {
		m, noManifest := policygen.Read(text)
		if noManifest != nil || len(m.Templates) != 1 {
			return "", fmt.Errorf("%s is no policy: want a .rego file, init-data, or a manifest with one pod template", path)
		}
		raw, err := initdata.DecodeAnnotation(m.Templates[0].Pod.Annotations[initdata.Annotation])
		if err != nil {
			return "", fmt.Errorf("%s: %w; write the annotation with `nacre policy generate`", path, err)
		}
		if data, err = initdata.Parse(raw); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	if data.Files[initdata.AgentPolicy] == "" {
		return "", fmt.Errorf("%s: the init-data has no %s", path, initdata.AgentPolicy)
	}
	return data.Files[initdata.AgentPolicy], nil
}

func newPolicyTest() *cobra.Command {
	var policyFile string
	c := &cobra.Command{
		Use:   "test DIR --policy FILE",
		Short: "Put the requests in a directory to a policy, and compare the verdicts with what they expect",
		Long: `test puts the requests in the *.json files of a directory to a policy, in the order of their names, as the guest that has it would see them one after the
other. A file has {"request": "CreateContainerRequest", "message": {…}, "allowed": false, "reason": "OCI.Process.Args"}: fields as in the agent's .proto
file; reason, which may be left out, is what the refusal has to mention.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			gate, err := openGate(c.Context(), policyFile)
			if err != nil {
				return err
			}
			files, err := filepath.Glob(filepath.Join(args[0], "*.json"))
			if err != nil || len(files) == 0 {
				return fmt.Errorf("%s has no requests (*.json)", args[0])
			}
			failed := 0
			for _, path := range files {
				q, message, err := readQuestion(path)
				if err != nil {
					return err
				}
				refusal, err := refusedBy(c.Context(), gate, message)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				verdict := "ok"
				if (refusal == "") != q.Allowed || !strings.Contains(refusal, q.Reason) {
					failed++
					verdict = "WRONG"
				}
				if refusal == "" {
					refusal = "allowed"
				}
				fmt.Fprintf(c.OutOrStdout(), "%-5s %s: %s\n", verdict, filepath.Base(path), refusal)
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d verdicts are not as expected", failed, len(files))
			}
			return nil
		},
	}
	return withPolicy(c, &policyFile)
}

func newPolicyExplain() *cobra.Command {
	var policyFile string
	c := &cobra.Command{
		Use:   "explain REQUEST.json --policy FILE",
		Short: "Say whether a policy allows a request, and if not which field of it is refused",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			gate, err := openGate(c.Context(), policyFile)
			if err != nil {
				return err
			}
			q, message, err := readQuestion(args[0])
			if err != nil {
				return err
			}
			refusal, err := refusedBy(c.Context(), gate, message)
			if err != nil {
				return err
			}
			if refusal == "" {
				refusal = fmt.Sprintf("%s is allowed by data.agent_policy.%s", q.Request, q.Request)
			}
			fmt.Fprintln(c.OutOrStdout(), strings.ReplaceAll(refusal, "; ", "\n  "))
			return nil
		},
	}
	return withPolicy(c, &policyFile)
}

func withPolicy(c *cobra.Command, file *string) *cobra.Command {
	c.Flags().StringVar(file, "policy", "", "the policy: Rego, init-data, or a manifest with its annotation")
	if err := c.MarkFlagRequired("policy"); err != nil {
		panic(err) // the flag is defined on the line above
	}
	return c
}

func newPolicyDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say what a policy allows that another did not, and what it no longer does",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			var facts [2]map[string]bool
			var rules [2]string
			for i, path := range args {
				text, err := readPolicy(path)
				if err != nil {
					return err
				}
				if facts[i], rules[i], err = policyFacts(text); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			differences := 0
			show := func(title string, these, others map[string]bool) {
				for _, fact := range slices.Sorted(maps.Keys(these)) {
					if !others[fact] {
						differences++
						fmt.Fprintf(c.OutOrStdout(), "%s %s\n", title, fact)
					}
				}
			}
			show("no longer:", facts[0], facts[1])
			show("now:      ", facts[1], facts[0])
			if rules[0] != rules[1] {
				fmt.Fprintln(c.OutOrStdout(), "the rules differ, not only their data: read them")
			} else if differences == 0 {
				fmt.Fprintln(c.OutOrStdout(), "no difference")
			}
			return nil
		},
	}
}

// policyFacts are the leaves of a policy's data, one a line, and the rules before it.
func policyFacts(text string) (facts map[string]bool, rules string, err error) {
	at := strings.LastIndex(text, "policy_data := {")
	if at < 0 {
		return nil, "", errors.New("the policy has no policy_data; compare its text")
	}
	var data any
	d := json.NewDecoder(strings.NewReader(text[at+len("policy_data := "):]))
	d.UseNumber()
	if err := d.Decode(&data); err != nil {
		return nil, "", fmt.Errorf("reading policy_data: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, "", errors.New("reading policy_data: there is more after it")
	}
	facts = map[string]bool{}
	flatten(data, "", facts)
	return facts, text[:at], nil
}

// flatten names the leaves of a tree. Containers go by their name, other elements of lists by what they are.
func flatten(v any, path string, facts map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			flatten(value, strings.TrimPrefix(path+"."+key, "."), facts)
		}
	case []any:
		for i, value := range v {
			object, _ := value.(map[string]any)
			switch label := named(object); {
			case label != "":
				flatten(value, fmt.Sprintf("%s[%s]", path, label), facts)
			case strings.HasSuffix(path, "Args"), object != nil:
				flatten(value, fmt.Sprintf("%s[%d]", path, i), facts)
			default:
				flatten(value, path+"[]", facts)
			}
		}
	default:
		text, err := json.Marshal(v)
		if err == nil {
			facts[path+" = "+string(text)] = true
		}
	}
}

// named is what an object of a policy's data goes by.
func named(object map[string]any) string {
	for _, key := range []string{"name", "destination", "path", "mount_point"} {
		if s, ok := object[key].(string); ok {
			return s
		}
	}
	return ""
}
