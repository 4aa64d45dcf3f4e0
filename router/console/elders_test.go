package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"switchyard/router/console"
)

// elders are older processes as a console sees them: the handlers of consoles
// that have no elders themselves.
type elders map[int]http.Handler

func (e elders) Each(ctx context.Context, method, path string, body []byte, found func(pid, status int, body []byte) error) error {
	var failed []error
	for pid, h := range e {
		if h == nil {
			failed = append(failed, errors.New("older process 9: silence"))
			continue
		}
		r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(string(body)))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		failed = append(failed, found(pid, w.Code, w.Body.Bytes()))
	}
	return errors.Join(failed...)
}

func serve(t *testing.T, c *console.Console) http.Handler {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	mux := http.NewServeMux()
	for pattern, h := range c.Handlers() {
		mux.Handle(pattern, h)
	}
	return mux
}

// TestElders: what is shown and done through the newest process's console is
// every process's; one that is silent is named, and hides none of the others.
func TestElders(t *testing.T) {
	old, now := start(t), start(t)
	theirs := old.client(true)
	ours := now.client(true)
	e := elders{7: serve(t, console.New(old.proxy.Router, console.Options{}))}
	h := serve(t, console.New(now.proxy.Router, console.Options{Elders: e}))
	ask := func(method, path, body string, into any) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil || w.Code >= 300 {
			t.Fatalf("%s: %d %s, %v", path, w.Code, w.Body, err)
		}
	}
	var who struct {
		Total      int
		Incomplete string
		Sessions   []struct {
			User    string
			Process int
		}
	}
	ask("GET", "/sessions?user=anna", "", &who)
	if who.Total != 2 || who.Sessions[0].Process != 7 || who.Sessions[1].Process != 0 || who.Incomplete != "" {
		t.Errorf("got %+v, want the older process's session first", who)
	}
	ask("GET", "/sessions?user=anna&limit=1", "", &who)
	if who.Total != 2 || len(who.Sessions) != 1 || who.Sessions[0].Process != 7 {
		t.Errorf("limited: got %+v", who)
	}
	ask("GET", "/sessions?user=bert", "", &who)
	if who.Total != 0 {
		t.Errorf("another's: got %+v", who)
	}
	e[9] = nil
	var places struct {
		Incomplete string
		Backends   []struct{ Sessions map[string]int }
	}
	ask("GET", "/backends", "", &places)
	if len(places.Backends) != 1 || places.Backends[0].Sessions["b1a"] != 2 || !strings.Contains(places.Incomplete, "silence") {
		t.Errorf("got %+v", places)
	}
	var begun struct {
		Sessions   int
		Incomplete string
	}
	ask("POST", "/kick", `{"user":"anna"}`, &begun)
	if begun.Sessions != 2 || !strings.Contains(begun.Incomplete, "silence") {
		t.Errorf("kicked: got %+v", begun)
	}
	old.leaves(theirs, 1)
	now.leaves(ours, 1)
}
