// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/nacre-project/nacre/api/aa"
	"github.com/nacre-project/nacre/internal/guest/socket"
	"github.com/nacre-project/nacre/test/brokertest"
)

// client connects to a service as a program of the measured image does.
func client(t *testing.T, s *Service) api.AttestationAgentServiceService {
	t.Helper()
	path := filepath.Join(t.TempDir(), "aa.sock")
	l, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- socket.Serve(ctx, l, s.Register) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return api.NewAttestationAgentServiceClient(c)
}

func TestServer(t *testing.T) {
	s, _ := newService(t, brokertest.New(t), nil)
	c := client(t, s)
	if tee, err := c.GetTeeType(t.Context(), &api.GetTeeTypeRequest{}); err != nil || tee.GetTee() != "snp" {
		t.Errorf("%v, %v", tee, err)
	}
	if tees, err := c.GetAdditionalTees(t.Context(), &api.GetAdditionalTeesRequest{}); err != nil || len(tees.GetAdditionalTees()) != 0 {
		t.Errorf("%v, %v", tees, err)
	}
	e, err := c.GetAdditionalEvidence(t.Context(), &api.GetAdditionalEvidenceRequest{RuntimeData: []byte("x")})
	if err != nil || len(e.GetEvidence()) != 0 {
		t.Errorf("%v, %v", e, err)
	}
	m, err := c.ExtendRuntimeMeasurement(t.Context(), &api.ExtendRuntimeMeasurementRequest{Domain: "a", Operation: "b", Content: "c"})
	if err != nil || m.GetResult() != api.RuntimeMeasurementResult_NOT_ENABLED {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := c.BindInitData(t.Context(), &api.BindInitDataRequest{Digest: make([]byte, 32)}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	s.options.Config.EventLog = true
	m, err = c.ExtendRuntimeMeasurement(t.Context(), &api.ExtendRuntimeMeasurementRequest{})
	if err != nil || m.GetResult() != api.RuntimeMeasurementResult_NOT_SUPPORTED {
		t.Errorf("%v, %v", m, err)
	}
}

func TestAttackEvidenceOverSocket(t *testing.T) {
	s, _ := newService(t, brokertest.New(t), nil)
	e, err := client(t, s).GetEvidence(t.Context(), &api.GetEvidenceRequest{RuntimeData: make([]byte, 64)})
	if status.Code(err) != codes.PermissionDenied || len(e.GetEvidence()) != 0 {
		t.Errorf("%v, %v", e, err)
	}
}

func TestAttackTEEKeyOverSocket(t *testing.T) {
	s, _ := newService(t, brokertest.New(t), nil)
	if _, _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"kbs", "coco_as", ""} {
		token, err := client(t, s).GetToken(t.Context(), &api.GetTokenRequest{TokenType: kind})
		if status.Code(err) != codes.PermissionDenied || len(token.GetToken()) != 0 {
			t.Errorf("%q: %v, %v", kind, token, err)
		}
	}
}
