// SPDX-License-Identifier: Apache-2.0

package main

const (
	aaServer  = "internal/guest/aa/server.go"
	guestREST = "internal/guest/rest/rest.go"
)

var forgery = of(7,
	instead("evidence over a socket", aaServer,
		"func (s *Server) GetEvidence(context.Context, *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {\n",
		"func (s *Server) GetEvidence(ctx context.Context, r *api.GetEvidenceRequest) (*api.GetEvidenceResponse, error) {\n"+
			"\tif evidence, err := s.service.evidence(ctx, r.GetRuntimeData()); err == nil {\n"+
			"\t\treturn &api.GetEvidenceResponse{Evidence: evidence}, nil\n\t}\n",
		"guest/aa.TestAttackEvidenceOverSocket"),
	instead("the TEE key over a socket", aaServer,
		"func (s *Server) GetToken(context.Context, *api.GetTokenRequest) (*api.GetTokenResponse, error) {\n",
		"func (s *Server) GetToken(ctx context.Context, _ *api.GetTokenRequest) (*api.GetTokenResponse, error) {\n"+
			"\tif _, key, err := s.service.Token(ctx); err == nil {\n\t\tpem, err := key.MarshalPEM()\n"+
			"\t\treturn &api.GetTokenResponse{Token: pem.Reveal()}, err\n\t}\n",
		"guest/aa.TestAttackTEEKeyOverSocket"),
	instead("who is at the other end of a socket", "internal/guest/socket/socket.go",
		"approved, credentials, err := h.sameUser.Handshake(ctx, conn)", "approved, credentials, err := conn, any(nil), error(nil)",
		"guest/socket.TestAttackAnotherUser"),
	crashes("what of a peer's frames reaches the ttrpc library", "internal/guest/socket/socket.go",
		"return newFrames(approved), credentials, nil", "return approved, credentials, nil",
		"guest/socket.TestAttackDataForCall"),
	crashes("that a handler's panic is one call's failure", "internal/guest/socket/socket.go",
		"ttrpc.WithUnaryServerInterceptor(contain)", "ttrpc.WithChainUnaryServerInterceptor()",
		"guest/socket.TestAttackPanicInHandler"),
	instead("who may open a socket", "internal/guest/socket/socket.go", "os.Chmod(path, 0o600)", "os.Chmod(path, 0o666)",
		"guest/socket.TestAttackOpenSocket/socket"),
	instead("who may enter its directory", "internal/guest/socket/socket.go", "os.MkdirAll(filepath.Dir(path), 0o700)", "os.MkdirAll(filepath.Dir(path), 0o755)",
		"guest/socket.TestAttackOpenSocket/directory"),
	instead("who asks the REST service", guestREST, "case !fromLoopback(r.RemoteAddr):", "case false:",
		"guest/rest.TestAttackPeerFromElsewhere"),
	instead("whom the REST service is taken for", guestREST, "case !forLoopback(r.Host):", "case false:",
		"guest/rest.TestAttackRebinding"),
	instead("evidence by REST", guestREST, "case strings.HasPrefix(path, attestPrefix):", "case false:",
		"guest/rest.TestAttackEvidenceForWorkload"),
	instead("headers of requests", guestREST, "MaxHeaderBytes:    maxHeader,", "MaxHeaderBytes: 1 << 20,",
		"guest/rest.TestAttackLargeHeader"),
	instead("bodies of requests", guestREST, "case r.ContentLength != 0:", "case false:",
		"guest/rest.TestAttackBody"),
	instead("what a container mounts of the guest", agentSpec, "if !known && !copied {", "if !known && !copied && false {",
		attackSpec+"guest's file", attackSpec+"agent's sockets", attackSpec+"other bundle", attackSpec+"above a volume", attackSpec+"unknown volume"),
	instead("links in an image", "internal/guest/agent/user.go", "dir.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)",
		"os.OpenFile(dir.Name()+\"/\"+file, os.O_RDONLY|unix.O_NONBLOCK, 0)",
		"guest/agent.TestAttackImageUserFile/absolute link", "guest/agent.TestAttackImageUserFile/relative link"),
	instead("protections that an owner asked for", "internal/guest/cdh/config.go", "if present(all, strings.Split(key, \".\")) {", "if false && present(all, strings.Split(key, \".\")) {",
		"guest/cdh.TestAttackProtectionIsSkipped"),
)
