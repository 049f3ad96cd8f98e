// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestCanonicalJSON(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"members sorted", `{"b":1,"a":"test","c":{"d":"e"}}`, `{"a":"test","b":1,"c":{"d":"e"}}`},
		{"white space", " { \"b\" : [ 1 , true , null ] , \"a\" : false }\n", `{"a":false,"b":[1,true,null]}`},
		// RFC 8785 section 3.2.2: the string member of its example.
		{"escapes", `{"s":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/"}`, "{\"s\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"},
		{"short escapes", `"\b\t\n\f\r\u0000\u001f\u007f"`, "\"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\""},
		// RFC 8785 section 3.2.3.
		{"UTF-16 order", `{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",` +
			`"\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\"," +
				"\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"},
		{"integers", `[-0, 9007199254740991, -9007199254740991]`, `[0,9007199254740991,-9007199254740991]`},
		{"empty", `[{},[],""]`, `[{},[],""]`},
		{"no HTML escapes", `"<&>\u2028"`, "\"<&>\u2028\""},
	} {
		got, err := CanonicalJSON([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

func TestCanonicalJSONHash(t *testing.T) {
	canonical, err := CanonicalJSON([]byte(`{"b":1,"a":"test","c":{"d":"e"}}`))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum384(canonical)
	const want = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("SHA-384 %s, want %s", got, want)
	}
}

func TestCanonicalJSONRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":         "",
		"fraction":        "1.5",
		"exponent":        "1e3",
		"beyond 53 bits":  "9007199254740992",
		"twice":           `{"a":1,"a":1}`,
		"twice by escape": `{"a":1,"\u0061":1}`, "cut": `{"a":`, "two values": "1 2", "not UTF-8": "\"\xff\"",
		"lone high surrogate": `"\ud800"`, "lone low surrogate": `"\udc00"`, "surrogates reversed": `"\udc00\ud800"`,
		"high surrogate, then text": `"\ud800\u0041"`,
		"too deep":                  strings.Repeat("[", 100) + strings.Repeat("]", 100),
		"very deep":                 strings.Repeat("[", 1<<20), "too long": `"` + strings.Repeat("a", maxCanonicalSize) + `"`,
		"name not a string": `{1:2}`, "trailing comma": `[1,]`, "huge number": strings.Repeat("9", 1<<16),
	} {
		if got, err := CanonicalJSON([]byte(in)); err == nil {
			t.Errorf("%s: accepted as %s", name, clip(string(got)))
		}
	}
}

func FuzzCanonicalJSON(f *testing.F) {
	for _, seed := range []string{`{"b":1,"a":"test","c":{"d":"e"}}`,
		`["\ud83d\ude00","\\ud800",null,true]`, `"\u0000"`, `{"\ufb33":0,"\ud83d\ude00":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := CanonicalJSON(in)
		if err != nil {
			return
		}
		again, err := CanonicalJSON(out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("the canonical form %q canonicalises to %q, %v", out, again, err)
		}
		var before, after any
		if json.Unmarshal(in, &before) != nil || json.Unmarshal(out, &after) != nil ||
			!reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q, which says something else", in, out)
		}
	})
}
