// SPDX-License-Identifier: Apache-2.0

package strictjson_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nacre-project/nacre/strictjson"
)

func TestParseObject(t *testing.T) {
	const text = " {\"a\" : 1 , \"b\":\"x\\\"}\\\\\" ,\n\"c\":{\"d\":[1,{\"e\":\"]\"}]}, \"\\u0066\":true,\"g\":[],\"h\":-1.5e3,\"i\":null}\n"
	members, err := strictjson.ParseObject([]byte(text), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "1", "b": `"x\"}\\"`, "c": `{"d":[1,{"e":"]"}]}`, "f": "true", "g": "[]", "h": "-1.5e3", "i": "null"}
	if len(members) != len(want) {
		t.Errorf("%d members, want %d", len(members), len(want))
	}
	for name, value := range want {
		if got := members[name]; string(got.Raw()) != value || got.Present() != (name != "i") {
			t.Errorf("%s: %s, present %t, want %s", name, got.Raw(), got.Present(), value)
		}
	}
	if s, err := members.Text("b"); err != nil || s != `x"}\` {
		t.Errorf("b: %s, %v", s, err)
	}
	if members["missing"].Present() || members["missing"].Raw() != nil {
		t.Error("what is missing is present")
	}
	for _, name := range []string{"a", "c", "f", "i", "missing"} {
		if s, err := members.Text(name); err == nil {
			t.Errorf("%s is the string %s", name, s)
		}
	}
	for _, name := range []string{"a", "b", "g", "i", "missing"} {
		if o, err := members.Object(name); err == nil {
			t.Errorf("%s is the object %v", name, o)
		}
	}
	for _, name := range []string{"a", "b", "c", "i", "missing"} {
		if o, err := members.Array(name); err == nil {
			t.Errorf("%s is the array %v", name, o)
		}
	}
	if list, err := members.Array("g"); err != nil || len(list) != 0 {
		t.Errorf("g: %v, %v", list, err)
	}
	if o, err := strictjson.ParseObject([]byte("{ }"), 10); err != nil || len(o) != 0 {
		t.Errorf("empty: %v, %v", o, err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"": "not JSON: unexpected end", `{"a":}`: "byte 6", `{"a":1`: "unexpected end", "[]": "not a JSON object", `"a"`: "not a JSON object",
		`{"a":1,"a":2}`: `"a" appears twice`, "{}{}": "byte 3", "{\"\xff\":1}": "not UTF-8", strings.Repeat(" ", 100): "at most 50",
		`{"a":01}`: "byte 7: unexpected '1'", `{"a":+1}`: "byte 6", `{"a":1.}`: "byte 8", `{"a":"\x"}`: "byte 8", `{"a":nul}`: "byte 9",
		`{"a" 1}`: "byte 6", `{1:2}`: "byte 2", `{"a":1,}`: "byte 8", `["a":1]`: "byte 5", "{\"a\":\"\n\"}": "byte 7", `{"a":"\u12g4"}`: "byte 11",
		`{"a` + "\x00" + `":1}`: `byte 4: unexpected '\x00'`,
	} {
		if _, err := strictjson.ParseObject([]byte(text), 50); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want an error with %q", text, err, want)
		}
	}
	members, err := strictjson.ParseObject([]byte(`{"a":{"b":1,"b":2},"c":[]}`), 50)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := members.Object("a"); err == nil || !strings.Contains(err.Error(), `member "a": member "b" appears twice`) {
		t.Error(err)
	}
	if _, err := members.Object("d"); err == nil || err.Error() != `no member "d"` {
		t.Error(err)
	}
}

func TestDepth(t *testing.T) {
	nested := func(depth int, opening, closing string) []byte {
		return []byte(strings.Repeat(opening, depth) + "1" + strings.Repeat(closing, depth))
	}
	for _, brackets := range []struct {
		opening, closing string
		deepest          int
	}{{"[", "]", strictjson.MaxDepth}, {`{"a":`, "}", strictjson.MaxDepth}, {`[ {"a":`, "}]", strictjson.MaxDepth / 2}} {
		if _, err := strictjson.Parse(nested(brackets.deepest, brackets.opening, brackets.closing), 1<<20); err != nil {
			t.Errorf("%s: %v", brackets.opening, err)
		}
		for _, depth := range []int{brackets.deepest + 1, 100_000} {
			if _, err := strictjson.Parse(nested(depth, brackets.opening, brackets.closing), 1<<20); err == nil {
				t.Errorf("%s %d times: accepted", brackets.opening, depth)
			}
		}
	}
}

// Were the last of two members taken here and the first there, two programs would see different things in one message.
func TestAttackMemberTwice(t *testing.T) {
	for name, text := range map[string]string{
		"plain": `{"nonce":"a","nonce":"b"}`, "by escape": `{"nonce":"a","\u006eonce":"b"}`, "halves of pairs": `{"\ud800":1,"\ud801":2}`,
	} {
		t.Run(name, func(t *testing.T) {
			if members, err := strictjson.ParseObject([]byte(text), 100); err == nil {
				t.Errorf("read as %v", members)
			}
			outer, err := strictjson.Parse([]byte(`{"in":[`+text+`]}`), 100)
			if err != nil {
				t.Fatal(err)
			}
			if value, err := outer.Decoded(); err == nil {
				t.Errorf("inside of another read as %v", value)
			}
		})
	}
}

// Another reader of JSON is the oracle: what is JSON to it, and no deeper than is read here, is JSON to us; and what it sees in the
// first place of each member, in each element and in each string, we see.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"a":"\\","b":[{"c":"}"}],"d":1e5 , "e":null}`, `{"a":1,"\u0061":2}`, `[0,-1.5E+3,1e-2,true,false,[ ]]`,
		`"\ud83d\ude00\ud83d\u0041\/\b\f\n\r\t"`, `{"a":[1,2 , 3],"b":{}}`, "\"\x7f\u2028\"", "01", "1.", "-", "\"\x01\"", `"\`, `"\u12`,
		"[1,2,\n3, 4]", "[1,]", "[1,02,3]", "[1,2", `[1,"a]",[2,"]"]]`, `{"a":[1,{"b":["]"]}],"c":[[1],[2]]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		value, err := strictjson.Parse(text, 1<<20)
		if err != nil {
			if json.Valid(text) && utf8.Valid(text) && bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")) < strictjson.MaxDepth {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		var raw json.RawMessage
		if err := json.Unmarshal(text, &raw); err != nil || !bytes.Equal(raw, value.Raw()) {
			t.Fatalf("%q is %q, want %q, %v", text, value.Raw(), raw, err)
		}
		same(t, value)
		decoded, err := value.Decoded()
		if err != nil {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil || !reflect.DeepEqual(decoded, want) {
			t.Fatalf("%s is %v, want %v, %v", text, decoded, want, err)
		}
	})
}

func TestDecoded(t *testing.T) {
	value, err := strictjson.Parse([]byte(`{"a":[null,true,false,1e5,{"b":"\u00e9"}],"c":{},"d":[]}`), 100)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": []any{nil, true, false, json.Number("1e5"), map[string]any{"b": "é"}}, "c": map[string]any{}, "d": []any{}}
	if got, err := value.Decoded(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	var absent strictjson.Value
	if got, err := absent.Decoded(); err == nil {
		t.Errorf("what is absent is %v", got)
	}
}

// same compares a value, and what is in it, with what encoding/json makes of it.
func same(t *testing.T, value strictjson.Value) {
	t.Helper()
	switch value.Raw()[0] {
	case '{':
		members, err := value.Object()
		var want map[string]json.RawMessage
		if err := json.Unmarshal(value.Raw(), &want); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			if dec := json.NewDecoder(bytes.NewReader(value.Raw())); names(t, dec) == len(want) {
				t.Fatalf("%s: %v", value.Raw(), err)
			}
			return
		}
		if len(members) != len(want) {
			t.Fatalf("%s: %d members, want %d", value.Raw(), len(members), len(want))
		}
		for name, raw := range want {
			if !bytes.Equal(members[name].Raw(), raw) {
				t.Fatalf("%q is %s, want %s", name, members[name].Raw(), raw)
			}
			same(t, members[name])
		}
	case '[':
		elements, err := value.Array()
		if err != nil {
			t.Fatal(err)
		}
		var want []json.RawMessage
		if err := json.Unmarshal(value.Raw(), &want); err != nil || len(want) != len(elements) {
			t.Fatalf("%s: %d elements, want %d, %v", value.Raw(), len(elements), len(want), err)
		}
		for i, element := range elements {
			if !bytes.Equal(element.Raw(), want[i]) {
				t.Fatalf("element %d is %s, want %s", i, element.Raw(), want[i])
			}
			same(t, element)
		}
	case '"':
		got, err := value.Text()
		var want string
		if err := json.Unmarshal(value.Raw(), &want); err != nil {
			t.Fatal(err)
		}
		if err != nil || got != want {
			t.Fatalf("%s is %q, %v, want %q", value.Raw(), got, err, want)
		}
	}
}

// names counts the members that an object has in its text.
func names(t *testing.T, dec *json.Decoder) (count int) {
	t.Helper()
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	for ; dec.More(); count++ {
		var value json.RawMessage
		if _, err := dec.Token(); err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return count
}

func BenchmarkParseObject(b *testing.B) {
	text := []byte(`{"evidence":[` + strings.Repeat("255,17,", 2000) + `0],"body":"` + strings.Repeat(`some lines of text\n`, 500) + `"}`)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		members, err := strictjson.ParseObject(text, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := members.Text("body"); err != nil {
			b.Fatal(err)
		}
	}
}
