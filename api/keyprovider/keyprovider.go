// SPDX-License-Identifier: Apache-2.0

// Package keyprovider is the gRPC face of the key provider protocol (keyprovider.KeyProviderService), which container tools
// on the owner's side speak to have layers' keys wrapped. The messages are those of package api/cdh, whose ttrpc face
// guests have; the two are apart because a guest links no gRPC. It holds no behaviour.
package keyprovider

import (
	"context"

	"google.golang.org/grpc"

	"github.com/nacre-project/nacre/api/cdh"
)

const serviceName = "keyprovider.KeyProviderService"

// Register has a gRPC server serve the protocol.
func Register(s grpc.ServiceRegistrar, service cdh.KeyProviderServiceService) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*cdh.KeyProviderServiceService)(nil),
		Methods: []grpc.MethodDesc{
			method("WrapKey", cdh.KeyProviderServiceService.WrapKey),
			method("UnWrapKey", cdh.KeyProviderServiceService.UnWrapKey),
		},
		Metadata: "api/cdh/keyprovider.proto",
	}, service)
}

type (
	input  = cdh.KeyProviderKeyWrapProtocolInput
	output = cdh.KeyProviderKeyWrapProtocolOutput
)

func method(name string, call func(cdh.KeyProviderServiceService, context.Context, *input) (*output, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(service any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			in := new(input)
			if err := decode(in); err != nil {
				return nil, err
			}
			handle := func(ctx context.Context, in any) (any, error) {
				return call(service.(cdh.KeyProviderServiceService), ctx, in.(*input)) //nolint:forcetypeassert // RegisterService checked them
			}
			if intercept == nil {
				return handle(ctx, in)
			}
			return intercept(ctx, in, &grpc.UnaryServerInfo{Server: service, FullMethod: "/" + serviceName + "/" + name}, handle)
		},
	}
}

// Client asks a key provider.
type Client struct{ Conn grpc.ClientConnInterface }

// WrapKey asks for a key to be wrapped.
func (c Client) WrapKey(ctx context.Context, in *input) (*output, error) {
	return c.call(ctx, "WrapKey", in)
}

// UnWrapKey asks for a key to be unwrapped.
func (c Client) UnWrapKey(ctx context.Context, in *input) (*output, error) {
	return c.call(ctx, "UnWrapKey", in)
}

func (c Client) call(ctx context.Context, name string, in *input) (*output, error) {
	out := new(output)
	if err := c.Conn.Invoke(ctx, "/"+serviceName+"/"+name, in, out); err != nil {
		return nil, err
	}
	return out, nil
}
