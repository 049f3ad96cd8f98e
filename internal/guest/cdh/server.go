// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/kbs"
)

// maxResource is what fits into a ttrpc message of 4 MiB, with room for the rest of it.
const maxResource = 4<<20 - 1<<10

// What a stock hub says first of a failure; callers match it.
const (
	getFailed    = "Get Resource failed"
	unsealFailed = "Unseal Secret failed"
)

// Server answers GetResource, UnsealSecret and UnWrapKey of the stock hub's protocol. Its other services are not registered: who
// calls them is told that they are not supported, as by a stock hub without them.
type Server struct{ service *Service }

var (
	_ api.GetResourceServiceService  = (*Server)(nil)
	_ api.SealedSecretServiceService = (*Server)(nil)
	_ api.KeyProviderServiceService  = (*Server)(nil)
)

// Register adds the services to a ttrpc server.
func (s *Service) Register(server *ttrpc.Server) {
	api.RegisterGetResourceServiceService(server, &Server{s})
	api.RegisterSealedSecretServiceService(server, &Server{s})
	api.RegisterKeyProviderServiceService(server, &Server{s})
}

// GetResource fetches the resource that a URI names.
func (s *Server) GetResource(ctx context.Context, request *api.GetResourceRequest) (*api.GetResourceResponse, error) {
	uri, err := kbs.ParseResourceURI(request.GetResourcePath())
	if err != nil {
		return nil, refusal(getFailed, &Error{Kind: Invalid, Code: CodePathInvalid, Doing: "reading the name of the resource", Err: err})
	}
	value, err := s.service.Resource(ctx, uri)
	if err != nil {
		return nil, refusal(getFailed, err)
	}
	if value.Len() > maxResource {
		defer value.Wipe()
		return nil, status.Errorf(codes.ResourceExhausted, "[CDH] [ERROR]: %s: %d bytes do not fit into a "+
			"message of 4 MiB: get it from the REST service", getFailed, value.Len())
	}
	return &api.GetResourceResponse{Resource: value.Reveal()}, nil
}

// UnsealSecret opens a sealed secret.
func (s *Server) UnsealSecret(ctx context.Context, request *api.UnsealSecretInput) (*api.UnsealSecretOutput, error) {
	value, err := s.service.Unseal(ctx, string(request.GetSecret()))
	if err != nil {
		return nil, refusal(unsealFailed, err)
	}
	if value.Len() > maxResource {
		defer value.Wipe()
		return nil, status.Errorf(codes.ResourceExhausted, "[CDH] [ERROR]: %s: %d bytes do not fit into a message of 4 MiB",
			unsealFailed, value.Len())
	}
	return &api.UnsealSecretOutput{Plaintext: value.Reveal()}, nil
}

// refusal begins with the stock hub's words, which callers match, and goes on with the reason, which it keeps to
// itself.
func refusal(words string, err error) error {
	code := codes.Internal
	if e, ok := errors.AsType[*Error](err); ok {
		code = statusCode(e.Kind)
	}
	return status.Error(code, fmt.Sprintf("[CDH] [ERROR]: %s: %v", words, err))
}

func statusCode(kind Kind) codes.Code {
	switch kind {
	case Invalid:
		return codes.InvalidArgument
	case Denied:
		return codes.PermissionDenied
	case NotFound:
		return codes.NotFound
	case Unreachable, Unavailable:
		return codes.Unavailable
	}
	return codes.Internal
}
