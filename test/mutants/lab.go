// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

const module = "github.com/nacre-project/nacre"

// keysVariable names the directory in which package test/machine keeps keys. They take seconds to make and are no part of any check, so
// all runs have the same. Who sets it has the go command remember the results of attacks that nothing has changed for.
const keysVariable = "NACRE_TEST_PLATFORMS"

// timeout ends a package's attacks; unmutated, none takes a tenth of it.
const timeout = "120s"

// lab knows the module's attacks and who links what.
type lab struct {
	root    string // the module's
	scratch string // a directory of the lab's own
	keys    string // where simulated platforms keep their keys
	rooms   []room
	owners  []string // directories that are packages, below the root
	attacks map[string]bool
}

// room is a package that holds attacks, with all that its tests link, and what of it they come by.
type room struct {
	path    string
	deps    map[string]bool
	reached reach
}

// openLab finds the attacks, makes sure that all of them fail against the code as it is, and notes what they come by. It runs some
// packages at a time.
func openLab(ctx context.Context, jobs int) (*lab, error) {
	l := &lab{attacks: map[string]bool{}}
	var err error
	if l.scratch, err = os.MkdirTemp("", "nacre-mutants-"); err != nil {
		return nil, err
	}
	if l.keys = os.Getenv(keysVariable); l.keys == "" {
		l.keys = filepath.Join(l.scratch, "platforms")
	}
	out, err := l.goTool(ctx, "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	l.root = strings.TrimSpace(string(out))
	if err := l.findRooms(ctx); err != nil {
		return nil, errors.Join(err, l.close())
	}
	outcomes, err := l.attackAll(ctx, jobs)
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	var rooms []room
	for i, o := range outcomes {
		if len(o.succeeded) > 0 {
			err := fmt.Errorf("attacks succeed without any mutant: %s", strings.Join(o.succeeded, "; "))
			return nil, errors.Join(err, l.close())
		}
		for _, name := range o.ran {
			l.attacks[name] = true
		}
		// A package all of whose attacks were skipped, as those that boot machines are in a short run, is not asked again.
		if len(o.ran) > 0 {
			rooms = append(rooms, l.rooms[i])
		}
	}
	l.rooms = rooms
	return l, nil
}

// attackAll runs all attacks against the code as it is, package by package, and notes what they come by.
func (l *lab) attackAll(ctx context.Context, jobs int) ([]outcome, error) {
	outcomes := make([]outcome, len(l.rooms))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for i := range l.rooms {
		group.Go(func() (err error) {
			r := &l.rooms[i]
			profile := filepath.Join(l.scratch, fmt.Sprintf("reached-%d", i))
			var ours []string
			for d := range r.deps {
				if strings.HasPrefix(d, module+"/") {
					ours = append(ours, d)
				}
			}
			slices.Sort(ours)
			outcomes[i], err = l.attack(ctx, r.path, "-coverprofile="+profile, "-coverpkg="+strings.Join(ours, ","))
			if err == nil {
				r.reached, err = readReach(profile)
			}
			return err
		})
	}
	return outcomes, group.Wait()
}

func (l *lab) close() error { return os.RemoveAll(l.scratch) }

// try applies one mutant and says what went other than it should, nil when exactly its attacks succeeded.
func (l *lab) try(ctx context.Context, m mutant) error {
	want, err := l.expand(m.attacks)
	if err != nil {
		return err
	}
	file := filepath.Join(l.root, m.file)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return fmt.Errorf("the text to take away stands there %d times, want once: %s", n, m.old)
	}
	dir, err := os.MkdirTemp(l.scratch, "mutant-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mutated := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(mutated, bytes.Replace(text, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: mutated}})
	if err != nil {
		return err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return err
	}
	touched, err := l.touched(m.file, text, bytes.Index(text, []byte(m.old)))
	if err != nil {
		return err
	}
	o, err := l.attack(ctx, touched, "-overlay="+overlayFile)
	if c, ok := errors.AsType[*crash](err); m.crash && ok && (c.attack == want[0] || strings.HasPrefix(want[0], c.attack+"/")) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.crash {
		return errors.New("no attack ends the process")
	}
	return difference(o.succeeded, want)
}

// touched lists the packages whose attacks may notice a change at an offset of a file: those that link its package, but for those that
// never come by the function in which it is.
func (l *lab) touched(file string, text []byte, offset int) (string, error) {
	changed := l.owner(file)
	var linking, coming []string
	first, last := enclosing(file, text, offset)
	for _, r := range l.rooms {
		if r.deps[changed] {
			linking = append(linking, r.path)
			if r.reached.comesBy(module+"/"+file, first, last) {
				coming = append(coming, r.path)
			}
		}
	}
	if len(linking) == 0 {
		return "", fmt.Errorf("no attack links %s", changed)
	}
	// What runs in a process of its own leaves no trace. So it is with what nobody comes by, and with this package, whose child is the
	// same program again.
	if len(coming) == 0 || changed == module+"/internal/guest/unpack" {
		coming = linking
	}
	return strings.Join(coming, " "), nil
}

// expand replaces the names that have a "*" in them by the attacks that they stand for.
func (l *lab) expand(names []string) ([]string, error) {
	var all []string
	for _, name := range names {
		before := len(all)
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(name), `\*`, ".*") + "$")
		for attack := range l.attacks {
			if pattern.MatchString(attack) && !slices.Contains(all, attack) {
				all = append(all, attack)
			}
		}
		if len(all) == before {
			return nil, fmt.Errorf("the table names the attack %s, which no test bears", name)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the table names no attack")
	}
	return all, nil
}

