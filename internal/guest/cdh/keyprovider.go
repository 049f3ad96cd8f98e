// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
	"github.com/nacre-project/nacre/strictjson"
)

// unwrapFailed is what a stock hub says first when it does not unwrap a layer's key.
const unwrapFailed = "Unwrap Key failed"

// Codes of the key provider that are not imagecrypt's. They are stable.
const codeKeyProviderRequest = "key_provider_request_invalid"

// maxUnwrap caps the request for unwrapping, in bytes: a packet in base64, in JSON.
const maxUnwrap = 128 << 10

// WrapKey is no service of a guest's, which has nothing to encrypt.
func (s *Server) WrapKey(context.Context, *api.KeyProviderKeyWrapProtocolInput) (*api.KeyProviderKeyWrapProtocolOutput, error) {
	return nil, status.Error(codes.NotFound, "/keyprovider.KeyProviderService/WrapKey is not supported")
}

// UnWrapKey unwraps the key of an encrypted image's layer for another puller of images in the guest, by ocicrypt's key provider
// protocol: {"op":"keyunwrap","keyunwrapparams":{"annotation":<base64 of the packet>}} becomes
// {"keyunwrapresults":{"optsdata":[<bytes as numbers>]}}.
func (s *Server) UnWrapKey(ctx context.Context, request *api.KeyProviderKeyWrapProtocolInput) (*api.KeyProviderKeyWrapProtocolOutput, error) {
	options, err := s.service.unwrap(ctx, request.GetKeyProviderKeyWrapProtocolInput())
	if err != nil {
		return nil, refusal(unwrapFailed, err)
	}
	defer options.Wipe()
	raw := options.Reveal()
	numbers := make([]uint16, len(raw)) // a slice of bytes would be written as base64
	for i, b := range raw {
		numbers[i] = uint16(b)
	}
	defer clear(numbers)
	type results struct {
		Options []uint16 `json:"optsdata"`
	}
	text, err := json.Marshal(struct {
		Results results `json:"keyunwrapresults"`
	}{results{numbers}})
	if err != nil {
		return nil, refusal(unwrapFailed, err)
	}
	return &api.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: text}, nil
}

func (s *Service) unwrap(ctx context.Context, request []byte) (secret.Bytes, error) {
	annotation, err := parseUnwrap(request)
	if err != nil {
		return secret.Bytes{}, &Error{Kind: Invalid, Code: codeKeyProviderRequest, Doing: "reading the request for a layer's key", Err: err}
	}
	options, err := unwrapPacket(ctx, annotation, s)
	if err == nil {
		return options, nil
	}
	if e, ok := errors.AsType[*Error](err); ok { // of the resource that is the key
		return secret.Bytes{}, &Error{
			Kind: e.Kind, Code: e.Code, Doing: "unwrapping a layer's key", Err: err, RequestID: e.RequestID, RetryAfter: e.RetryAfter,
		}
	}
	return secret.Bytes{}, &Error{Kind: Invalid, Code: string(imagecrypt.CodeOf(err)), Doing: "unwrapping a layer's key", Err: err}
}

func unwrapPacket(ctx context.Context, annotation []byte, s *Service) (secret.Bytes, error) {
	packet, err := imagecrypt.ParsePacket(annotation)
	if err != nil {
		return secret.Bytes{}, err
	}
	return imagecrypt.Unwrap(ctx, *packet, layerKeys{s})
}

// parseUnwrap returns the packet. What else is in a request is a matter of other key providers: members that are not known are
// passed over.
func parseUnwrap(text []byte) ([]byte, error) {
	request, err := strictjson.ParseObject(text, maxUnwrap)
	if err != nil {
		return nil, err
	}
	if op, err := request.Text("op"); err != nil {
		return nil, err
	} else if op != "keyunwrap" {
		return nil, fmt.Errorf("op is %.100q, want keyunwrap", op)
	}
	params, err := request.Object("keyunwrapparams")
	if err != nil {
		return nil, err
	}
	annotation, err := params.Text("annotation")
	if err != nil {
		return nil, err
	}
	packet, err := base64.StdEncoding.Strict().DecodeString(annotation)
	if err != nil {
		return nil, fmt.Errorf("annotation: %w", err)
	}
	return packet, nil
}

// layerKeys finds keys by their URIs.
type layerKeys struct{ service *Service }

func (k layerKeys) Key(ctx context.Context, kid string) (secret.Bytes, error) {
	uri, err := kbs.ParseResourceURI(kid)
	if err != nil {
		return secret.Bytes{}, err
	}
	return k.service.Resource(ctx, uri)
}
