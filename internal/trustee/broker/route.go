// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/limit"
	"github.com/nacre-project/nacre/kbs"
)

// call is one request.
type call struct {
	http  *http.Request
	id    string
	limit int64
	// rest is the path after a route that ends in "/".
	rest string
	w    http.ResponseWriter

	client  netip.Prefix       // who asks, as far as an address tells
	known   bool               // the caller has shown a token or an administrator's key
	bodies  *limit.Shares      // memory for bodies
	held    int64              // bytes of it that this request has
	read    int64              // bytes of the body that came
	limited prometheus.Counter // bodies for which there was none
}

// body reads the request's body, at most the limit.
func (c *call) body() ([]byte, error) {
	var body bytes.Buffer
	if n := c.http.ContentLength; n > 0 && n <= c.limit {
		body.Grow(int(min(n, readAhead)) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(&metered{Reader: http.MaxBytesReader(c.w, c.http.Body, c.limit), call: c}); err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	return body.Bytes(), nil
}

// readAhead is the most that is set aside for a body before it has come, in bytes.
const readAhead = 64 << 10

// query returns the URL's query, one value a name: of several, programs choose differently.
func (c *call) query() (map[string]string, error) {
	values, err := url.ParseQuery(c.http.URL.RawQuery)
	if err != nil {
		return nil, badRequest(variantPath, err)
	}
	query := make(map[string]string, len(values))
	for name, list := range values {
		if len(list) != 1 {
			return nil, badRequest(variantPath, fmt.Errorf("the query names %q more than once", name))
		}
		query[name] = list[0]
	}
	return query, nil
}

// bearer is the token of the Authorization header, empty when there is none.
func (c *call) bearer() string {
	scheme, token, _ := strings.Cut(c.http.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// reply is a success.
type reply struct {
	contentType string
	body        []byte
	cookie      *http.Cookie
}

const (
	typeJSON = "application/json"
	typeXML  = "text/xml" // what the protocol's servers say of an empty answer
)

func jsonReply(v any) (*reply, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write the answer: %w", err)
	}
	return &reply{contentType: typeJSON, body: body}, nil
}

// The kinds of handlers. Only an authenticator makes an identity, so an administrators' handler cannot be reached
// without one.
type (
	publicHandler func(context.Context, *call) (*reply, error)
	adminHandler  func(context.Context, *call, admin.Identity) (*reply, error)
)

// route is one method of one path. A pattern that ends in "/" stands for all paths below it.
type route struct {
	method, pattern string
	admin           bool
	handle          publicHandler
}

// router finds the handler of a request. It changes no path and redirects nobody.
type router struct {
	authenticate func(token string) (admin.Identity, error)
	admit        func(*call) error // or who must wait first
	routes       []route
	plugins      publicHandler // everything else below the protocol's prefix
}

const (
	protocolPrefix = "/kbs/v0/"
	adminPrefix    = "/nacre/v1/"
)

// public registers a handler that anybody may call.
func (r *router) public(method, pattern string, h publicHandler) {
	r.routes = append(r.routes, route{method: method, pattern: pattern, handle: h})
}

// administrators registers a handler that administrators may call.
func (r *router) administrators(method, pattern string, h adminHandler) {
	r.routes = append(r.routes, route{method: method, pattern: pattern, admin: true,
		handle: func(ctx context.Context, c *call) (*reply, error) {
			who, err := r.administrator(c, variantAdmin)
			if err != nil {
				return nil, err
			}
			return h(ctx, c, who)
		}})
}

// administrator authenticates the caller of an administrators' request. The refusal names the endpoint, as clients
// expect, and not why the token is none: who guesses learns nothing.
func (r *router) administrator(c *call, variant string) (admin.Identity, error) {
	if err := r.admit(c); err != nil {
		return admin.Identity{}, err
	}
	who, err := r.authenticate(c.bearer())
	if err != nil {
		return admin.Identity{}, fail(http.StatusUnauthorized, variant, codeNotAdmin, "admin access denied for endpoint "+
			clip(c.http.URL.Path)+": the token is not one of an administrator's; the trustee's log says why").because(err)
	}
	c.known = true
	return who, nil
}

// find returns the handler of a request, and the path below its pattern.
func (r *router) find(method, path string) (publicHandler, string, error) {
	if strings.ContainsRune(path, '%') {
		// No name in any path needs escaping, and a path that has two spellings could pass for another.
		return nil, "", badRequest(variantPath, fmt.Errorf("the path has an escaped character"))
	}
	var allow []string
	for _, route := range r.routes {
		rest, below := strings.CutPrefix(path, route.pattern)
		if path != route.pattern && !(below && strings.HasSuffix(route.pattern, "/")) {
			continue
		}
		if method == route.method {
			return route.handle, rest, nil
		}
		allow = append(allow, route.method)
	}
	rest, ok := strings.CutPrefix(path, protocolPrefix)
	switch {
	case ok && slices.Contains(pluginMethods, method):
		// Also a path that has a route for other methods: upstream looks for a plugin of its name then, and there is none.
		return r.plugins, rest, nil
	case len(allow) > 0:
		slices.Sort(allow)
		return nil, "", methodNotAllowed(method, slices.Compact(allow))
	case ok:
		return nil, "", methodNotAllowed(method, pluginMethods)
	}
	return nil, "", fail(http.StatusNotFound, variantPath, codeNotFound, "there is nothing at this path")
}

// pluginMethods are those that plugins may have.
var pluginMethods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}

func methodNotAllowed(method string, allow []string) *failure {
	f := fail(http.StatusMethodNotAllowed, variantHTTP, codeMethod,
		fmt.Sprintf("the method %q is not allowed here", method))
	f.allow = strings.Join(allow, ", ")
	return f
}

// ServeHTTP answers one request.
func (b *Broker) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	c := &call{http: req, id: newRequestID(), limit: b.tunable.Load().BodyLimit, w: w, bodies: b.limits.bodies,
		limited: b.metrics.limitedBodies,
		client:  b.limits.origin.Client(req.RemoteAddr, req.Header["X-Forwarded-For"])}
	ctx := WithRequestID(req.Context(), c.id)
	b.metrics.active.Inc()
	defer b.metrics.active.Dec()
	answer, err := b.dispatch(ctx, c)
	status := http.StatusOK
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Request-Id", c.id)
	if err != nil {
		f := asFailure(err)
		status = f.status
		b.charge(c, f)
		answer = b.refuse(ctx, c, f, header)
	}
	if answer.cookie != nil {
		http.SetCookie(w, answer.cookie)
	}
	header.Set("Content-Type", answer.contentType)
	header.Set("Content-Length", strconv.Itoa(len(answer.body)))
	w.WriteHeader(status)
	_, _ = w.Write(answer.body) // the client may be gone; what had to be recorded was
	b.metrics.observe(req.Method, status, c.read, len(answer.body), time.Since(start))
}

// dispatch runs the handler; a panic in it is this request's failure only.
func (b *Broker) dispatch(ctx context.Context, c *call) (answer *reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			b.log.ErrorContext(ctx, "a handler panicked", "panic", p, "stack", string(debug.Stack()))
			answer, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	handle, rest, err := b.router.find(c.http.Method, c.http.URL.EscapedPath())
	if err != nil {
		return nil, err
	}
	c.rest = rest
	leave, err := b.enter(c)
	if err != nil {
		return nil, err
	}
	defer leave()
	return handle(ctx, c)
}

// refuse logs a failure and writes it as the protocol does.
func (b *Broker) refuse(ctx context.Context, c *call, f *failure, header http.Header) *reply {
	level := slog.LevelInfo
	if f.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	// Anybody can be refused as often as he likes, with 503 too; that must not fill the disk that logs are kept on.
	if f.status == http.StatusInternalServerError || b.logged.Allow() {
		b.log.LogAttrs(ctx, level, "refused", slog.String("method", c.http.Method),
			slog.String("path", clip(c.http.URL.Path)), slog.String("client", c.client.String()),
			slog.Int("status", f.status), slog.String("code", f.code), slog.String("cause", f.Error()))
	} else {
		b.metrics.unlogged.Inc()
	}
	b.metrics.refusals.WithLabelValues(f.code).Inc()
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int((f.retryAfter+time.Second-1)/time.Second)))
	}
	if f.allow != "" {
		header.Set("Allow", f.allow)
	}
	body, err := json.Marshal(f.body(c.id))
	if err != nil { // texts only, so it cannot be
		body = []byte(`{"type":"` + kbs.ErrorTypePrefix + variantHTTP + `","detail":""}`)
	}
	return &reply{contentType: typeJSON, body: body}
}

// clip shortens foreign text for a log line.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
