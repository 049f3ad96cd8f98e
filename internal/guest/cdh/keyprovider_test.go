// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/secret"
)

// layerOptions are what a layer's packet wraps.
const layerOptions = `{"symkey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",` +
	`"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","cipheroptions":{"nonce":"AAECAwQFBgcICQoLDA0ODw=="}}`

func unwrapRequest(packet []byte) *api.KeyProviderKeyWrapProtocolInput {
	return &api.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: fmt.Appendf(nil,
		`{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":{"dc":{"Parameters":{"attestation-agent":[]}},"annotation":%q}}`,
		base64.StdEncoding.EncodeToString(packet))}
}

func TestUnwrapKey(t *testing.T) {
	b := newBroker(t)
	key := strings.Repeat("k", imagecrypt.KeySize)
	b.Resources["default/image/key"] = key
	packet := func(kid, key string) []byte {
		p, err := imagecrypt.Wrap(kid, secret.New([]byte(key)), imagecrypt.A256GCM, secret.New([]byte(layerOptions)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := p.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	client := dial(t, newHub(t, b, nil))
	c := api.NewKeyProviderServiceClient(client)
	out, err := c.UnWrapKey(t.Context(), unwrapRequest(packet("kbs:///default/image/key", key)))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Results struct {
			Options []int `json:"optsdata"`
		} `json:"keyunwrapresults"`
	}
	if err := json.Unmarshal(out.GetKeyProviderKeyWrapProtocolOutput(), &answer); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, n := range answer.Results.Options {
		got = append(got, byte(n))
	}
	if string(got) != layerOptions {
		t.Errorf("%q", got)
	}
	raw := func(text string) *api.KeyProviderKeyWrapProtocolInput {
		return &api.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: []byte(text)}
	}
	for name, tt := range map[string]struct {
		request *api.KeyProviderKeyWrapProtocolInput
		code    codes.Code
		text    string
	}{
		"no such key":      {unwrapRequest(packet("kbs:///default/image/other", key)), codes.NotFound, CodeNotFound},
		"another key":      {unwrapRequest(packet("kbs:///default/image/key", strings.Repeat("x", 32))), codes.InvalidArgument, "key_wrong"},
		"no URI":           {unwrapRequest(packet("key", key)), codes.InvalidArgument, "key_unavailable"},
		"no packet":        {unwrapRequest([]byte("{}")), codes.InvalidArgument, "packet_malformed"},
		"nothing":          {raw(""), codes.InvalidArgument, codeKeyProviderRequest},
		"another op":       {raw(`{"op":"keywrap","keyunwrapparams":{"annotation":""}}`), codes.InvalidArgument, codeKeyProviderRequest},
		"annotation twice": {raw(`{"op":"keyunwrap","keyunwrapparams":{"annotation":"","annotation":""}}`), codes.InvalidArgument, codeKeyProviderRequest},
		"no base64":        {raw(`{"op":"keyunwrap","keyunwrapparams":{"annotation":"?"}}`), codes.InvalidArgument, codeKeyProviderRequest},
		"too long":         {raw(strings.Repeat(" ", maxUnwrap+1)), codes.InvalidArgument, codeKeyProviderRequest},
	} {
		_, err := c.UnWrapKey(t.Context(), tt.request)
		if status.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.text) ||
			!strings.Contains(fmt.Sprint(err), "[CDH] [ERROR]: Unwrap Key failed: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.WrapKey(t.Context(), &api.KeyProviderKeyWrapProtocolInput{}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func FuzzUnwrapRequest(f *testing.F) {
	f.Add(unwrapRequest([]byte("{}")).GetKeyProviderKeyWrapProtocolInput())
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = parseUnwrap(text) })
}