// untried lists the attacks that no mutant names.
func (l *lab) untried(table []mutant) []string {
	left := maps.Clone(l.attacks)
	for _, m := range table {
		named, _ := l.expand(m.attacks)
		for _, name := range named {
			delete(left, name)
		}
	}
	return slices.Sorted(maps.Keys(left))
}

// difference says which attacks succeed that should not, and the other way round; nil when the two are the same.
func difference(got, want []string) error {
	var errs []error
	for _, name := range got {
		if !slices.Contains(want, name) {
			errs = append(errs, fmt.Errorf("succeeds too: %s", name))
		}
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			errs = append(errs, fmt.Errorf("still fails: %s", name))
		}
	}
	return errors.Join(errs...)
}

// owner is the package that a file belongs to; one that is embedded may lie below its package's directory.
func (l *lab) owner(file string) string {
	dir := path.Dir(file)
	for dir != "." && !slices.Contains(l.owners, dir) {
		dir = path.Dir(dir)
	}
	return module + "/" + dir
}

var attackFunc = regexp.MustCompile(`(?m)^func TestAttack`)

// findRooms finds the packages whose test files hold a TestAttack function.
func (l *lab) findRooms(ctx context.Context) error {
	out, err := l.goTool(ctx, "list", "-test", "-json=ImportPath,ForTest,Dir,Deps,TestGoFiles,XTestGoFiles", "./...")
	if err != nil {
		return err
	}
	type listed struct {
		ImportPath, ForTest, Dir  string
		Deps                      []string
		TestGoFiles, XTestGoFiles []string
	}
	var holds []string
	deps := map[string]map[string]bool{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if binary, isTest := strings.CutSuffix(p.ImportPath, ".test"); isTest {
			deps[binary] = map[string]bool{}
			for _, d := range p.Deps {
				d, _, _ = strings.Cut(d, " ") // "path [path.test]" is a package built for a test
				deps[binary][d] = true
			}
			continue
		}
		if p.ForTest != "" {
			continue
		}
		l.owners = append(l.owners, strings.TrimPrefix(p.ImportPath, module+"/"))
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				return err
			}
			if attackFunc.Match(text) {
				holds = append(holds, p.ImportPath)
				break
			}
		}
	}
	for _, path := range holds {
		l.rooms = append(l.rooms, room{path: path, deps: deps[path]})
	}
	if len(l.rooms) == 0 {
		return errors.New("no package holds a TestAttack function")
	}
	return nil
}

