// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/nacre-project/nacre/internal/guestos"
)

// spdxDocument is the part of SPDX 2.3 (JSON) that a bill of materials of the image needs.
type spdxDocument struct {
	SPDXVersion       string             `json:"spdxVersion"`
	DataLicense       string             `json:"dataLicense"`
	SPDXID            string             `json:"SPDXID"`
	Name              string             `json:"name"`
	DocumentNamespace string             `json:"documentNamespace"`
	CreationInfo      spdxCreation       `json:"creationInfo"`
	Packages          []spdxPackage      `json:"packages"`
	Relationships     []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	SPDXID           string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo,omitempty"`
	Supplier         string         `json:"supplier,omitempty"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	CopyrightText    string         `json:"copyrightText"`
	ExternalRefs     []spdxRef      `json:"externalRefs,omitempty"`
	SourceInfo       string         `json:"sourceInfo,omitempty"`
	PrimaryPurpose   string         `json:"primaryPackagePurpose,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const (
	spdxImage   = "SPDXRef-image"
	noAssertion = "NOASSERTION"
)

var notInSPDXID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// sbom makes the bill of materials of an image: its artifacts, the Debian packages and the Go modules in it.
func sbom(m *guestos.Manifest) spdxDocument {
	d := spdxDocument{
		SPDXVersion: "SPDX-2.3",
		DataLicense: "CC0-1.0",
		SPDXID:      "SPDXRef-DOCUMENT",
		Name:        "nacre-guest-image",
		// A namespace need not resolve; it must be unique for each document.
		DocumentNamespace: "https://spdx.org/spdxdocs/nacre-guest-image-" + m.Verity.RootHash,
		CreationInfo: spdxCreation{
			Created:  time.Unix(m.BuiltAt, 0).UTC().Format(time.RFC3339),
			Creators: []string{"Tool: nacre-image-build"},
		},
	}
	add := func(parent, kind string, p spdxPackage) {
		p.DownloadLocation, p.LicenseConcluded, p.LicenseDeclared, p.CopyrightText =
			noAssertion, noAssertion, noAssertion, noAssertion
		d.Packages = append(d.Packages, p)
		d.Relationships = append(d.Relationships, spdxRelationship{parent, kind, p.SPDXID})
	}
	add(d.SPDXID, "DESCRIBES", spdxPackage{SPDXID: spdxImage, Name: d.Name, PrimaryPurpose: "OPERATING-SYSTEM"})
	for _, a := range m.Artifacts {
		add(spdxImage, "CONTAINS", spdxPackage{
			SPDXID: spdxID("artifact", a.Name), Name: a.Name, Checksums: sha256Sum(a.SHA256), PrimaryPurpose: "FILE",
		})
	}
	for _, p := range m.Packages {
		add(spdxImage, "CONTAINS", spdxPackage{
			SPDXID: spdxID("deb", p.Name), Name: p.Name, Version: p.Version, Supplier: "Organization: Debian",
			Checksums: sha256Sum(p.SHA256), SourceInfo: "built from Debian source package " + p.Source,
			ExternalRefs: purl("pkg:deb/debian/" + p.Name + "@" + url.QueryEscape(p.Version) + "?arch=" + p.Architecture),
		})
	}
	seen := make(map[string]bool)
	for _, prog := range m.Programs {
		id := spdxID("program", prog.Path)
		add(spdxImage, "CONTAINS", spdxPackage{
			SPDXID: id, Name: prog.Main, Checksums: sha256Sum(prog.SHA256), PrimaryPurpose: "APPLICATION",
			SourceInfo: "installed as " + prog.Path + ", built with " + prog.Go,
		})
		for _, mod := range prog.Modules {
			modID := spdxID("go", mod.Path+"-"+mod.Version)
			if seen[modID] {
				d.Relationships = append(d.Relationships, spdxRelationship{id, "STATIC_LINK", modID})
				continue
			}
			seen[modID] = true
			add(id, "STATIC_LINK", spdxPackage{
				SPDXID: modID, Name: mod.Path, Version: mod.Version,
				ExternalRefs: purl("pkg:golang/" + mod.Path + "@" + mod.Version),
			})
		}
	}
	return d
}

func spdxID(kind, name string) string {
	return "SPDXRef-" + kind + "-" + strings.Trim(notInSPDXID.ReplaceAllString(name, "-"), "-")
}

func sha256Sum(value string) []spdxChecksum {
	if value == "" {
		return nil
	}
	return []spdxChecksum{{"SHA256", value}}
}

func purl(locator string) []spdxRef {
	return []spdxRef{{"PACKAGE-MANAGER", "purl", locator}}
}

// writeLicenses collects the licence texts of all that is in the image: Debian's copyright files with the common
// licences that they refer to, and the licence files of the Go toolchain and modules.
func writeLicenses(ctx context.Context, dir string, t *tree, m *guestos.Manifest) error {
	for _, p := range m.Packages {
		name := "usr/share/doc/" + p.Name + "/copyright"
		var text []byte
		if p.Suite == guestos.SuiteHost {
			data, err := os.ReadFile("/" + name)
			if err != nil {
				return fmt.Errorf("read the licence of %s: %w", p.Name, err)
			}
			text = data
		} else {
			f, err := t.peek(name)
			if err != nil {
				return fmt.Errorf("read the licence of %s: %w", p.Name, err)
			}
			text = f.data
		}
		if err := writeFile(filepath.Join(dir, "debian", p.Name, "copyright"), text); err != nil {
			return err
		}
	}
	for _, name := range t.below("usr/share/common-licenses") {
		f, err := t.peek(name)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, "debian", "common-licenses", path.Base(name)), f.data); err != nil {
			return err
		}
	}
	return goLicenses(ctx, filepath.Join(dir, "go"), m)
}

func goLicenses(ctx context.Context, dir string, m *guestos.Manifest) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("ask the go command for its directories: %w", err)
	}
	cache, goroot, ok := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if !ok {
		return errors.New("the go command names no module cache")
	}
	done := make(map[string]bool)
	for _, prog := range m.Programs {
		if !done[prog.Go] {
			done[prog.Go] = true
			if err := copyLicenses(goroot, filepath.Join(dir, "toolchain")); err != nil {
				return err
			}
		}
		for _, mod := range prog.Modules {
			at := escapeModule(mod.Path) + "@" + escapeModule(mod.Version)
			if done[at] {
				continue
			}
			done[at] = true
			if err := copyLicenses(filepath.Join(cache, at), filepath.Join(dir, at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// licenseName matches the files of a module that carry terms.
var licenseName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)`)

func copyLicenses(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("look for licence texts: %w", err)
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenseName.MatchString(e.Name()) {
			continue
		}
		found = true
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(to, e.Name()), text); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("%s has no licence text: %w", from, fs.ErrNotExist)
	}
	return nil
}

// escapeModule spells a module path or version as the module cache does: "!" and the lower-case letter for an
// upper-case one (https://go.dev/ref/mod#module-cache).
func escapeModule(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

func writeFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}
