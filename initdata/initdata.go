// SPDX-License-Identifier: Apache-2.0

// Package initdata reads and writes init-data: the configuration that the owner of a pod hands to its guest through
// the untrusted host, bound by digest into the hardware's launch record.
//
// All three carriers are here: the TOML text (0.1.0), the pod annotation (base64 of gzip of the text), and the block
// device (magic, length, gzip, padding). Nothing in here trusts the carrier: every size is capped, and what is
// ambiguous is refused. A text that parses is well-formed and nothing more; whether it is the one that was bound, and
// whether the owner authorised it, is for others to decide.
package initdata

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Version is the only version of the format.
const Version = "0.1.0"

// MaxSize is the longest init-data text in bytes. The text travels inside the attestation request, which stock
// servers cap at 2 MB with the evidence.
const MaxSize = 1 << 20

// MaxFiles and MaxNameLength cap the data table: how many files, and the bytes of a name.
const (
	MaxFiles      = 256
	MaxNameLength = 255
)

// Algorithm names the hash that an init-data's digest is made with.
const (
	SHA256 = "sha256"
	SHA384 = "sha384"
	SHA512 = "sha512"
)

// The files that guests know by name. Others are allowed and carried along.
const (
	AgentConfig = "aa.toml"     // attestation agent: where the broker is, and its certificate
	DataConfig  = "cdh.toml"    // data hub: key brokers, image pull
	AgentPolicy = "policy.rego" // what the host may ask of the guest's agent
)

// Data is the content of an init-data text.
type Data struct {
	Version   string            // Version
	Algorithm string            // SHA256, SHA384 or SHA512
	Files     map[string]string // by file name
}

// Parse reads an init-data text. It is strict, since two readers that understand one text differently are a hole in
// what the digest binds: a key that is repeated, unknown at the top level, spelled in another case or not a string is
// refused, and so are an unknown version or algorithm.
func Parse(raw []byte) (*Data, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("parsing init-data: %d bytes, at most %d are allowed", len(raw), MaxSize)
	}
	if err := flat(raw); err != nil {
		return nil, fmt.Errorf("parsing init-data: %w", err)
	}
	var top map[string]any
	if err := toml.Unmarshal(raw, &top); err != nil {
		return nil, fmt.Errorf("parsing init-data: %w", located(err))
	}
	d := &Data{}
	for _, key := range slices.Sorted(maps.Keys(top)) {
		var ok bool
		switch value := top[key]; key {
		case "version":
			d.Version, ok = value.(string)
		case "algorithm":
			d.Algorithm, ok = value.(string)
		case "data":
			var table map[string]any
			if table, ok = value.(map[string]any); ok {
				var err error
				if d.Files, err = files(table); err != nil {
					return nil, fmt.Errorf("parsing init-data: %w", err)
				}
			}
		default:
			return nil, fmt.Errorf(
				"parsing init-data: unknown key %q: only version, algorithm and [data] are defined",
				clip(key),
			)
		}
		if !ok {
			return nil, fmt.Errorf("parsing init-data: %s has the wrong type", key)
		}
	}
	if d.Files == nil {
		return nil, errors.New("parsing init-data: no [data] table")
	}
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("parsing init-data: %w", err)
	}
	return d, nil
}

// maxKeyParts is how many names a key needs here: data."aa.toml".
const maxKeyParts = 2

// flat refuses keys of more parts than the format has, and lists, which it has none of, before anything is built of
// them. Anybody may send a text to a trustee, and a table a part, a million deep, costs seconds and hundreds of MiB.
func flat(raw []byte) error {
	var p unstable.Parser
	p.Reset(raw)
	for p.NextExpression() {
		parts := 0
		for key := p.Expression().Key(); key.Next(); parts++ {
			if parts == maxKeyParts {
				return errors.New("a key has more than two parts; quote a name that has a dot in it")
			}
		}
		if p.Expression().Kind != unstable.KeyValue {
			continue
		}
		value := p.Expression().Value()
		if value.Kind == unstable.Array {
			return errors.New("there is a list in it; values are strings")
		}
		if value.Kind != unstable.InlineTable {
			continue
		}
		for entries := value.Children(); entries.Next(); {
			if key := entries.Node().Key(); !key.Next() || !key.IsLast() ||
				entries.Node().Value().Kind != unstable.String {
				return errors.New("a table in braces has something else than names and strings")
			}
		}
	}
	return nil // what is wrong with the syntax is for the parser proper to say
}

