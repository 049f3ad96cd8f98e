// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/guest/cdh"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

// Address is where programs written for the stock guest look for the service.
const Address = "127.0.0.1:8006"

const (
	resourcePrefix = "/cdh/resource/"
	attestPrefix   = "/aa/"
)

// Bounds on what a client may take of the guest.
const (
	maxConnections = 64
	maxHeader      = 8 << 10
	headerTimeout  = 5 * time.Second
	requestTimeout = 2 * time.Minute // attesting, and trying again while the broker is away
	idleTimeout    = 30 * time.Second
	goodbye        = time.Second // for what is under way when the service ends
)

// Resources is the data hub, [cdh.Service]. Its errors are *cdh.Error.
type Resources interface {
	Resource(ctx context.Context, uri kbs.ResourceURI) (secret.Bytes, error)
}

// Info is what /info says.
type Info struct {
	Version string     // of the guest
	TEE     attest.TEE // "" is left out: there is no platform that could attest
}

// Handler answers the pod's requests. A nil log is slog.Default().
func Handler(resources Resources, info Info, log *slog.Logger) http.Handler {
	if log == nil {
		log = slog.Default()
	}
	return &handler{resources, info, log}
}

type handler struct {
	resources Resources
	info      Info
	log       *slog.Logger
}

// refusal is the body of every answer but success.
type refusal struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"request_id"`
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	switch path := r.URL.Path; {
	case !fromLoopback(r.RemoteAddr):
		h.refuse(w, r, http.StatusForbidden, refusal{
			Code: "peer_not_local", Message: "Forbidden: only what runs in the pod is answered",
		})
	case !forLoopback(r.Host):
		h.refuse(w, r, http.StatusForbidden, refusal{
			Code: "host_not_local", Message: "Forbidden: the request is for another host; ask for http://" + Address,
		})
	case strings.HasPrefix(path, attestPrefix):
		h.refuse(w, r, http.StatusNotFound, refusal{Code: "not_enabled", Message: "Attestation Feature Not Enabled"})
	case path != "/info" && !strings.HasPrefix(path, resourcePrefix):
		h.refuse(w, r, http.StatusNotFound, refusal{Code: "not_found", Message: "URL NOT FOUND"})
	case path == "/info" && r.Method != http.MethodGet: // of a resource, every method asks for it, as at the stock service
		w.Header().Set("Allow", http.MethodGet)
		h.refuse(w, r, http.StatusMethodNotAllowed, refusal{
			Code: "method_not_allowed", Message: "Method Not Allowed: only GET is",
		})
	case r.ContentLength != 0:
		h.refuse(w, r, http.StatusRequestEntityTooLarge, refusal{Code: "body_refused", Message: "requests have no body here"})
	case path == "/info":
		h.answerInfo(w, r)
	default:
		h.resource(w, r)
	}
}

func (h *handler) resource(w http.ResponseWriter, r *http.Request) {
	// The escaped path: what needs no escape in a resource's name does not come as one. A query means nothing here.
	path := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), resourcePrefix), "/")
	if err := kbs.ValidPath(path); err != nil {
		h.refuse(w, r, http.StatusBadRequest, refusal{Code: cdh.CodePathInvalid, Message: "BAD REQUEST: " + err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	value, err := h.resources.Resource(ctx, kbs.ResourceURI{Path: path})
	if err != nil {
		h.explain(w, r, err)
		return
	}
	defer value.Wipe()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(value.Len()))
	if _, err := w.Write(value.Reveal()); err != nil {
		h.log.DebugContext(ctx, "the client went away", "err", err)
	}
}

func (h *handler) explain(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*cdh.Error](err)
	if !ok {
		e = &cdh.Error{Kind: cdh.Internal, Code: "internal", Doing: "getting the resource", Err: err}
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.RetryAfter.Seconds())), 10))
	}
	h.refuse(w, r, statusOf(e.Kind), refusal{Code: e.Code, Message: e.Error(), RequestID: e.RequestID})
}

func statusOf(kind cdh.Kind) int {
	switch kind {
	case cdh.Invalid:
		return http.StatusBadRequest
	case cdh.Denied:
		return http.StatusForbidden
	case cdh.NotFound:
		return http.StatusNotFound
	case cdh.Unreachable:
		return http.StatusBadGateway
	case cdh.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (h *handler) answerInfo(w http.ResponseWriter, r *http.Request) {
	h.write(w, r, http.StatusOK, struct {
		Version string     `json:"version"`
		TEE     attest.TEE `json:"tee,omitempty"`
		Feature string     `json:"feature"`
	}{"Guest Components Version: " + h.info.Version, h.info.TEE, "resource"})
}

// refuse answers with an error. One that never reached the broker has a request id of the guest's own.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, status int, body refusal) {
	if body.RequestID == "" {
		body.RequestID = "guest-" + rand.Text()
	}
	h.log.InfoContext(r.Context(), "request refused", "status", status, "code", body.Code, "request_id", body.RequestID)
	h.write(w, r, status, body)
}

func (h *handler) write(w http.ResponseWriter, r *http.Request, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		h.log.DebugContext(r.Context(), "the client went away", "err", err)
	}
}

// fromLoopback says whether a peer's address is the loopback device's.
func fromLoopback(peer string) bool {
	addr, err := netip.ParseAddrPort(peer)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

// forLoopback says whether the Host header names the loopback device, by one of the names that cannot be changed.
func forLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	switch host {
	case "127.0.0.1", "localhost", "::1", "[::1]":
		return true
	}
	return false
}

// Serve serves a handler at l until ctx ends, which is no error, and closes l. The listener must be on the loopback.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	if log == nil {
		log = slog.Default()
	}
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       2 * headerTimeout,
		WriteTimeout:      requestTimeout + headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(netutil.LimitListener(l, maxConnections)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	err := server.Shutdown(last)
	if err != nil {
		err = server.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
