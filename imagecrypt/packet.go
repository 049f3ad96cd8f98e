// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nacre-project/nacre/strictjson"
)

// Caps on a packet: bytes altogether, bytes of the name of a key.
const (
	maxPacket = 64 << 10
	maxKeyID  = 2048
)

// What packets say that say nothing else.
const (
	PacketVersion = "0.1.0"
	ProviderKBS   = "kbs"
)

// How the key broker's keys wrap, by their names in packets.
const (
	A256GCM = "A256GCM" // AES-256-GCM, IV of 12 bytes, the tag of 16 bytes behind the ciphertext
	A256CTR = "A256CTR" // AES-256-CTR, IV of 16 bytes; does not notice that a key is wrong
)

// Packet is the annotation packet: a layer's private options, wrapped, and how to unwrap them. There are two forms of it.
// The first has the members kid, wrapped_data, iv and wrap_type; the second adds version, provider and what providers
// need. A packet of the first form is one of the second with the default version and provider.
type Packet struct {
	Version     string // PacketVersion
	Provider    string // who unwraps: ProviderKBS, or the name of a key management service
	KeyID       string // kid: which key unwraps, mostly kbs:///repository/type/tag
	WrappedData []byte
	IV          []byte // none with some providers
	WrapType    string // A256GCM or A256CTR with ProviderKBS; "" with some providers

	ProviderSettings map[string]json.RawMessage
	Annotations      map[string]json.RawMessage
}

// ParsePacket reads a packet of either form. Members that it does not know are refused: whoever wrote them may have meant
// something by them.
func ParsePacket(text []byte) (*Packet, error) {
	p, err := parsePacket(text)
	if err != nil {
		return nil, failed(CodePacketMalformed, err, "the annotation packet of an encrypted layer")
	}
	return p, nil
}

func parsePacket(text []byte) (*Packet, error) {
	members, err := strictjson.ParseObject(text, maxPacket)
	if err != nil {
		return nil, err
	}
	p := &Packet{Version: PacketVersion, Provider: ProviderKBS}
	var wrapped, iv string
	texts := map[string]*string{"kid": &p.KeyID, "wrapped_data": &wrapped}
	optional := map[string]*string{"version": &p.Version, "provider": &p.Provider, "iv": &iv, "wrap_type": &p.WrapType}
	for name, into := range optional {
		if members[name].Present() {
			texts[name] = into
		}
	}
	if err := members.Texts(texts); err != nil {
		return nil, err
	}
	if p.ProviderSettings, err = object(members, "provider_settings"); err != nil {
		return nil, err
	}
	if p.Annotations, err = object(members, "annotations"); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		switch name {
		case "kid", "wrapped_data", "version", "provider", "iv", "wrap_type", "provider_settings", "annotations":
		default:
			return nil, fmt.Errorf("unknown member %q", clip(name))
		}
	}
	if p.WrappedData, err = base64.StdEncoding.Strict().DecodeString(wrapped); err != nil {
		return nil, fmt.Errorf("wrapped_data: %w", err)
	}
	if p.IV, err = base64.StdEncoding.Strict().DecodeString(iv); err != nil {
		return nil, fmt.Errorf("iv: %w", err)
	}
	return p, p.validate()
}

// object is a member's members; nil for one that is absent or empty.
func object(members strictjson.Object, name string) (map[string]json.RawMessage, error) {
	if !members[name].Present() {
		return nil, nil
	}
	inner, err := members.Object(name)
	if err != nil || len(inner) == 0 {
		return nil, err
	}
	raw := map[string]json.RawMessage{}
	for name, value := range inner {
		raw[name] = value.Raw()
	}
	return raw, nil
}

func (p *Packet) validate() error {
	switch {
	case p.Version != PacketVersion:
		return fmt.Errorf("version %q, only %s is known", clip(p.Version), PacketVersion)
	case p.Provider == "":
		return errors.New("the provider has no name")
	case p.KeyID == "":
		return errors.New("kid is empty: no key is named")
	case len(p.KeyID) > maxKeyID:
		return fmt.Errorf("kid of %d bytes, at most %d are allowed", len(p.KeyID), maxKeyID)
	case len(p.WrappedData) == 0:
		return errors.New("wrapped_data is empty")
	}
	return nil
}

// MarshalJSON writes the first form when the packet has nothing that only the second can say: every guest reads that one.
func (p *Packet) MarshalJSON() ([]byte, error) {
	type first struct {
		KeyID       string `json:"kid"`
		WrappedData []byte `json:"wrapped_data"`
		IV          []byte `json:"iv,omitempty"`
		WrapType    string `json:"wrap_type,omitempty"`
	}
	one := first{p.KeyID, p.WrappedData, p.IV, p.WrapType}
	if p.Version == PacketVersion && p.Provider == ProviderKBS && len(p.ProviderSettings)+len(p.Annotations) == 0 {
		return json.Marshal(one)
	}
	settings, annotations := p.ProviderSettings, p.Annotations
	if settings == nil {
		settings = map[string]json.RawMessage{}
	}
	if annotations == nil {
		annotations = map[string]json.RawMessage{}
	}
	return json.Marshal(struct {
		Version  string `json:"version"`
		Provider string `json:"provider"`
		first
		ProviderSettings map[string]json.RawMessage `json:"provider_settings"`
		Annotations      map[string]json.RawMessage `json:"annotations"`
	}{p.Version, p.Provider, one, settings, annotations})
}
