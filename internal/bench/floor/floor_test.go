// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// route is one that holds.
func route() Route {
	return Route{
		Method: http.MethodPost, Path: "/ask", Work: []Primitive{VerifyP384, VerifyP256, SignP256, AgreeP256, SealGCM},
		SHA256: []int{0, 1000}, SHA384: []int{672},
		Policy:     "package policy\nallow if input.n in query_reference_value(data.name)\n",
		Query:      "data.policy.allow",
		Input:      map[string]any{"n": json.Number("7")},
		Data:       map[string]any{"name": "numbers"},
		References: map[string]any{"numbers": []any{json.Number("7")}},
		Record:     100, Answer: `{"token":"x"}`, Header: http.Header{"Content-Type": {"application/json"}},
	}
}

func TestFloorAnswers(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	settings := filepath.Join(t.TempDir(), "settings.json")
	// By way of the file, as the program gets them.
	if err := (Settings{Journal: journal, Routes: []Route{route()}}).Write(settings); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s.Routes[0], route()) {
		t.Errorf("read %+v\nwant %+v", s.Routes[0], route())
	}
	h, err := New(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	const clients, each = 8, 5
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() {
			for range each {
				r, err := http.Post(server.URL+"/ask", "application/json", strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(r.Body)
				r.Body.Close()
				if err != nil || r.StatusCode != http.StatusOK || string(body) != `{"token":"x"}` ||
					r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%d %v %s %v", r.StatusCode, r.Header, body, err)
				}
			}
		})
	}
	wait.Wait()
	server.Close()
	h.Close()
	written, err := os.ReadFile(journal)
	if err != nil || len(written) != clients*each*100 {
		t.Errorf("the journal has %d bytes of %d requests: %v", len(written), clients*each, err)
	}
}

// A floor that does less than it says would make everything look slow.
func TestFloorRefusesWhatItCannotDo(t *testing.T) {
	for name, deviate := range map[string]func(*Route){
		"an unknown primitive":   func(r *Route) { r.Work = append(r.Work, "ROT13") },
		"a policy with an error": func(r *Route) { r.Policy = "package policy\nallow if" },
	} {
		r := route()
		deviate(&r)
		h, err := New(t.Context(), Settings{Journal: filepath.Join(t.TempDir(), "journal"), Routes: []Route{r}})
		if err == nil {
			h.Close()
			t.Errorf("%s was taken", name)
		}
	}
	r := route()
	r.Policy, r.References = "", nil
	if evaluate, err := r.Evaluation(t.Context()); err != nil || evaluate(t.Context()) != nil {
		t.Errorf("a route without a policy: %v", err)
	}
	r = route()
	r.References = nil
	h, err := New(t.Context(), Settings{Journal: filepath.Join(t.TempDir(), "journal"), Routes: []Route{r}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/ask", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("a policy without an answer: %d %s", w.Code, w.Body)
	}
}

func TestReadSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "settings.json")
	if _, err := ReadSettings(path); err == nil {
		t.Error("no file")
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSettings(path); err == nil {
		t.Error("half a file")
	}
}
