// SPDX-License-Identifier: Apache-2.0

// Package templates makes release policies from a few facts, so that an owner need not write Rego to begin with, and
// begins with a policy that pins what has to be pinned.
//
// What it is given is checked and written as JSON, which Rego reads as it is: no value can become part of the
// program, and different facts make different policies. It does not talk to a trustee.
package templates

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/nacre-project/nacre/kbs"
)

//go:embed affirming.rego.tmpl
var affirmingText string

//go:embed deny-all.rego
var denyAll string

// DenyAll is the policy that releases nothing.
func DenyAll() string { return denyAll }

// Affirming releases resources of the plugin "resource" to guests whose appraisal is affirming in every part and
// whose init-data is one of those named.
type Affirming struct {
	// Resources are paths, "repository/type/tag"; at least one.
	Resources []string
	// InitData are digests of init-data in lower-case hex, as the platform reports them (SEV-SNP: 32 bytes); at least
	// one.
	InitData []string
}

// Rego returns the policy's text. The order of what it was given, and repetitions, do not matter.
func (a Affirming) Rego() (string, error) {
	if len(a.Resources) == 0 {
		return "", errors.New("make a release policy: it names no resource; name at least one, such as " +
			"default/db/password")
	}
	if len(a.InitData) == 0 {
		return "", errors.New("make a release policy: it names no init-data digest, so that a host could bring " +
			"its own init-data; name at least one")
	}
	var facts struct {
		Resources [][]string
		InitData  []string
	}
	for _, path := range sorted(a.Resources) {
		segments := strings.Split(path, "/")
		if err := kbs.ValidPath(segments); err != nil {
			return "", fmt.Errorf("make a release policy: %w", err)
		}
		facts.Resources = append(facts.Resources, segments)
	}
	for _, digest := range sorted(a.InitData) {
		raw, err := hex.DecodeString(digest)
		if err != nil || len(raw) < 32 || len(raw) > 64 || digest != strings.ToLower(digest) {
			return "", fmt.Errorf("make a release policy: %q is not a digest of 32 to 64 bytes in lower-case hex",
				digest)
		}
		if strings.Trim(digest, "0") == "" {
			return "", errors.New("make a release policy: an init-data digest of zeros is that of guests without " +
				"init-data, which any host can start")
		}
		facts.InitData = append(facts.InitData, digest)
	}
	t, err := template.New("affirming").Funcs(template.FuncMap{"json": toJSON}).Parse(affirmingText)
	if err != nil {
		return "", fmt.Errorf("parse the policy template: %w", err)
	}
	var text strings.Builder
	if err := t.Execute(&text, facts); err != nil {
		return "", fmt.Errorf("make a release policy: %w", err)
	}
	return text.String(), nil
}

func sorted(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

func toJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}
