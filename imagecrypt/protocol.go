// SPDX-License-Identifier: Apache-2.0

package imagecrypt

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/strictjson"
)

// MaxRequest caps a request of the key provider protocol, in bytes.
const MaxRequest = 1 << 20

// Request is a request of the key provider protocol: to wrap the private options of a layer, or to unwrap a packet.
type Request struct {
	Wrap bool
	// Parameters are what the user wrote behind the provider's name, by provider; when wrapping.
	Parameters map[string][]string
	Options    secret.Bytes // what is to be wrapped
	Packet     []byte       // what is to be unwrapped, for ParsePacket
}

// ParseRequest reads the JSON of a request. Bytes may be base64, as Go's clients write them, or numbers, as Rust's do. Members
// that it does not know are skipped: clients send their whole configuration.
func ParseRequest(text []byte) (*Request, error) {
	r, err := parseRequest(text)
	if err != nil {
		return nil, fmt.Errorf("the request to the key provider: %w", err)
	}
	return r, nil
}

func parseRequest(text []byte) (*Request, error) {
	members, err := strictjson.ParseObject(text, MaxRequest)
	if err != nil {
		return nil, err
	}
	op, err := members.Text("op")
	if err != nil {
		return nil, err
	}
	switch op {
	case "keywrap":
		params, err := members.Object("keywrapparams")
		if err != nil {
			return nil, err
		}
		r := &Request{Wrap: true}
		options, err := bytesOf(params["optsdata"])
		if err != nil {
			return nil, fmt.Errorf("optsdata: %w", err)
		}
		r.Options = secret.New(options)
		r.Parameters, err = parameters(params)
		return r, err
	case "keyunwrap":
		params, err := members.Object("keyunwrapparams")
		if err != nil {
			return nil, err
		}
		packet, err := bytesOf(params["annotation"])
		if err != nil {
			return nil, fmt.Errorf("annotation: %w", err)
		}
		return &Request{Packet: packet}, nil
	}
	return nil, fmt.Errorf("unknown operation %q", clip(op))
}

func parameters(params strictjson.Object) (map[string][]string, error) {
	config, err := params.Object("ec")
	if err != nil {
		return nil, err
	}
	named, err := config.Object("Parameters")
	if err != nil {
		return nil, err
	}
	all := map[string][]string{}
	for name, list := range named {
		values, err := list.Array()
		if err != nil {
			return nil, fmt.Errorf("parameters for %q: %w", clip(name), err)
		}
		for _, value := range values {
			b, err := bytesOf(value)
			if err != nil {
				return nil, fmt.Errorf("parameters for %q: %w", clip(name), err)
			}
			all[name] = append(all[name], string(b))
		}
	}
	return all, nil
}

// bytesOf reads base64, or a list of numbers.
func bytesOf(v strictjson.Value) ([]byte, error) {
	if text, err := v.Text(); err == nil {
		return base64.StdEncoding.DecodeString(text)
	}
	list, err := v.Array()
	if err != nil {
		return nil, errors.New("want bytes, in base64 or as numbers")
	}
	b := make([]byte, len(list))
	for i, n := range list {
		value, err := strconv.ParseUint(string(n.Raw()), 10, 8)
		if err != nil {
			return nil, errors.New("want numbers from 0 to 255")
		}
		b[i] = byte(value)
	}
	return b, nil
}

// numbers are bytes that JSON shows as numbers, which clients of both kinds read.
type numbers []byte

func (n numbers) MarshalJSON() ([]byte, error) {
	text := []byte{'['}
	for i, b := range n {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendUint(text, uint64(b), 10)
	}
	return append(text, ']'), nil
}

// WrapAnswer is the answer to a request to wrap: the packet, which becomes the layer's annotation.
func WrapAnswer(p *Packet) ([]byte, error) {
	packet, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"keywrapresults": map[string]any{"annotation": numbers(packet)}})
}

// UnwrapAnswer is the answer to a request to unwrap: the private options. It is a secret.
func UnwrapAnswer(options secret.Bytes) ([]byte, error) {
	return json.Marshal(map[string]any{"keyunwrapresults": map[string]any{"optsdata": numbers(options.Reveal())}})
}
