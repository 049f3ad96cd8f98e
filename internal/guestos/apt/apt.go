// SPDX-License-Identifier: Apache-2.0

// Package apt fetches Debian packages through the machine's own apt, without touching the machine's package state
// and without root.
//
// It runs the ordinary clients (apt-get, apt-cache) on a private directory. What is trusted is Debian's archive key
// on this machine: apt checks the signature of each suite's Release file with it, the package index against the
// Release file, and each package against the index. Where the archive is comes from the machine's apt configuration,
// so that mirrors and proxies are respected. A package that was fetched before is used again only if it still has the
// hash from the index.
package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	keyring      = "/usr/share/keyrings/debian-archive-keyring.gpg"
	architecture = "amd64"
	maxPackage   = 256 << 20 // bytes
)

// Suites are the parts of the Debian archive that packages come from.
var suites = []string{"bookworm", "bookworm-backports", "testing"}

// Want names one package to fetch.
type Want struct {
	Name  string `json:"name"`
	Suite string `json:"suite"`
	// Closure asks for everything that the package depends on, too.
	Closure bool `json:"closure,omitempty"`
	// Latest asks for the package that this metapackage depends on and whose name begins with Latest, in place of
	// the metapackage itself: "linux-image-6" for linux-image-cloud-amd64.
	Latest string `json:"latest,omitempty"`
}

// Package is one package as the signed index describes it.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Source       string `json:"source"` // source package and its version
	Suite        string `json:"suite"`
	SHA256       string `json:"sha256"` // of the .deb, hexadecimal
	Size         int64  `json:"size"`   // of the .deb, bytes
}

// File is the name of the package's .deb in the cache.
func (p Package) File() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Architecture)
}

// Archive is a private apt directory.
type Archive struct {
	dir string
	log func(format string, args ...any)
}

// Open returns the private apt directory at dir, which is made when it does not exist. log is told about work that
// takes more than a moment.
func Open(dir string, log func(format string, args ...any)) (*Archive, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"parts", "state/lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(abs, d), 0o755); err != nil {
			return nil, fmt.Errorf("make the private apt directory: %w", err)
		}
	}
	return &Archive{dir: abs, log: log}, nil
}

// selection is what the cache remembers of the last resolution.
type selection struct {
	Wants    []Want    `json:"wants"`
	Packages []Package `json:"packages"`
}

// Fetch returns the packages that wants name, in alphabetical order, and has them on disk (see Path). When all of
// them are there from before, it uses no network, unless refresh asks to look for newer ones.
func (a *Archive) Fetch(ctx context.Context, wants []Want, refresh bool) ([]Package, error) {
	file := filepath.Join(a.dir, "selection.json")
	if !refresh {
		if s, err := readSelection(file); err == nil && slices.Equal(s.Wants, wants) && a.haveAll(s.Packages) {
			return s.Packages, nil
		}
	}
	if err := a.configure(ctx); err != nil {
		return nil, err
	}
	a.log("reading the package index of Debian %s", strings.Join(suites, ", "))
	if _, err := a.run(ctx, a.dir, "apt-get", "update", "-q", "--error-on=any"); err != nil {
		return nil, err
	}
	packages, err := a.resolve(ctx, wants)
	if err != nil {
		return nil, err
	}
	if err := a.download(ctx, packages); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(selection{wants, packages}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, fmt.Errorf("remember the selected packages: %w", err)
	}
	return packages, nil
}

// Path returns where the .deb of a fetched package is.
func (a *Archive) Path(p Package) string { return filepath.Join(a.dir, "debs", p.File()) }

func readSelection(file string) (selection, error) {
	var s selection
	text, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

func (a *Archive) haveAll(packages []Package) bool {
	for _, p := range packages {
		if a.check(p) != nil {
			return false
		}
	}
	return len(packages) > 0
}

// check compares a .deb in the cache with the index.
func (a *Archive) check(p Package) error {
	f, err := os.Open(a.Path(p))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxPackage))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != p.Size || got != p.SHA256 {
		return fmt.Errorf("%s has %d bytes and SHA-256 %s, the signed index says %d and %s",
			p.File(), n, got, p.Size, p.SHA256)
	}
	return nil
}