func files(table map[string]any) (map[string]string, error) {
	out := make(map[string]string, len(table))
	for name, value := range table {
		text, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("data entry %q is not a string; quote a name that has a dot in it", clip(name))
		}
		out[name] = text
	}
	return out, nil
}

func (d *Data) validate() error {
	if d.Version != Version {
		return fmt.Errorf("version %q is not supported, want %q", clip(d.Version), Version)
	}
	switch d.Algorithm {
	case SHA256, SHA384, SHA512:
	default:
		return fmt.Errorf("algorithm %q is not supported, want one of sha256, sha384, sha512", clip(d.Algorithm))
	}
	if len(d.Files) > MaxFiles {
		return fmt.Errorf("%d files, at most %d are allowed", len(d.Files), MaxFiles)
	}
	for name := range d.Files {
		if err := validName(name); err != nil {
			return err
		}
	}
	return nil
}

// validName refuses what could not be a plain file name, since guests write the files out under these names.
func validName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is not a file name", name)
	case len(name) > MaxNameLength:
		return fmt.Errorf("file name %q is longer than %d bytes", clip(name), MaxNameLength)
	}
	for _, r := range name {
		if r == '/' || r < 0x20 || r == 0x7f || r == '\\' {
			return fmt.Errorf("file name %q has a %q in it", clip(name), r)
		}
	}
	return nil
}

// Digest is the digest of an init-data text, made with the algorithm that the text names, over exactly these bytes.
// It is 32, 48 or 64 bytes long; a platform whose field has another length pads it with zeros on the right or cuts it.
func Digest(raw []byte) ([]byte, error) {
	d, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	return d.digest(raw), nil
}

// digest hashes raw, the text that d was parsed from.
func (d *Data) digest(raw []byte) []byte {
	switch d.Algorithm {
	case SHA512:
		sum := sha512.Sum512(raw)
		return sum[:]
	case SHA384:
		sum := sha512.Sum384(raw)
		return sum[:]
	default:
		sum := sha256.Sum256(raw)
		return sum[:]
	}
}

// Format writes an init-data text: the same bytes for the same data, and readable, since people review it.
func Format(d *Data) ([]byte, error) {
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("writing init-data: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = %s\nalgorithm = %s\n\n[data]\n", quote(d.Version), quote(d.Algorithm))
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		fmt.Fprintf(&b, "%s = %s\n", quote(name), literal(d.Files[name]))
	}
	raw := []byte(b.String())
	back, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("writing init-data: %w", err)
	}
	for name, text := range d.Files {
		if back.Files[name] != text {
			return nil, fmt.Errorf("writing init-data: %q is not valid UTF-8 text", clip(name))
		}
	}
	return raw, nil
}

// literal writes text as a multi-line literal where TOML allows, in which nothing is escaped.
func literal(text string) string {
	plain := !strings.Contains(text, "'''") && !strings.HasSuffix(text, "'")
	for _, r := range text {
		plain = plain && (r >= 0x20 && r != 0x7f || r == '\n' || r == '\t')
	}
	if !plain || !strings.Contains(text, "\n") {
		return quote(text)
	}
	return "'''\n" + text + "'''" // the newline after the quotes is not part of the value
}

// quote writes text as a basic string.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// located adds the line and column to a syntax error.
func located(err error) error {
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		line, column := syntax.Position()
		return fmt.Errorf("line %d, column %d: %w", line, column, err)
	}
	return err
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
