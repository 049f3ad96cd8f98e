// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
)

// sources parses the package, tests and all.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = file
	}
	return files
}

// limits are the constants of the package that cap something, with their values as they are written, and the names of its
// tests.
func limits(t *testing.T, files map[string]*ast.File) (values map[string]string, tests map[string]bool) {
	t.Helper()
	values, tests = map[string]string{}, map[string]bool{}
	for name, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if strings.HasSuffix(name, "_test.go") {
					tests[n.Name.Name] = true
				}
			case *ast.ValueSpec:
				for i, id := range n.Names {
					if !strings.HasPrefix(id.Name, "max") || i >= len(n.Values) || strings.HasSuffix(name, "_test.go") {
						continue
					}
					var text strings.Builder
					if err := printer.Fprint(&text, token.NewFileSet(), n.Values[i]); err != nil {
						t.Fatal(err)
					}
					values[id.Name] = strings.ReplaceAll(text.String(), " ", "")
				}
			}
			return true
		})
	}
	return values, tests
}

// TestTableOfCaps compares the table in the package's comment with the code: every cap stands there with its value, and
// with a test that there is.
func TestTableOfCaps(t *testing.T) {
	files := sources(t)
	values, tests := limits(t, files)
	for line := range strings.Lines(files["doc.go"].Doc.Text()) {
		words := strings.Fields(line)
		if !strings.HasPrefix(line, "\tmax") || len(words) < 4 {
			continue
		}
		name, value, test := words[0], words[1], words[2]
		if values[name] != value {
			t.Errorf("%s is %q in the table and %q in the code", name, value, values[name])
		}
		if !tests[test] {
			t.Errorf("%s: there is no test %s", name, test)
		}
		delete(values, name)
	}
	for name, value := range values {
		t.Errorf("%s = %s does not stand in the table", name, value)
	}
}

// TestAttackCaps asks for one more than there may be.
func TestAttackCaps(t *testing.T) {
	repeat := func(n int, text string) []string { return slices.Repeat([]string{text}, n) }
	for name, c := range map[string]struct {
		attack func(a *Agent) error
		want   codes.Code
	}{
		"containers": {func(a *Agent) error {
			a.sandbox = &sandbox{}
			for i := range maxContainers {
				a.containers[fmt.Sprint(i)] = &container{}
			}
			_, _, err := a.reserve(&agent.CreateContainerRequest{ContainerId: "more"}, nil)
			return err
		}, codes.ResourceExhausted},
		"processes": {func(*Agent) error {
			c := &container{processes: map[string]*process{}}
			for i := range maxProcesses {
				if err := c.add(fmt.Sprint(i), &process{exited: make(chan struct{})}); err != nil {
					t.Fatal(err)
				}
			}
			return c.add("more", &process{})
		}, codes.ResourceExhausted},
		"mounts": {func(a *Agent) error {
			return second(a.mounts("c1", make([]*agent.Mount, maxMounts+1)))
		}, codes.InvalidArgument},
		"masked paths": {func(*Agent) error {
			return second(paths(nil, repeat(maxMounts+1, "/proc/x")))
		}, codes.InvalidArgument},
		"volumes": {func(a *Agent) error {
			for i := range maxVolumes {
				a.volumes[filepath.Join(a.Dir, sandboxDir, fmt.Sprint(i))] = true
			}
			return a.addVolume(&agent.Storage{Driver: driverLocal, MountPoint: filepath.Join(a.Dir, sandboxDir, "more")})
		}, codes.InvalidArgument},
		"processes in a group": {func(*Agent) error {
			limits, err := resources(&agent.LinuxResources{Pids: &agent.LinuxPids{Limit: maxPids + 1}})
			if err != nil {
				t.Fatal(err)
			}
			if *limits.Pids.Limit > maxPids {
				return nil
			}
			return invalid("capped")
		}, codes.InvalidArgument},
		"routes": {func(a *Agent) error {
			return second(a.UpdateRoutes(t.Context(), &agent.UpdateRoutesRequest{
				Routes: &agent.Routes{Routes: make([]*agent.Route, maxRoutes+1)},
			}))
		}, codes.InvalidArgument},
		"addresses": {func(*Agent) error {
			return second(parseInterface(goodInterface(func(i *agent.Interface) {
				i.IPAddresses = slices.Repeat(i.IPAddresses[:1], maxAddresses+1)
			})))
		}, codes.InvalidArgument},
		"packet size": {func(*Agent) error {
			return second(parseInterface(goodInterface(func(i *agent.Interface) { i.Mtu = maxMTU + 1 })))
		}, codes.InvalidArgument},
		"lines of DNS": {func(*Agent) error {
			return second(resolverFile(repeat(maxDNSLines+1, "#")))
		}, codes.InvalidArgument},
		"name servers": {func(*Agent) error {
			return second(resolverFile(repeat(maxNameServers+1, "nameserver 10.0.2.3")))
		}, codes.InvalidArgument},
		"search domains": {func(*Agent) error {
			return second(resolverFile([]string{"search" + strings.Repeat(" a.example", maxSearch+1)}))
		}, codes.InvalidArgument},
		"signals": {func(a *Agent) error {
			return second(a.SignalProcess(t.Context(), &agent.SignalProcessRequest{Signal: 65}))
		}, codes.InvalidArgument},
		"a request that copies": {func(*Agent) error {
			encoded, err := proto.Marshal(&agent.CopyFileRequest{Data: make([]byte, maxCopyRequest)})
			if err != nil {
				t.Fatal(err)
			}
			return decodeLimited(func(target any) error { return proto.Unmarshal(encoded, target.(proto.Message)) },
				&agent.CopyFileRequest{})
		}, codes.ResourceExhausted},
		"the depth of a policy's state": {func(*Agent) error {
			state := map[string]any{}
			for i := range maxDepth + 1 {
				path := "/" + stateName + strings.Repeat("/x", i+1)
				err := applyOp(state, map[string]any{"op": "add", "path": path, "value": map[string]any{}})
				if err != nil {
					return invalid("%v", err)
				}
			}
			return nil
		}, codes.InvalidArgument},
		"a control group's file": {func(*Agent) error {
			g := &groupReader{dir: makeGroup(t, map[string]string{"x": strings.Repeat("x", 2*maxGroupFile)})}
			if len(g.text("x")) > maxGroupFile {
				return nil
			}
			return invalid("capped")
		}, codes.InvalidArgument},
		"the runtime's log": {func(*Agent) error {
			line := `{"level":"error","msg":"late"}` + "\n"
			dir := makeGroup(t, map[string]string{"log": strings.Repeat("\n", maxRuntimeLog) + line})
			if lastLogError(filepath.Join(dir, "log")) != "" {
				return nil
			}
			return invalid("capped")
		}, codes.InvalidArgument},
		"an image's users": {func(*Agent) error {
			dir := makeGroup(t, nil)
			if err := os.Mkdir(filepath.Join(dir, "etc"), 0o700); err != nil {
				t.Fatal(err)
			}
			late := strings.Repeat("#\n", maxUserFile/2) + "late:x:7:7::/:\n"
			if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(late), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := imageUser(dir, "late"); err == nil {
				return nil
			}
			return invalid("capped")
		}, codes.InvalidArgument},
		"an error's text": {func(*Agent) error {
			if len(clip(strings.Repeat("x", 2*maxErrorText))) > maxErrorText+len("…") {
				return nil
			}
			return invalid("capped")
		}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.attack(testAgent(t)); status.Code(err) != c.want {
				t.Errorf("%v", err)
			}
		})
	}
}