// outcome is what a run of attacks came to: which there were, and which succeeded (their tests failed), both sorted.
type outcome struct{ ran, succeeded []string }

// attack runs the attacks of packages, with further flags of the go command. A test that does not compile, panics or hangs is an error.
func (l *lab) attack(ctx context.Context, packages string, flags ...string) (outcome, error) {
	args := []string{"test", "-short", "-vet=off", "-p=1", "-timeout=" + timeout, "-json", "-run=^TestAttack"}
	cmd := l.command(ctx, slices.Concat(args, flags, strings.Fields(packages))...)
	out, runErr := cmd.Output()
	if ctx.Err() != nil {
		return outcome{}, ctx.Err()
	}
	var broken strings.Builder
	actions := map[string]string{} // attack to "pass" or "fail"
	failed := map[string]bool{}    // packages that failed as a whole
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e struct{ Action, Package, Test, Output string }
		if err := d.Decode(&e); err != nil {
			break
		}
		name := readable(short(e.Package) + "." + e.Test)
		switch {
		case e.Action == "build-fail" || e.Action == "build-output":
			broken.WriteString(e.Output)
		case e.Action == "output" && (strings.HasPrefix(e.Output, "panic: ") || strings.HasPrefix(e.Output, "fatal error: ")):
			return outcome{}, &crash{name, strings.TrimSpace(e.Output)}
		case e.Action == "fail" && e.Test == "":
			failed[short(e.Package)] = true
		case e.Test != "" && (e.Action == "pass" || e.Action == "fail"):
			actions[name] = e.Action
		}
	}
	if broken.Len() > 0 {
		return outcome{}, fmt.Errorf("does not compile:\n%s", broken.String())
	}
	var o outcome
	for name, action := range actions {
		leaf := true
		for other, itsAction := range actions {
			leaf = leaf && !(strings.HasPrefix(other, name+"/") && (action == "pass" || itsAction == "fail"))
		}
		if !leaf {
			continue
		}
		o.ran = append(o.ran, name)
		if action == "fail" {
			o.succeeded = append(o.succeeded, name)
			delete(failed, name[:strings.Index(name, ".Test")])
		}
	}
	slices.Sort(o.ran)
	slices.Sort(o.succeeded)
	for p := range failed {
		return outcome{}, fmt.Errorf("the tests of %s fail as a whole:\n%s", p, out)
	}
	if runErr != nil && len(o.succeeded) == 0 {
		return outcome{}, fmt.Errorf("go test: %w\n%s%s", runErr, cmd.Stderr, out)
	}
	return o, nil
}

// crash is the end of a test's process before its time, by a panic or because it hung.
type crash struct{ attack, why string }

func (c *crash) Error() string {
	return fmt.Sprintf("%s ends the process, which proves nothing: %s", c.attack, c.why)
}

// short is a package's path as the table has it.
func short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module+"/"), "internal/")
}

// readable turns the underscores of a subtest's name back into the spaces that they mostly were.
func readable(name string) string {
	i := strings.Index(name, ".Test")
	if i < 0 {
		return name
	}
	slash := strings.IndexByte(name[i:], '/')
	if slash < 0 {
		return name
	}
	return name[:i+slash] + strings.ReplaceAll(name[i+slash:], "_", " ")
}

func (l *lab) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = l.root
	cmd.Stderr = new(bytes.Buffer)
	// The programs are built without C code, and with the tag under which signatures are verified.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", keysVariable+"="+l.keys,
		"GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -tags=containers_image_openpgp"))
	return cmd
}

func (l *lab) goTool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := l.command(ctx, args...)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, cmd.Stderr)
	}
	return out, nil
}