// configure writes apt's configuration for the private directory.
func (a *Archive) configure(ctx context.Context) error {
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is needed to fetch Debian packages; build the image on Debian or Ubuntu: %w", tool, err)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("Debian's archive key is needed to check packages; install debian-archive-keyring: %w", err)
	}
	acquire, err := machineSettings(ctx)
	if err != nil {
		return err
	}
	uri, err := machineMirror(ctx)
	if err != nil {
		return err
	}
	var conf strings.Builder
	// Nothing of the machine's own configuration but how to reach an archive: no hooks, no pins, no other sources.
	for _, kv := range [][2]string{
		{"Dir::Etc::Main", "/dev/null"},
		{"Dir::Etc::Parts", "/dev/null"},
		{"Dir::Etc::SourceList", "/dev/null"},
		{"Dir::Etc::SourceParts", filepath.Join(a.dir, "parts")},
		{"Dir::Etc::Preferences", "/dev/null"},
		{"Dir::Etc::PreferencesParts", "/dev/null"},
		{"Dir::Etc::TrustedParts", "/dev/null"},
		{"Dir::State", filepath.Join(a.dir, "state")},
		{"Dir::State::status", filepath.Join(a.dir, "state/status")},
		{"Dir::Cache", filepath.Join(a.dir, "cache")},
		{"APT::Architecture", architecture},
		{"APT::Architectures::", architecture},
		{"APT::Sandbox::User", "root"}, // the private directory may be where the user _apt cannot read
		{"Acquire::Languages", "none"},
	} {
		fmt.Fprintf(&conf, "%s %q;\n", kv[0], kv[1])
	}
	conf.WriteString(acquire)
	source := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n",
		uri, strings.Join(suites, " "), keyring)
	for name, text := range map[string]string{
		"apt.conf": conf.String(), "parts/nacre.sources": source, "state/status": "",
	} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("configure the private apt directory: %w", err)
		}
	}
	return nil
}

// machineSettings copies from the machine's apt configuration how archives are reached (proxies, time-outs, clock
// checks). Whether unsigned archives are accepted is not copied.
func machineSettings(ctx context.Context) (string, error) {
	out, err := run(ctx, "", nil, "apt-config", "dump")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		key, _, _ := strings.Cut(line, " ")
		for _, prefix := range []string{
			"Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::Check-Valid-Until", "Acquire::Check-Date",
			"Acquire::ForceIPv4", "Acquire::ForceIPv6",
		} {
			if strings.HasPrefix(key, prefix) {
				b.WriteString(line)
				break
			}
		}
	}
	return b.String(), nil
}

// machineMirror returns the address of the Debian archive that the machine itself uses.
func machineMirror(ctx context.Context) (string, error) {
	out, err := run(ctx, "", nil, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(RELEASE)|$(REPO_URI)",
		"Created-By: Packages")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		field := strings.Split(strings.TrimSpace(line), "|")
		// Security and other side archives have suites like bookworm-security; they carry no kernel backports.
		if len(field) == 3 && field[0] == "Debian" && !strings.Contains(field[1], "security") && field[2] != "" {
			return field[2], nil
		}
	}
	return "", errors.New("apt on this machine knows no Debian archive: " +
		"add one to its sources and run apt-get update once")
}

// resolve finds the versions that the index offers for wants.
func (a *Archive) resolve(ctx context.Context, wants []Want) ([]Package, error) {
	var packages []Package
	for _, w := range wants {
		names := []string{w.Name + "/" + w.Suite}
		switch {
		case w.Latest != "":
			name, err := a.latest(ctx, w)
			if err != nil {
				return nil, err
			}
			names = []string{name}
		case w.Closure:
			closure, err := a.closure(ctx, w)
			if err != nil {
				return nil, err
			}
			names = closure
		}
		records, err := a.show(ctx, names)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			p, err := r.pkg(w.Suite)
			if err != nil {
				return nil, err
			}
			packages = append(packages, p)
		}
	}
	slices.SortFunc(packages, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	packages = slices.Compact(packages)
	for i := 1; i < len(packages); i++ {
		if packages[i].Name == packages[i-1].Name {
			return nil, fmt.Errorf("package %s is wanted in versions %s and %s",
				packages[i].Name, packages[i-1].Version, packages[i].Version)
		}
	}
	return packages, nil
}

