// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestParseObject(t *testing.T) {
	const text = " {\"a\" : 1 , \"b\":\"x\\\"}\\\\\" ,\n\"c\":{\"d\":[1,{\"e\":\"]\"}]}, \"\\u0066\":true,\"g\":[],\"h\":-1.5e3}\n"
	members, err := parseObject([]byte(text), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "1", "b": `"x\"}\\"`, "c": `{"d":[1,{"e":"]"}]}`, "f": "true", "g": "[]", "h": "-1.5e3"}
	if len(members) != len(want) {
		t.Errorf("%d members, want %d", len(members), len(want))
	}
	for name, value := range want {
		if string(members[name]) != value {
			t.Errorf("%s: %s, want %s", name, members[name], value)
		}
	}
	if s, err := members.text("b"); err != nil || s != `x"}\` {
		t.Errorf("b: %s, %v", s, err)
	}
	for _, name := range []string{"a", "c", "f", "missing"} {
		if s, err := members.text(name); err == nil {
			t.Errorf("%s is the string %s", name, s)
		}
	}
	for _, name := range []string{"a", "b", "g", "missing"} {
		if o, err := members.object(name); err == nil {
			t.Errorf("%s is the object %v", name, o)
		}
	}
	if o, err := parseObject([]byte("{ }"), 10); err != nil || len(o) != 0 {
		t.Errorf("empty: %v, %v", o, err)
	}
}

func TestParseObjectSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"": "not JSON", `{"a":}`: "byte 6", `{"a":1`: "unexpected end", "[]": "not a JSON object", `"a"`: "not a JSON object",
		`{"a":1,"a":2}`: `"a" appears twice`, "{}{}": "byte 3", "{\"\xff\":1}": "not UTF-8", strings.Repeat(" ", 100): "at most 50",
	} {
		if _, err := parseObject([]byte(text), 50); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want an error with %q", text, err, want)
		}
	}
}

// Another reader of JSON is the oracle: what it sees in the first place of each member, we see.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{validRequest, validAttestation, `{"a":"\\","b":[{"c":"}"}],"d":1e5 , "e":null}`, `{"a":1,"\u0061":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		members, err := parseObject(text, 1<<20)
		if err != nil {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		if _, err := dec.Token(); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for ; dec.More(); seen++ {
			name, err := dec.Token()
			if err != nil {
				t.Fatal(err)
			}
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				t.Fatal(err)
			}
			if got, present := members[name.(string)]; !present || !bytes.Equal(got, value) {
				t.Fatalf("%q is %q, want %q", name, got, value)
			}
		}
		if _, err := dec.Token(); err != nil || seen != len(members) {
			t.Fatalf("%d members, want %d, %v", len(members), seen, err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			t.Fatal("text follows")
		}
	})
}

func BenchmarkParseAttestation(b *testing.B) {
	evidence := `{"attestation_report":{"signature":[` + strings.Repeat("255,", 4000) + `0]}}`
	body := []byte(strings.Replace(validAttestation, `{"attestation_report":{}}`, evidence, 1))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseAttestation(body); err != nil {
			b.Fatal(err)
		}
	}
}
