// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"github.com/nacre-project/nacre/secret"
)

const plain = "correct horse battery"

// leaks reports whether out shows the secret, as text, hex, a list of numbers, base64 or Go syntax.
func leaks(out string) bool {
	lower := strings.ToLower(out)
	decimal := strings.Trim(fmt.Sprintf("%d", []byte(plain)[:6]), "[]")
	goSyntax := "0x63, 0x6f, 0x72"
	for _, form := range []string{plain[:7], hex.EncodeToString([]byte(plain))[:12], "636f72", decimal,
		strings.ReplaceAll(decimal, " ", ","), goSyntax, "Y29ycmVjd", "63 6f 72"} {
		if strings.Contains(lower, strings.ToLower(form)) {
			return true
		}
	}
	return false
}

type exported struct{ Secret secret.Bytes }
type unexported struct{ inner struct{ secret secret.Bytes } }

func TestEveryPrinterRedactsGHSA_h5f8_crrq_4pw8(t *testing.T) {
	s := secret.New([]byte(plain))
	hidden := unexported{}
	hidden.inner.secret = s
	holders := map[string]any{
		"value": s, "pointer": &s, "slice": []secret.Bytes{s}, "map": map[string]secret.Bytes{"k": s},
		"exported field": exported{s}, "pointer to exported field": &exported{s},
		"unexported field": hidden, "pointer to unexported field": &hidden, "any": []any{s, &s},
		"error": fmt.Errorf("opening %v: %w", s, errors.New("broken")),
	}
	for name, holder := range holders {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%o", "%b", "%c",
			"%U", "%e", "%p", "%t", "%T", "%5.3s", "%!"} {
			if out := fmt.Sprintf(verb, holder); leaks(out) {
				t.Errorf("%s under %s shows the secret: %s", name, verb, out)
			}
		}
		if out := fmt.Sprint(holder) + fmt.Sprintln(holder); leaks(out) {
			t.Errorf("%s under Sprint shows the secret: %s", name, out)
		}
		if out, err := json.Marshal(holder); err == nil && leaks(string(out)) {
			t.Errorf("%s as JSON shows the secret: %s", name, out)
		}
		if out, err := xml.Marshal(holder); err == nil && leaks(string(out)) {
			t.Errorf("%s as XML shows the secret: %s", name, out)
		}
		var buf bytes.Buffer
		if err := gob.NewEncoder(&buf).Encode(holder); err == nil && bytes.Contains(buf.Bytes(), []byte(plain)) {
			t.Errorf("%s as gob shows the secret", name)
		}
		buf.Reset()
		for _, handler := range []slog.Handler{slog.NewTextHandler(&buf, nil), slog.NewJSONHandler(&buf, nil)} {
			log := slog.New(handler).With("with", holder)
			log.Info("message", "attr", holder, slog.Group("group", "attr", holder))
		}
		if leaks(buf.String()) {
			t.Errorf("%s in slog shows the secret: %s", name, buf.String())
		}
		buf.Reset()
		if err := template.Must(template.New("").Parse("{{.}} {{printf \"%x\" .}}")).Execute(&buf, holder); err != nil {
			t.Fatal(err)
		}
		if leaks(buf.String()) {
			t.Errorf("%s in a template shows the secret: %s", name, buf.String())
		}
	}
}

func TestPlainPrintersSayRedacted(t *testing.T) {
	s := secret.New([]byte(plain))
	text, _ := s.MarshalText()
	jsonText, _ := s.MarshalJSON()
	for name, got := range map[string]string{
		"String": s.String(), "GoString": s.GoString(), "MarshalText": string(text), "%v": fmt.Sprintf("%v", s),
		"%#v": fmt.Sprintf("%#v", s), "%x": fmt.Sprintf("%x", s), "%d": fmt.Sprintf("%d", s),
		"LogValue": s.LogValue().String(), "MarshalJSON": strings.Trim(string(jsonText), `"`),
	} {
		if got != secret.Redacted {
			t.Errorf("%s = %q, want %q", name, got, secret.Redacted)
		}
	}
}

func TestRevealEqualWipe(t *testing.T) {
	s := secret.New([]byte(plain))
	if string(s.Reveal()) != plain || s.Len() != len(plain) {
		t.Fatalf("Reveal = %q, Len = %d", s.Reveal(), s.Len())
	}
	if !s.Equal(secret.New([]byte(plain))) || s.Equal(secret.New([]byte("other"))) || s.Equal(secret.Bytes{}) {
		t.Fatal("Equal is wrong")
	}
	kept := s
	s.Wipe()
	if !bytes.Equal(kept.Reveal(), make([]byte, len(plain))) {
		t.Fatal("Wipe left bytes in a copy")
	}
	var zero secret.Bytes
	zero.Wipe()
	if zero.Reveal() != nil || zero.Len() != 0 || !zero.Equal(secret.New(nil)) {
		t.Fatal("the zero value is not the empty secret")
	}
}