// latest returns "name=version" of the package that a metapackage stands for.
func (a *Archive) latest(ctx context.Context, w Want) (string, error) {
	records, err := a.show(ctx, []string{w.Name + "/" + w.Suite})
	if err != nil {
		return "", err
	}
	depends := records[0]["Depends"]
	for dep := range strings.SplitSeq(depends, ",") {
		name, version, _ := strings.Cut(strings.TrimSpace(dep), " ")
		if strings.HasPrefix(name, w.Latest) {
			version = strings.TrimSuffix(strings.TrimPrefix(version, "(= "), ")")
			return name + "=" + version, nil
		}
	}
	return "", fmt.Errorf("%s in %s depends on %q, not on a package %s…", w.Name, w.Suite, depends, w.Latest)
}

// closure returns "name=version" of a package and all that it depends on.
func (a *Archive) closure(ctx context.Context, w Want) ([]string, error) {
	out, err := a.run(ctx, a.dir, "apt-get", "install", "-q", "--simulate", "--no-install-recommends",
		"--target-release", w.Suite, w.Name)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		// "Inst libc6 (2.36-9 Debian:12/oldstable [amd64])"
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == "Inst" {
			names = append(names, f[1]+"="+strings.TrimPrefix(f[2], "("))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("apt finds nothing to install for %s in %s", w.Name, w.Suite)
	}
	return names, nil
}

// record is one paragraph of a package index (deb822(5)), without continuation lines.
type record map[string]string

// show returns the index's records of packages named "name=version" or "name/suite", in no particular order.
func (a *Archive) show(ctx context.Context, names []string) ([]record, error) {
	args := append([]string{"show", "--no-all-versions"}, names...)
	out, err := a.run(ctx, a.dir, "apt-cache", args...)
	if err != nil {
		return nil, fmt.Errorf("look up %s in the archive: %w", strings.Join(names, " "), err)
	}
	records := parseRecords(string(out))
	if len(records) != len(names) {
		return nil, fmt.Errorf("the archive has %d records for %s", len(records), strings.Join(names, " "))
	}
	return records, nil
}

func parseRecords(text string) []record {
	var records []record
	current := record{}
	for line := range strings.Lines(text + "\n") {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			if len(current) > 0 {
				records = append(records, current)
			}
			current = record{}
			continue
		}
		if key, value, ok := strings.Cut(line, ": "); ok && key[0] != ' ' {
			current[key] = value
		}
	}
	return records
}

// pkg reads the fields that a Package needs.
func (r record) pkg(suite string) (Package, error) {
	p := Package{
		Name: r["Package"], Version: r["Version"], Architecture: r["Architecture"], Source: r["Source"], Suite: suite,
		SHA256: r["SHA256"],
	}
	if p.Name == "" || p.Version == "" || p.Architecture == "" || strings.ContainsRune(p.File(), '/') {
		return p, fmt.Errorf("the index describes a package as %q %q %q", p.Name, p.Version, p.Architecture)
	}
	size, err := strconv.ParseInt(r["Size"], 10, 64)
	if err != nil || size <= 0 || size > maxPackage {
		return p, fmt.Errorf("package %s has size %q in the index", p.Name, r["Size"])
	}
	p.Size = size
	if raw, err := hex.DecodeString(p.SHA256); err != nil || len(raw) != sha256.Size {
		return p, fmt.Errorf("package %s has SHA-256 %q in the index", p.Name, p.SHA256)
	}
	// "Source" is left out where it equals the package, and has a version only where that differs.
	if p.Source == "" {
		p.Source = p.Name
	}
	if !strings.Contains(p.Source, "(") {
		p.Source += " (" + p.Version + ")"
	}
	return p, nil
}

// download fetches what is not in the cache yet and checks everything.
func (a *Archive) download(ctx context.Context, packages []Package) error {
	args := []string{"download", "-q"}
	var missing int64
	for _, p := range packages {
		if a.check(p) == nil {
			continue
		}
		args = append(args, p.Name+"="+p.Version)
		missing += p.Size
	}
	if missing == 0 {
		return nil
	}
	a.log("fetching %d packages, %.1f MB", len(args)-2, float64(missing)/1e6)
	if _, err := a.run(ctx, filepath.Join(a.dir, "debs"), "apt-get", args...); err != nil {
		return err
	}
	for _, p := range packages {
		if err := a.check(p); err != nil {
			return fmt.Errorf("check the fetched packages: %w", err)
		}
	}
	return nil
}

func (a *Archive) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	return run(ctx, dir, []string{"APT_CONFIG=" + filepath.Join(a.dir, "apt.conf")}, name, args...)
}

func run(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
