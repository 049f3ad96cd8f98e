// SPDX-License-Identifier: Apache-2.0

package imagecrypt_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/secret"
)

func TestParseRequest(t *testing.T) {
	// As ocicrypt for Go writes it, and as that for Rust does.
	for name, text := range map[string]string{
		"Go": `{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":["a2V5aWQ9eA=="]},"DecryptConfig":{"Parameters":null}},` +
			`"optsdata":"e30="},"keyunwrapparams":{"dc":null,"annotation":null}}`,
		"Rust": `{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":[[107,101,121,105,100,61,120]]}},"optsdata":[123,125]}}`,
	} {
		r, err := imagecrypt.ParseRequest([]byte(text))
		if err != nil || !r.Wrap || string(r.Options.Reveal()) != "{}" || !slices.Equal(r.Parameters["attestation-agent"], []string{"keyid=x"}) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	r, err := imagecrypt.ParseRequest([]byte(`{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":{"dc":{},"annotation":"e30="}}`))
	if err != nil || r.Wrap || string(r.Packet) != "{}" {
		t.Errorf("unwrapping: %+v, %v", r, err)
	}
	for name, text := range map[string]string{
		"nothing":            ``,
		"no operation":       `{}`,
		"another operation":  `{"op":"keysteal"}`,
		"no parameters":      `{"op":"keywrap"}`,
		"no configuration":   `{"op":"keywrap","keywrapparams":{"ec":null,"optsdata":"e30="}}`,
		"no options":         `{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{}}}}`,
		"options no bytes":   `{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{}},"optsdata":[256]}}`,
		"parameters no list": `{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"a":1}},"optsdata":""}}`,
		"no packet":          `{"op":"keyunwrap","keyunwrapparams":{"dc":null,"annotation":null}}`,
		"too long":           `{"op":"` + strings.Repeat("x", imagecrypt.MaxRequest) + `"}`,
	} {
		if r, err := imagecrypt.ParseRequest([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestAnswers(t *testing.T) {
	answer, err := imagecrypt.UnwrapAnswer(secret.New([]byte("ab")))
	if err != nil || string(answer) != `{"keyunwrapresults":{"optsdata":[97,98]}}` {
		t.Errorf("got %s, %v", answer, err)
	}
	packet := wrapped(t, imagecrypt.A256GCM)
	if answer, err = imagecrypt.WrapAnswer(&packet); err != nil {
		t.Fatal(err)
	}
	var read map[string]map[string][]byte // as Go's clients read it
	if err := json.Unmarshal(answer, &read); err != nil {
		t.Fatal(err)
	}
	got, err := imagecrypt.ParsePacket(read["keywrapresults"]["annotation"])
	if err != nil || got.KeyID != packet.KeyID || len(slices.Collect(maps.Keys(read))) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":["a2V5aWQ9eA=="]}},"optsdata":[123,125]}}`))
	f.Add([]byte(`{"op":"keyunwrap","keyunwrapparams":{"dc":null,"annotation":"e30="}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = imagecrypt.ParseRequest(text)
	})
}
