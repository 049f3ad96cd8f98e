// SPDX-License-Identifier: Apache-2.0

// Package floor is what Nacre's trustee is measured against: the trustee's TLS listener, answering with bytes that
// were computed beforehand, after the work that no broker can leave out: the unavoidable primitives of cryptography,
// by name and count; one evaluation of the owner's policy, which is prepared, on an input that is parsed; and one
// durable append, which requests that come at the same time share.
//
// What each route does stands in its settings, so that whoever measures has to say what is unavoidable. It is a
// measuring device: it looks at nothing that it is sent, and protects nothing.
package floor

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/nacre-project/nacre/policy"
)

// Settings say what a floor does. They are read from a JSON file, since they are many and made by a program.
type Settings struct {
	// Cert and Key are paths of PEM files.
	Cert, Key string
	// Journal is the path of the file that is appended to.
	Journal string
	// CPUProfile is the path that a CPU profile of the run is written to; empty for none.
	CPUProfile string
	Routes     []Route
}

// Route is one request and the work that it stands for.
type Route struct {
	Method, Path string
	// Work lists the primitives, each as often as it is used; SHA256 and SHA384 the sizes of the messages that are
	// hashed, in bytes.
	Work           []Primitive
	SHA256, SHA384 []int
	// Policy is the Rego text, Query the one rule that is asked for. Without a text nothing is evaluated.
	Policy, Query string
	// Input is the document input, Data the documents below data, and References what query_reference_value answers.
	Input      any
	Data       map[string]any
	References map[string]any
	// Record is the size of what is appended, in bytes.
	Record int
	// Answer is the body that is sent, Header its header.
	Answer string
	Header http.Header
}

// Write writes the settings to path, from where ReadSettings reads them.
func (s Settings) Write(path string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing the floor's settings: %w", err)
	}
	return os.WriteFile(path, text, 0o600)
}

// ReadSettings reads the settings at path.
func ReadSettings(path string) (Settings, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("reading the floor's settings: %w", err)
	}
	// Numbers stay as they were written: policies compare them.
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var s Settings
	if err := decoder.Decode(&s); err != nil {
		return Settings{}, fmt.Errorf("reading the floor's settings from %s: %w", path, err)
	}
	return s, nil
}

// maxBody caps what is read of a request, in bytes, as the trustee does.
const maxBody = 2 << 20

// Handler answers the routes.
type Handler struct {
	mux     *http.ServeMux
	journal *journal
}

// New prepares the routes and opens the journal.
func New(ctx context.Context, s Settings) (*Handler, error) {
	k, err := newKit()
	if err != nil {
		return nil, err
	}
	h := &Handler{mux: http.NewServeMux()}
	if h.journal, err = openJournal(s.Journal); err != nil {
		return nil, err
	}
	for _, r := range s.Routes {
		handle, err := h.prepare(ctx, r, k)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
		h.mux.Handle(r.Method+" "+r.Path, handle)
	}
	return h, nil
}

// Close ends the journal; requests must have ended before.
func (h *Handler) Close() { h.journal.close() }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) prepare(ctx context.Context, r Route, k *kit) (http.Handler, error) {
	work, err := k.steps(r)
	if err != nil {
		return nil, err
	}
	evaluate, err := r.Evaluation(ctx)
	if err != nil {
		return nil, err
	}
	record, answer := make([]byte, r.Record), []byte(r.Answer)
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		_, err := io.Copy(io.Discard, http.MaxBytesReader(w, request.Body, maxBody))
		for _, step := range work {
			if err == nil {
				err = step()
			}
		}
		if err == nil {
			err = evaluate(request.Context())
		}
		if err == nil {
			err = h.journal.append(record)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for name, values := range r.Header {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = w.Write(answer) // the client may be gone
	}), nil
}

// Evaluation prepares the one evaluation of a route's policy, which the function it returns carries out.
func (r Route) Evaluation(ctx context.Context) (func(context.Context) error, error) {
	if r.Policy == "" {
		return func(context.Context) error { return nil }, nil
	}
	references, err := documents(r.References)
	if err != nil {
		return nil, err
	}
	data, err := documents(r.Data)
	if err != nil {
		return nil, err
	}
	input, err := policy.NewDocument(r.Input)
	if err != nil {
		return nil, err
	}
	compiled, err := policy.Compile(ctx, r.Policy, policy.Options{
		Queries: []string{r.Query},
		Builtins: []policy.Builtin{{Name: "query_reference_value", Fn: func(_ context.Context, id string) (any, bool) {
			d, ok := references[id]
			return d, ok
		}}},
		Clock: time.Now,
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		v, err := compiled.Eval(ctx, r.Query, policy.Input{Input: input, Data: data})
		if err == nil && !v.Defined() {
			err = policy.ErrUndefined
		}
		return err
	}, nil
}

// documents parses values, so that no request has to.
func documents(values map[string]any) (map[string]any, error) {
	out := make(map[string]any, len(values))
	for name, value := range values {
		d, err := policy.NewDocument(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = d
	}
	return out, nil
}

// Listening is the line, of JSON, that a floor prints when it can be asked: the part that the trustee's has too.
type Listening struct {
	Event string `json:"event"` // "listening"
	URL   string `json:"url"`
}

// Run serves until ctx ends. Timeouts are the trustee's, because setting them has its cost too.
func Run(ctx context.Context, s Settings, stdout io.Writer) error {
	if s.CPUProfile != "" {
		profile, err := os.Create(s.CPUProfile)
		if err != nil {
			return err
		}
		defer profile.Close()
		if err := pprof.StartCPUProfile(profile); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	h, err := New(ctx, s)
	if err != nil {
		return err
	}
	defer h.Close()
	certificate, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           h,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      90 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(l, "", "") }()
	if err := json.NewEncoder(stdout).Encode(Listening{"listening", "https://" + l.Addr().String()}); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	err = server.Shutdown(context.WithoutCancel(ctx))
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
