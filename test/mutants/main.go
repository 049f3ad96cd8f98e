// SPDX-License-Identifier: Apache-2.0

// Command mutants proves that the tests behind the invariants can fail, each for its own reason. It takes one check away at a time
// (through the go command's -overlay, the tree stays as it is), runs every test named TestAttack…, and demands that exactly the attack
// which that check holds off now succeeds, and that no other does.
//
// The table is in table.go. An entry whose text is no longer found in its file, or that no longer compiles, is an error: the table follows
// the code.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const module = "github.com/nacre-project/nacre"

// mutant is one check taken away.
type mutant struct {
	// check says in a few words what is no longer checked.
	check string
	// file is the path below the module's root; old stands in it exactly once and is replaced by new.
	file, old, new string
	// attacks are the tests that must fail then, as "room.TestAttackName" ("attest/snp.TestAttackDebugGuest").
	attacks []string
}

func main() {
	only := flag.String("run", "", "only the mutants whose check or file matches this regular expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	passed, failed, err := run(ctx, *only)
	fmt.Printf("mutants: %d passed, %d failed\n", passed, failed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) (passed, failed int, err error) {
	filter, err := regexp.Compile(only)
	if err != nil {
		return 0, 0, err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return 0, 0, err
	}
	rooms, err := attackRooms(ctx, root)
	if err != nil {
		return 0, 0, err
	}
	fmt.Printf("mutants: all attacks fail against the code as it is? (%d rooms)\n", len(rooms))
	succeeded, ran, err := attack(ctx, root, "", names(rooms))
	if err != nil {
		return 0, 0, err
	}
	if len(succeeded) > 0 {
		return 0, 0, fmt.Errorf("attacks succeed without any mutant: %s", strings.Join(succeeded, ", "))
	}
	known := map[string]bool{}
	for _, name := range ran {
		known[name] = true
	}
	for _, m := range table {
		if ctx.Err() != nil {
			return passed, failed, ctx.Err()
		}
		if !filter.MatchString(m.check) && !filter.MatchString(m.file) {
			continue
		}
		start := time.Now()
		verdict := try(ctx, root, rooms, known, m)
		mark := "ok  "
		if verdict != nil {
			mark = "FAIL"
			failed++
		} else {
			passed++
		}
		fmt.Printf("%s %-58s %5.1fs  %s\n", mark, m.check, time.Since(start).Seconds(), strings.Join(m.attacks, ", "))
		if verdict != nil {
			fmt.Printf("     %v\n", verdict)
		}
	}
	return passed, failed, nil
}

// try applies one mutant and says what went other than it should, nil when exactly its attacks succeeded.
func try(ctx context.Context, root string, rooms []room, known map[string]bool, m mutant) error {
	for _, a := range m.attacks {
		if !known[a] {
			return fmt.Errorf("the table names the attack %s, which no test bears", a)
		}
	}
	path := filepath.Join(root, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return fmt.Errorf("the text to take away stands %d times in %s, want once", n, m.file)
	}
	dir, err := os.MkdirTemp("", "nacre-mutant-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mutated := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(mutated, bytes.Replace(text, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		return err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return err
	}
	changed := module + "/" + filepath.ToSlash(filepath.Dir(m.file))
	var touched []string
	for _, r := range rooms {
		if r.path == changed || slices.Contains(r.deps, changed) {
			touched = append(touched, r.path)
		}
	}
	succeeded, _, err := attack(ctx, root, overlayFile, touched)
	if err != nil {
		return err
	}
	want := slices.Clone(m.attacks)
	slices.Sort(want)
	if !slices.Equal(succeeded, want) {
		return fmt.Errorf("attacks that succeed: [%s], want exactly [%s]", strings.Join(succeeded, ", "), strings.Join(want, ", "))
	}
	return nil
}

// room is a package that holds attacks, with all that its tests link.
type room struct {
	path string
	deps []string
}

func names(rooms []room) []string {
	out := make([]string, len(rooms))
	for i, r := range rooms {
		out[i] = r.path
	}
	return out
}

var attackFunc = regexp.MustCompile(`(?m)^func TestAttack`)

// attackRooms finds the packages whose test files hold a TestAttack function.
func attackRooms(ctx context.Context, root string) ([]room, error) {
	out, err := goTool(ctx, root, "list", "-test", "-json=ImportPath,ForTest,Dir,Deps,TestGoFiles,XTestGoFiles", "./...")
	if err != nil {
		return nil, err
	}
	type listed struct {
		ImportPath, ForTest, Dir  string
		Deps                      []string
		TestGoFiles, XTestGoFiles []string
	}
	holds := map[string]bool{}
	deps := map[string][]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if binary, isTest := strings.CutSuffix(p.ImportPath, ".test"); isTest {
			for _, d := range p.Deps {
				d, _, _ = strings.Cut(d, " ")
				deps[binary] = append(deps[binary], d)
			}
			continue
		}
		if p.ForTest != "" {
			continue
		}
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				return nil, err
			}
			if attackFunc.Match(text) {
				holds[p.ImportPath] = true
			}
		}
	}
	var rooms []room
	for path := range holds {
		rooms = append(rooms, room{path, deps[path]})
	}
	slices.SortFunc(rooms, func(a, b room) int { return strings.Compare(a.path, b.path) })
	if len(rooms) == 0 {
		return nil, errors.New("no package holds a TestAttack function")
	}
	return rooms, nil
}

// attack runs the attacks of the packages and returns which succeeded (their tests failed) and which ran, sorted, as "room.TestAttackName".
func attack(ctx context.Context, root, overlay string, packages []string) (succeeded, ran []string, err error) {
	args := []string{"test", "-short", "-json", "-run", "^TestAttack"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir = root
	out, runErr := cmd.Output()
	type event struct{ Action, Package, Test, Output string }
	var broken strings.Builder
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			break
		}
		if e.Action == "build-fail" || e.Action == "build-output" {
			broken.WriteString(e.Output)
		}
		if e.Test == "" || strings.Contains(e.Test, "/") {
			continue
		}
		name := strings.TrimPrefix(e.Package, module+"/") + "." + e.Test
		switch e.Action {
		case "fail":
			succeeded = append(succeeded, name)
			ran = append(ran, name)
		case "pass":
			ran = append(ran, name)
		}
	}
	if broken.Len() > 0 {
		return nil, nil, fmt.Errorf("does not compile:\n%s", broken.String())
	}
	if runErr != nil && len(succeeded) == 0 {
		return nil, nil, fmt.Errorf("go test: %w\n%s", runErr, out)
	}
	slices.Sort(succeeded)
	slices.Sort(ran)
	return succeeded, ran, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := goTool(ctx, ".", "list", "-m", "-f", "{{.Dir}}")
	return strings.TrimSpace(string(out)), err
}

func goTool(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.String())
	}
	return out, nil
}
