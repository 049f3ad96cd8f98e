// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/strictjson"
)

// Version is the one version of payloads.
const Version = "0.1.0"

// ProviderKBS is the provider that this package opens: a trustee. Others have names as well (aliyun, aws, ehsm) and are refused:
// what is with a cloud's key service is not released by an appraisal of the guest.
const ProviderKBS = "kbs"

// The values of a payload's type.
const (
	typeVault    = "vault"
	typeEnvelope = "envelope"
)

// How an envelope's data are encrypted under its data key.
const (
	WrapA256GCM = "A256GCM" // 12 bytes of IV; the data end with 16 bytes of tag
	WrapA256CTR = "A256CTR" // 16 bytes of IV; what protects the data from change is the signature
)

// Payload is what a sealed secret says. Exactly one of its members is set.
type Payload struct {
	Vault    *Vault
	Envelope *Envelope
}

// Vault is a secret that lies with a provider.
type Vault struct {
	Provider string // as written; case does not matter
	Name     string // provider kbs: the URI of the resource
	// Objects that must be there and mean nothing to a trustee; "" is {}.
	ProviderSettings, Annotations json.RawMessage
}

// Envelope is a secret that is encrypted under a data key, which is encrypted under a key of a provider.
type Envelope struct {
	Provider string // as written; case does not matter
	KeyID    string // provider kbs: the URI of the resource that is the key encryption key, 32 bytes
	// In standard base64, as upstream. With provider kbs the encrypted key is A256GCM's 48 bytes: the data key and 16 bytes of
	// tag; its IV of 12 bytes is the annotation iv.
	EncryptedKey, EncryptedData, IV string
	WrapType                        string // of the data
	ProviderSettings, Annotations   json.RawMessage
}

// ParsePayload reads a payload. It has the members of its type, all of them and no others, as upstream's.
// Every error is an *[Error].
func ParsePayload(text []byte) (*Payload, error) {
	members, err := strictjson.ParseObject(text, MaxText)
	if err != nil {
		return nil, refuse(PayloadMalformed, "%w", err)
	}
	version, err := members.Text("version")
	if err != nil {
		return nil, refuse(PayloadMalformed, "%w", err)
	}
	if version != Version {
		return nil, refuse(VersionUnsupported, "version %q, want %s", clip(version), Version)
	}
	kind, err := members.Text("type")
	if err != nil {
		return nil, refuse(PayloadMalformed, "%w", err)
	}
	var p Payload
	switch kind {
	case typeVault:
		p.Vault, err = parseVault(members)
	case typeEnvelope:
		p.Envelope, err = parseEnvelope(members)
	default:
		err = fmt.Errorf("type %q, want %s or %s", clip(kind), typeVault, typeEnvelope)
	}
	if err != nil {
		return nil, refuse(PayloadMalformed, "%w", err)
	}
	return &p, nil
}

func parseVault(o strictjson.Object) (*Vault, error) {
	v := &Vault{}
	err := o.Texts(map[string]*string{"provider": &v.Provider, "name": &v.Name})
	if err == nil {
		v.ProviderSettings, v.Annotations, err = objects(o)
	}
	if err == nil {
		err = only(o, "version", "type", "provider", "name", "provider_settings", "annotations")
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

func parseEnvelope(o strictjson.Object) (*Envelope, error) {
	e := &Envelope{}
	err := o.Texts(map[string]*string{
		"provider": &e.Provider, "key_id": &e.KeyID, "encrypted_key": &e.EncryptedKey, "encrypted_data": &e.EncryptedData,
		"wrap_type": &e.WrapType, "iv": &e.IV,
	})
	if err == nil && e.WrapType != WrapA256GCM && e.WrapType != WrapA256CTR {
		err = fmt.Errorf("wrap_type %q, want %s or %s", clip(e.WrapType), WrapA256GCM, WrapA256CTR)
	}
	if err == nil {
		e.ProviderSettings, e.Annotations, err = objects(o)
	}
	if err == nil {
		err = only(o, "version", "type", "provider", "key_id", "encrypted_key", "encrypted_data", "wrap_type", "iv",
			"provider_settings", "annotations")
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// objects are the two members that both types have, and upstream's reader demands.
func objects(o strictjson.Object) (providerSettings, annotations json.RawMessage, err error) {
	if providerSettings, err = settings(o, "provider_settings"); err != nil {
		return nil, nil, err
	}
	annotations, err = settings(o, "annotations")
	return providerSettings, annotations, err
}

// MarshalJSON writes the payload with upstream's members in upstream's order.
func (p Payload) MarshalJSON() ([]byte, error) {
	type head struct {
		Version string `json:"version"`
		Type    string `json:"type"`
	}
	switch v, e := p.Vault, p.Envelope; {
	case v != nil && e == nil:
		return marshal(struct {
			head
			Name        string          `json:"name"`
			Provider    string          `json:"provider"`
			Settings    json.RawMessage `json:"provider_settings"`
			Annotations json.RawMessage `json:"annotations"`
		}{head{Version, typeVault}, v.Name, v.Provider, orEmpty(v.ProviderSettings), orEmpty(v.Annotations)})
	case e != nil && v == nil:
		return marshal(struct {
			head
			KeyID         string          `json:"key_id"`
			EncryptedKey  string          `json:"encrypted_key"`
			EncryptedData string          `json:"encrypted_data"`
			WrapType      string          `json:"wrap_type"`
			IV            string          `json:"iv"`
			Provider      string          `json:"provider"`
			Settings      json.RawMessage `json:"provider_settings"`
			Annotations   json.RawMessage `json:"annotations"`
		}{head{Version, typeEnvelope}, e.KeyID, e.EncryptedKey, e.EncryptedData, e.WrapType, e.IV, e.Provider,
			orEmpty(e.ProviderSettings), orEmpty(e.Annotations)})
	}
	return nil, errors.New("a sealed secret is a vault or an envelope")
}

// marshal writes JSON as it is: what others wrote stays, "&" included.
func marshal(v any) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

func orEmpty(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}

// Resource is what of the trustee's the payload needs: the secret itself, or the key that encrypts it.
func (p *Payload) Resource() (kbs.ResourceURI, error) {
	provider, name := "", ""
	switch {
	case p.Vault != nil:
		provider, name = p.Vault.Provider, p.Vault.Name
	case p.Envelope != nil:
		provider, name = p.Envelope.Provider, p.Envelope.KeyID
	}
	if !strings.EqualFold(provider, ProviderKBS) {
		return kbs.ResourceURI{}, refuse(ProviderUnsupported, "provider %q: keys and secrets of other services are not supported; "+
			"put it into the trustee and seal it again with provider %q", clip(provider), ProviderKBS)
	}
	uri, err := kbs.ParseResourceURI(name)
	if err != nil {
		return kbs.ResourceURI{}, refuse(PayloadMalformed, "%w", err)
	}
	return uri, nil
}
