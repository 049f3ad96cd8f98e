// SPDX-License-Identifier: Apache-2.0

package initdata_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/initdata"
)

const valid = `version = "0.1.0"
algorithm = "sha384"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://10.0.2.2:8080"
'''
"policy.rego" = '''
package agent_policy
'''
`

func TestParse(t *testing.T) {
	d, err := initdata.Parse([]byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	want := &initdata.Data{Version: "0.1.0", Algorithm: "sha384", Files: map[string]string{
		"aa.toml":     "[token_configs.kbs]\nurl = \"https://10.0.2.2:8080\"\n",
		"policy.rego": "package agent_policy\n",
	}}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, want %+v", d, want)
	}
	for name, text := range map[string]string{
		"no files":      "version = '0.1.0'\nalgorithm = 'sha256'\n[data]\n",
		"inline table":  "version = '0.1.0'\nalgorithm = 'sha256'\ndata = {\"a.b\" = 'c'}\n",
		"dotted":        "version = '0.1.0'\nalgorithm = 'sha256'\ndata.a = 'c'\n",
		"another order": "data.a = 'c'\nalgorithm = 'sha512'\nversion = '0.1.0' # comment\r\n",
		"empty file":    "version = '0.1.0'\nalgorithm = 'sha256'\n[data]\na = ''\n",
	} {
		if _, err := initdata.Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head = "version = '0.1.0'\nalgorithm = 'sha256'\n"
	many := head + "[data]\n"
	for i := range initdata.MaxFiles + 1 {
		many += fmt.Sprintf("f%d = ''\n", i)
	}
	for name, text := range map[string]string{
		"nothing":                "",
		"not TOML":               "some content",
		"JSON":                   `{"version":"0.1.0","algorithm":"sha256","data":{}}`,
		"no version":             "algorithm = 'sha256'\n[data]\n",
		"version a number":       "version = 0.1\nalgorithm = 'sha256'\n[data]\n",
		"another version":        "version = '0.2.0'\nalgorithm = 'sha256'\n[data]\n",
		"no algorithm":           "version = '0.1.0'\n[data]\n",
		"unknown algorithm":      "version = '0.1.0'\nalgorithm = 'md5'\n[data]\n",
		"algorithm in capitals":  "version = '0.1.0'\nalgorithm = 'SHA256'\n[data]\n",
		"no data":                head,
		"data a list":            head + "data = []\n",
		"data a list of tables":  head + "[[data]]\na = 'b'\n",
		"unknown key":            head + "extra = 1\n[data]\n",
		"unknown table":          head + "[data]\n[date]\n",
		"key in another case":    head + "Version = '0.1.0'\n[data]\n",
		"a number":               head + "[data]\na = 1\n",
		"a date":                 head + "[data]\na = 2026-01-02\n",
		"name with a dot":        head + "[data]\naa.toml = 'x'\n",
		"an empty name":          head + "[data]\n'' = 'x'\n",
		"the name .":             head + "[data]\n'.' = 'x'\n",
		"the name ..":            head + "[data]\n'..' = 'x'\n",
		"a backslash":            head + "[data]\n'a\\b' = 'x'\n",
		"a control character":    head + "[data]\n\"a\\nb\" = 'x'\n",
		"a long name":            head + "[data]\n'" + strings.Repeat("a", 256) + "' = 'x'\n",
		"many files":             many,
		"not UTF-8":              head + "[data]\na = '\xff'\n",
		"a byte order mark":      "\xef\xbb\xbf" + head + "[data]\n",
		"cut":                    valid[:len(valid)-3],
		"too long":               head + "[data]\na = '" + strings.Repeat("a", initdata.MaxSize) + "'\n",
		"deep":                   head + "data = " + strings.Repeat("[", 1<<19) + "\n",
		"deep tables":            head + "[data]\n" + strings.Repeat("a.", 1<<18) + "a = 'x'\n",
		"a list of many strings": head + "x = [" + strings.Repeat("'',", 1<<17) + "]\n",
	} {
		if d, err := initdata.Parse([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %d files", name, len(d.Files))
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		if _, err := initdata.Digest([]byte(text)); err == nil {
			t.Errorf("%s: has a digest", name)
		}
	}
	_, err := initdata.Parse([]byte(head + "[data]\na = 'x\n"))
	if err == nil || !strings.Contains(err.Error(), "line 4, column") {
		t.Errorf("a syntax error: %v", err)
	}
}

// Two readers, one of which takes the first of two values and one the last, would see two configurations under one digest.
func TestAttackKeyTwice(t *testing.T) {
	const head = "version = '0.1.0'\nalgorithm = 'sha256'\n"
	for name, text := range map[string]string{
		"file":         head + "[data]\n'policy.rego' = 'deny'\n'policy.rego' = 'allow'\n",
		"other quotes": head + "[data]\n'policy.rego' = 'deny'\n\"policy.rego\" = 'allow'\n",
		"by escape":    head + "[data]\n'policy.rego' = 'deny'\n\"policy\\u002Erego\" = 'allow'\n",
		"table":        head + "[data]\n'policy.rego' = 'deny'\n[data]\n'policy.rego' = 'allow'\n",
		"algorithm":    head + "algorithm = 'sha512'\n[data]\n",
	} {
		t.Run(name, func(t *testing.T) {
			if d, err := initdata.Parse([]byte(text)); err == nil {
				t.Errorf("accepted as %v", d)
			}
		})
	}
}

// Guests write the files out by name.
func TestAttackNameLeavesTheDirectory(t *testing.T) {
	if _, err := initdata.Parse([]byte("version = '0.1.0'\nalgorithm = 'sha256'\n[data]\n'../../etc/passwd' = 'x'\n")); err == nil {
		t.Error("accepted")
	}
}

func TestDigest(t *testing.T) {
	for algorithm, want := range map[string]func(string) []byte{
		"sha256": func(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] },
		"sha384": func(s string) []byte { sum := sha512.Sum384([]byte(s)); return sum[:] },
		"sha512": func(s string) []byte { sum := sha512.Sum512([]byte(s)); return sum[:] },
	} {
		text := strings.Replace(valid, "sha384", algorithm, 1)
		got, err := initdata.Digest([]byte(text))
		if err != nil || hex.EncodeToString(got) != hex.EncodeToString(want(text)) {
			t.Errorf("%s: %x, %v", algorithm, got, err)
		}
		// White space counts: the digest is over bytes, not over what they mean.
		other, err := initdata.Digest([]byte(text + "\n"))
		if err != nil || hex.EncodeToString(other) == hex.EncodeToString(got) {
			t.Errorf("%s: one more newline: %x, %v", algorithm, other, err)
		}
	}
}

func TestFormat(t *testing.T) {
	d := &initdata.Data{Version: "0.1.0", Algorithm: "sha256", Files: map[string]string{
		"aa.toml":               "url = 'x'\n",
		"cdh.toml":              "one line",
		"a \"quoted\" name":     "x",
		"policy.rego":           "package a\n\nallow if '''\n",
		"empty":                 "",
		"ends with a quote":     "line\n'",
		"starts with a newline": "\nx\n",
		"control":               "a\x00b\x7f\x1b\r\n",
		"tab":                   "a\tb\n",
		"unicode":               "ä😀\n",
		"backslash":             `a\b`, "ümlaut": "ok", "crlf": "a\r\nb\r\n", "two quotes": "''\nx",
	}}
	raw, err := initdata.Format(d)
	if err != nil {
		t.Fatal(err)
	}
	back, err := initdata.Parse(raw)
	if err != nil || !reflect.DeepEqual(back, d) {
		t.Errorf("%s\ncame back as %q, %v", raw, back, err)
	}
	for range 4 { // maps are in another order each time
		d.Files = maps.Clone(d.Files)
		if again, err := initdata.Format(d); err != nil || string(again) != string(raw) {
			t.Errorf("%s, then\n%s, %v", raw, again, err)
		}
	}
	d, err = initdata.Parse([]byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = initdata.Format(d); err != nil || string(raw) != valid {
		t.Errorf("%s is written as\n%s, %v", valid, raw, err)
	}
}

func TestFormatRefuses(t *testing.T) {
	for name, d := range map[string]*initdata.Data{
		"the zero value":    {},
		"another version":   {Version: "1", Algorithm: "sha256"},
		"another algorithm": {Version: "0.1.0", Algorithm: "sm3"},
		"a path":            {Version: "0.1.0", Algorithm: "sha256", Files: map[string]string{"a/b": ""}},
		"not UTF-8":         {Version: "0.1.0", Algorithm: "sha256", Files: map[string]string{"a": "\xff"}},
		"too long":          {Version: "0.1.0", Algorithm: "sha256", Files: map[string]string{"a": strings.Repeat("a", initdata.MaxSize)}},
	} {
		if raw, err := initdata.Format(d); err == nil {
			t.Errorf("%s: written as %.100s", name, raw)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte("version='0.1.0'\nalgorithm=\"sha256\"\ndata={'a'=\"\"\"\\u0000\\\n x\"\"\"}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := initdata.Parse(raw)
		if err != nil {
			return
		}
		out, err := initdata.Format(d)
		if err != nil {
			if len(raw) > initdata.MaxSize/8 {
				return // escapes make it longer than is allowed
			}
			t.Fatal(err)
		}
		if back, err := initdata.Parse(out); err != nil || !reflect.DeepEqual(back, d) {
			t.Fatalf("%q is written as %q, which is %+v, %v", d, out, back, err)
		}
	})
}
