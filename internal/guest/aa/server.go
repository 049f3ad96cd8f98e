// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"context"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/aa"
)

// Server answers the stock agent's protocol with what is safe to answer.
type Server struct{ service *Service }

var _ api.AttestationAgentServiceService = (*Server)(nil)

// Register adds the service to a ttrpc server.
func (s *Service) Register(server *ttrpc.Server) {
	api.RegisterAttestationAgentServiceService(server, &Server{s})
}

// GetTeeType says what platform this is.
func (s *Server) GetTeeType(context.Context, *api.GetTeeTypeRequest) (*api.GetTeeTypeResponse, error) {
	return &api.GetTeeTypeResponse{Tee: string(s.service.TEE())}, nil
}

// GetAdditionalTees says which devices can attest beside the platform: none.
func (s *Server) GetAdditionalTees(
	context.Context, *api.GetAdditionalTeesRequest,
) (*api.GetAdditionalTeesResponse, error) {
	return &api.GetAdditionalTeesResponse{}, nil
}

// GetAdditionalEvidence answers as an agent without such devices does: with nothing.
func (s *Server) GetAdditionalEvidence(
	context.Context, *api.GetAdditionalEvidenceRequest,
) (*api.GetEvidenceResponse, error) {
	return &api.GetEvidenceResponse{}, nil
}

// GetEvidence is denied: evidence for report data of the caller's choice would let him attest as this guest, with a
// key of his own.
func (s *Server) GetEvidence(context.Context, *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "evidence for report data that the caller chooses is not given: ask "+
		"the data hub for the resource, and the guest attests for itself")
}

// GetToken is denied: a token comes with the private key that secrets are encrypted to, which stays where it is.
func (s *Server) GetToken(context.Context, *api.GetTokenRequest) (*api.GetTokenResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "tokens are not given out, for the key that belongs to one does not "+
		"leave the agent: ask the data hub for the resource")
}

// ExtendRuntimeMeasurement says that there is no runtime measurement, in the stock agent's words.
func (s *Server) ExtendRuntimeMeasurement(
	context.Context, *api.ExtendRuntimeMeasurementRequest,
) (*api.ExtendRuntimeMeasurementResponse, error) {
	result := api.RuntimeMeasurementResult_NOT_ENABLED
	if s.service.options.Config.EventLog {
		result = api.RuntimeMeasurementResult_NOT_SUPPORTED
	}
	return &api.ExtendRuntimeMeasurementResponse{Result: result}, nil
}

// BindInitData is not a matter for callers: the guest has bound its init-data before this server existed. The stock
// agent does not serve it by ttrpc either, and says so with these words.
func (s *Server) BindInitData(context.Context, *api.BindInitDataRequest) (*api.BindInitDataResponse, error) {
	return nil, status.Error(codes.NotFound, "/attestation_agent.AttestationAgentService/BindInitData is not supported: the "+
		"init-data is bound once, at boot")
}
