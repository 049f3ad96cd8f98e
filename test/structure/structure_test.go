// SPDX-License-Identifier: Apache-2.0

// Package structure demands the habits of the code base by test: who may import whom, what a program may link, that every package says
// what it is for, and that every source file names its licence. It holds tests only.
package structure

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/nacre-project/nacre"

// pkg is the part of `go list -json` that the rules speak of.
type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// room is the path below the module: "internal/guest/boot".
func (p pkg) room() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// below says whether the room p lies in one of the rooms named.
func below(room string, rooms ...string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return room == r || strings.HasPrefix(room, r+"/") })
}

var list = sync.OnceValues(func() ([]pkg, error) {
	// The tag is the one that programs are built with: a rule about what they link must see it all.
	cmd := exec.Command("go", "list", "-tags=containers_image_openpgp", "-json=ImportPath,Name,Dir,Doc,GoFiles,Imports,Deps", module+"/...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New("go list: " + err.Error() + "\n" + stderr.String())
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		if len(p.GoFiles) > 0 {
			pkgs = append(pkgs, p)
		}
	}
})

func packages(t *testing.T) []pkg {
	t.Helper()
	pkgs, err := list()
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found %d packages; the rules would hold of nothing", len(pkgs))
	}
	return pkgs
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment: say what it is for, what it trusts, and what it does not do", p.room())
		}
	}
}

// The host's rooms. guestos builds and describes the image that the host boots; it has no secrets and no opinions, and only the host uses it.
var (
	hostSide    = []string{"internal/sandbox", "internal/shim", "internal/node", "internal/peerpod", "internal/operator"}
	guestSide   = []string{"internal/guest"}
	trusteeSide = []string{"internal/trustee"}
)

func TestSidesMeetOnTheWireOnly(t *testing.T) {
	sides := map[string][]string{"host": hostSide, "guest": guestSide, "trustee": trusteeSide}
	for _, p := range packages(t) {
		for side, rooms := range sides {
			if !below(p.room(), rooms...) {
				continue
			}
			for _, dep := range p.Deps {
				room, ours := strings.CutPrefix(dep, module+"/")
				if !ours || !strings.HasPrefix(room, "internal/") || below(room, rooms...) {
					continue
				}
				for other, otherRooms := range sides {
					if other != side && below(room, otherRooms...) {
						t.Errorf("%s (%s) links %s (%s): the sides meet on the wire only", p.room(), side, room, other)
					}
				}
			}
		}
	}
}

func TestPublicRoomsImportNothingInternal(t *testing.T) {
	for _, p := range packages(t) {
		if below(p.room(), "internal", "cmd", "test") {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, module+"/internal/") {
				t.Errorf("%s is public and links %s", p.room(), dep)
			}
		}
	}
}

func TestWhoSpeaksHTTP(t *testing.T) {
	// Among the libraries only these ask the network for something; rest and broker serve, sandbox and the commands are programs' rooms.
	allowed := []string{"kbs", "attest/collateral", "internal/guest/pull", "internal/guest/rest", "internal/trustee/broker",
		"internal/cli", "internal/bench", "cmd", "test"}
	for _, p := range packages(t) {
		if slices.Contains(p.Imports, "net/http") && !below(p.room(), allowed...) {
			t.Errorf("%s imports net/http; only %s may", p.room(), strings.Join(allowed, ", "))
		}
	}
}

func TestWhatProgramsLink(t *testing.T) {
	forbidden := map[string][]string{
		// ttrpc uses gRPC's status codes, which are three small packages; what must not be there is gRPC itself.
		"cmd/nacre-guest": {"google.golang.org/grpc/internal/transport", module + "/attest/simtee/signer", module + "/internal/trustee",
			module + "/attest/collateral", "github.com/google/go-sev-guest"},
		"cmd/nacre-trustee": {module + "/attest/simtee/signer", module + "/internal/guest", module + "/internal/sandbox",
			"github.com/google/go-sev-guest"},
		"cmd/nacre-init": {"net/http", "google.golang.org/grpc", "github.com/open-policy-agent/opa"},
	}
	seen := 0
	for _, p := range packages(t) {
		for _, bad := range forbidden[p.room()] {
			for _, dep := range p.Deps {
				if dep == bad || strings.HasPrefix(dep, bad+"/") {
					t.Errorf("%s links %s", p.room(), dep)
				}
			}
		}
		if _, ok := forbidden[p.room()]; ok {
			seen++
		}
	}
	if seen != len(forbidden) {
		t.Errorf("found %d of the %d programs that the rule names", seen, len(forbidden))
	}
}

func TestNoRegistrationByInit(t *testing.T) {
	initFunc := regexp.MustCompile(`(?m)^func init\(\)`)
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			if strings.HasSuffix(f, ".pb.go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if initFunc.Match(text) {
				t.Errorf("%s/%s has an init function: verifiers and attesters are put in explicit maps by the programs", p.room(), f)
			}
			// The mutants take checks away, this one too; theirs is no code that runs.
			if p.room() != "test/mutants" && bytes.Contains(text, []byte("InsecureSkipVerify: true")) {
				t.Errorf("%s/%s turns TLS verification off", p.room(), f)
			}
		}
	}
}

func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("the rule needs a git checkout: %v", err)
	}
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
}

func TestEverySourceFileNamesItsLicence(t *testing.T) {
	source := regexp.MustCompile(`(\.(go|proto|sh|rego|s|dot)|/Makefile|^Makefile|^tools/\w+|^\.ci/run)$`)
	n := 0
	for _, f := range tracked(t) {
		if !source.MatchString(f) || strings.Contains(f, "/testdata/") || strings.HasSuffix(f, ".pb.go") {
			continue
		}
		n++
		text, err := os.ReadFile(filepath.Join("../..", f))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		head := text[:min(len(text), 400)]
		if !bytes.Contains(head, []byte("SPDX-License-Identifier: Apache-2.0")) {
			t.Errorf("%s lacks the line `SPDX-License-Identifier: Apache-2.0` at its head", f)
		}
	}
	if n < 20 {
		t.Errorf("looked at %d files only", n)
	}
}
