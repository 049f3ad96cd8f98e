// SPDX-License-Identifier: Apache-2.0

package imagecrypt_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/imagecrypt"
)

func TestParsePacket(t *testing.T) {
	first := imagecrypt.Packet{
		Version: imagecrypt.PacketVersion, Provider: imagecrypt.ProviderKBS, KeyID: "kbs:///a/b/c",
		WrappedData: []byte("data"), IV: []byte("iv"), WrapType: imagecrypt.A256GCM,
	}
	service := imagecrypt.Packet{
		Version: imagecrypt.PacketVersion, Provider: "aliyun", KeyID: "key-1", WrappedData: []byte("data"),
		ProviderSettings: map[string]json.RawMessage{"client_type": json.RawMessage(`"ecs"`)},
		Annotations:      map[string]json.RawMessage{"iv": json.RawMessage(`"AA=="`)},
	}
	for name, c := range map[string]struct {
		text      string
		want      imagecrypt.Packet
		canonical bool // it is what we write
	}{
		"first form": {`{"kid":"kbs:///a/b/c","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`, first, true},
		"second form with what is the default": {
			`{"version":"0.1.0","provider":"kbs","kid":"kbs:///a/b/c","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM",
				"provider_settings":{},"annotations":{}}`, first, false,
		},
		"second form of a service": {
			`{"version":"0.1.0","provider":"aliyun","kid":"key-1","wrapped_data":"ZGF0YQ==",` +
				`"provider_settings":{"client_type":"ecs"},"annotations":{"iv":"AA=="}}`, service, true,
		},
		"null for nothing": {
			`{"provider":"aliyun","kid":"key-1","wrapped_data":"ZGF0YQ==","iv":null,"wrap_type":null,` +
				`"provider_settings":{"client_type":"ecs"},"annotations":{"iv":"AA=="}}`, service, false,
		},
	} {
		p, err := imagecrypt.ParsePacket([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(p.IV) == 0 {
			p.IV = nil
		}
		if !reflect.DeepEqual(*p, c.want) {
			t.Errorf("%s: got %+v", name, *p)
		}
		if text, err := json.Marshal(p); err != nil || c.canonical && string(text) != c.text {
			t.Errorf("%s is written as %s, %v", name, text, err)
		}
	}
}

func TestPacketsThatAreNone(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":              ``,
		"no object":            `[]`,
		"no kid":               `{"wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"an empty kid":         `{"kid":"","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"a long kid":           `{"kid":"` + strings.Repeat("k", 3000) + `","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"a null kid":           `{"kid":null,"wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"no data":              `{"kid":"k","iv":"aXY=","wrap_type":"A256GCM"}`,
		"empty data":           `{"kid":"k","wrapped_data":"","iv":"aXY=","wrap_type":"A256GCM"}`,
		"data no base64":       `{"kid":"k","wrapped_data":"ZGF0YQ","iv":"aXY=","wrap_type":"A256GCM"}`,
		"data in numbers":      `{"kid":"k","wrapped_data":[1,2],"iv":"aXY=","wrap_type":"A256GCM"}`,
		"IV no base64":         `{"kid":"k","wrapped_data":"ZGF0YQ==","iv":"!","wrap_type":"A256GCM"}`,
		"base64 with odd bits": `{"kid":"k","wrapped_data":"ZGF0YR==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"kid twice":            `{"kid":"k","kid":"l","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"another case":         `{"Kid":"k","kid":"k","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"another member":       `{"kid":"k","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM","x":1}`,
		"another version":      `{"version":"0.2.0","kid":"k","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"no provider":          `{"provider":"","kid":"k","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`,
		"settings a list":      `{"kid":"k","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM","provider_settings":[]}`,
		"more behind it":       `{"kid":"k","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}{}`,
		"too long":             `{"kid":"k","wrapped_data":"` + strings.Repeat("AAAA", 20<<10) + `","iv":"aXY=","wrap_type":"A256GCM"}`,
	} {
		if p, err := imagecrypt.ParsePacket([]byte(text)); imagecrypt.CodeOf(err) != imagecrypt.CodePacketMalformed {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add([]byte(`{"kid":"kbs:///a/b/c","wrapped_data":"ZGF0YQ==","iv":"aXY=","wrap_type":"A256GCM"}`))
	f.Add([]byte(`{"version":"0.1.0","provider":"aliyun","kid":"k","wrapped_data":"ZGF0YQ==","provider_settings":{"a":"<"},"annotations":{}}`))
	f.Add([]byte(`{"kid":"\ud800","wrapped_data":"AA==","iv":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := imagecrypt.ParsePacket(text)
		if err != nil {
			return
		}
		written, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%q was parsed and cannot be written: %v", text, err)
		}
		q, err := imagecrypt.ParsePacket(written)
		if err != nil {
			t.Fatalf("%q was written as %q, which is none: %v", text, written, err)
		}
		if again, err := json.Marshal(q); err != nil || string(again) != string(written) {
			t.Errorf("%q, parsed and written again, is %q, %v", written, again, err)
		}
	})
}

// vector reads what upstream's key provider wrote.
func vector(t *testing.T) []byte {
	t.Helper()
	dir := os.Getenv("NACRE_VECTORS")
	if dir == "" {
		t.Skip("NACRE_VECTORS is not set: the real vectors are not there to test against")
	}
	text, err := os.ReadFile(filepath.Join(dir, "image", "sample_kbc_annotation.json"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
