package console_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/console"
	"switchyard/router/routertest"
	"switchyard/router/upstream"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door is a protocol that says hello and joins anna to her backend for a line.
type door struct{}

func (door) Name() string { return "door" }
func (door) Busy() string { return "busy\r\n" }

func (door) Serve(ctx context.Context, s *router.Session) error {
	if err := s.Conn.Line("hello"); err != nil {
		return err
	}
	line, err := s.Conn.ReadLine(100)
	if err != nil {
		return err
	}
	account, err := s.Check(ctx, string(line), "sesame")
	if err != nil {
		return err
	}
	b, err := s.Open(ctx, account, upstream.IMAP, func(context.Context, *router.Back, lookup.Account) error { return nil })
	if err != nil {
		return err
	}
	s.Conn.WriteString("joined\r\n")
	return s.Join(ctx, b)
}

// rig is a proxy with a console.
type rig struct {
	*testing.T
	proxy     *routertest.Proxy
	directory *routertest.Directory
	url       string
}

func start(t *testing.T) *rig {
	t.Helper()
	a := routertest.NewBackend(t, nil, "EOF\nS: bye")
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "b1"}, "sesame")
	p := routertest.Start(t, routertest.Config{
		Protocol: door{}, Directory: d, Options: router.Options{DefaultDomain: "example.test"},
		Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{a.Node("b1a", upstream.IMAP, tlsconf.Off, nil)}}},
	})
	c := console.New(p.Router, console.Options{})
	mux := http.NewServeMux()
	for pattern, h := range c.Handlers() {
		mux.Handle(pattern, h)
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{t, p, d, srv.URL}
}

// client is a connection to the proxy.
type client struct {
	net.Conn
	in *bufio.Reader
}

// client connects, and logs in when join is set.
func (r *rig) client(join bool) client {
	r.Helper()
	conn := r.proxy.Dial()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := client{conn, bufio.NewReader(conn)}
	r.line(in, "hello")
	if join {
		io.WriteString(conn, "anna\r\n")
		r.line(in, "joined")
	}
	return in
}

// leaves reads the backend's last word and closes, and waits until n sessions
// have ended.
func (r *rig) leaves(c client, n int) {
	r.Helper()
	r.line(c, "bye")
	c.Close()
	r.proxy.Sessions(n)
}

func (r *rig) line(in client, want string) {
	r.Helper()
	if got, err := in.in.ReadString('\n'); err != nil || strings.TrimSpace(got) != want {
		r.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func (r *rig) do(method, path, kind, body string) (int, string) {
	r.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	return r.send(req)
}

func (r *rig) send(req *http.Request) (int, string) {
	r.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// get asks, and decodes the answer into out.
func (r *rig) get(path string, out any) {
	r.Helper()
	code, body := r.do("GET", path, "", "")
	if err := json.Unmarshal([]byte(body), out); err != nil || code != 200 {
		r.Fatalf("%s: got %d %s, %v", path, code, body, err)
	}
}

// post orders, and checks how many sessions are concerned.
func (r *rig) post(path, body string, want int) {
	r.Helper()
	var out struct{ Sessions int }
	code, text := r.do("POST", path, "application/json; charset=utf-8", body)
	if err := json.Unmarshal([]byte(text), &out); err != nil || code != 202 || out.Sessions != want {
		r.Errorf("%s %s: got %d %s, %v, want %d sessions", path, body, code, text, err, want)
	}
}

type sessions struct {
	Total    int
	Sessions []struct {
		Session, State, User, Home, Node, Client string
		Bytes                                    *struct{ In, Out int64 }
	}
}

func TestSessions(t *testing.T) {
	r := start(t)
	var got sessions
	if r.get("/sessions", &got); got.Total != 0 || got.Sessions == nil {
		t.Errorf("got %+v, want an empty list", got)
	}
	r.client(false)
	r.client(true)
	if r.get("/sessions", &got); got.Total != 2 || got.Sessions[0].State != "login" || got.Sessions[1].User != "anna@example.test" ||
		got.Sessions[1].State != "joined" || got.Sessions[1].Node != "b1a" || got.Sessions[0].Bytes == nil {
		t.Errorf("got %+v", got)
	}
	for query, want := range map[string]int{
		"user=anna": 1, "user=ANNA@example.test": 1, "user=berta": 0, "backend=b1": 1, "backend=b2": 0, "node=b1a": 1, "client=127.0.0.1": 2,
		"client=127.0.0.0/8": 2, "client=::ffff:127.0.0.1": 2, "client=192.0.2.1": 0, "protocol=door": 2, "session=" + got.Sessions[1].Session: 1, "limit=1": 2,
		"user=anna&backend=b2": 0,
	} {
		var found sessions
		if r.get("/sessions?"+query, &found); found.Total != want {
			t.Errorf("%s: got %d, want %d", query, found.Total, want)
		}
		if query == "limit=1" && len(found.Sessions) != 1 {
			t.Errorf("%s: got %d sessions", query, len(found.Sessions))
		}
	}
	for _, query := range []string{"client=here", "limit=some", "limit=-1"} {
		if code, body := r.do("GET", "/sessions?"+query, "", ""); code != 400 || !strings.Contains(body, `{"error":`) {
			t.Errorf("%s: got %d %s", query, code, body)
		}
	}
}

func TestKick(t *testing.T) {
	r := start(t)
	other, anna := r.client(false), r.client(true)
	r.post("/kick", `{"user":"berta"}`, 0)
	r.post("/kick", `{"user":"anna","reason":"moving house"}`, 1)
	r.leaves(anna, 1)
	if line := r.proxy.Session(); line["reason"] != "session was ended: moving house" {
		t.Errorf("got %v", line)
	}
	r.post("/kick", `{"client":"127.0.0.1"}`, 1)
	if _, err := other.in.ReadByte(); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
	r.proxy.Sessions(2)
}

func TestForget(t *testing.T) {
	r := start(t)
	anna := r.client(true)
	r.post("/forget", `{"user":"anna"}`, 0)
	r.post("/forget", `{"all":true}`, 0)
	r.directory.Remove("anna@example.test")
	r.post("/forget", `{"user":"anna"}`, 1)
	r.leaves(anna, 1)
	if line := r.proxy.Session(); line["reason"] != "session was ended: the account is gone" {
		t.Errorf("got %v", line)
	}
}

func TestDrain(t *testing.T) {
	r := start(t)
	anna := r.client(true)
	r.post("/drain", `{"backend":"b1","node":"b1a"}`, 1)
	r.leaves(anna, 1)
	var got struct {
		Draining bool
		Backends []struct {
			Home     string
			Nodes    []struct{ Drained bool }
			Sessions map[string]int
		}
	}
	if r.get("/backends", &got); got.Draining || len(got.Backends) != 1 || got.Backends[0].Home != "b1" || !got.Backends[0].Nodes[0].Drained {
		t.Errorf("got %+v", got)
	}
	r.post("/undrain", `{"backend":"b1"}`, 0)
	anna = r.client(true)
	if r.get("/backends", &got); got.Backends[0].Nodes[0].Drained || got.Backends[0].Sessions["b1a"] != 1 {
		t.Errorf("got %+v", got)
	}

	r.post("/drain", `{"proxy":true}`, 1)
	if err := r.proxy.Router.Ready(); !errors.Is(err, router.ErrDraining) {
		t.Errorf("the answer came before the state: %v", err)
	}
	r.leaves(anna, 2)
	r.proxy.Play("S: busy\nEOF")
	if r.get("/backends", &got); !got.Draining {
		t.Errorf("got %+v", got)
	}
	r.post("/undrain", `{"proxy":true}`, 0)
	r.client(true)
}

// TestDrainOutlivesTheConsole: closing it ends the kicks and not the state.
func TestDrainOutlivesTheConsole(t *testing.T) {
	d := routertest.NewDirectory()
	p := routertest.Start(t, routertest.Config{Protocol: door{}, Directory: d, Options: router.Options{KickRate: 1}})
	r := &rig{t, p, nil, ""}
	first, second := r.client(false), r.client(false)
	c := console.New(p.Router, console.Options{})
	w := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "http://localhost/drain", strings.NewReader(`{"proxy":true}`))
	req.Header.Set("Content-Type", "application/json")
	c.Handlers()["POST /drain"].ServeHTTP(w, req)
	if w.Code != 202 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if _, err := first.in.ReadByte(); err != io.EOF { // the first goes at once
		t.Errorf("got %v, want the end", err)
	}
	c.Close()
	if p.Router.Ready() == nil {
		t.Error("back in service")
	}
	if n := len(p.Router.Find(router.Match{All: true})); n != 1 || second.in.Buffered() != 0 {
		t.Errorf("%d sessions are left, want 1", n)
	}
}

func TestRoute(t *testing.T) {
	r := start(t)
	var got router.Explanation
	if r.get("/route?user=anna", &got); got.Home != "b1" || got.User != "anna@example.test" || len(got.Steps) < 5 {
		t.Errorf("got %+v", got)
	}
	if code, body := r.do("GET", "/route?user=anna&format=text", "", ""); code != 200 || !strings.Contains(body, "b1a at ") {
		t.Errorf("got %d %s", code, body)
	}
	for _, query := range []string{"", "?user=anna&format=xml"} {
		if code, body := r.do("GET", "/route"+query, "", ""); code != 400 {
			t.Errorf("%q: got %d %s", query, code, body)
		}
	}
}

// TestRefused: what must not be done, above all what a web page could make a
// browser do.
func TestRefused(t *testing.T) {
	r := start(t)
	r.client(true)
	for name, c := range map[string]struct {
		method, path, kind, body string
		code                     int
	}{
		"a form":                  {"POST", "/kick", "application/x-www-form-urlencoded", "user=anna", 415},
		"a form that looks right": {"POST", "/kick", "text/plain", `{"user":"anna"}`, 415},
		"no content type":         {"POST", "/kick", "", `{"user":"anna"}`, 415},
		"a link":                  {"GET", "/kick?user=anna", "", "", 405},
		"a link to drain":         {"GET", "/drain", "application/json", `{"proxy":true}`, 405},
		"no JSON":                 {"POST", "/kick", "application/json", "user", 400},
		"two objects":             {"POST", "/kick", "application/json", `{"user":"anna"}{}`, 400},
		"an unknown field":        {"POST", "/kick", "application/json", `{"usr":"anna"}`, 400},
		"too long":                {"POST", "/kick", "application/json", `{"user":"` + strings.Repeat("a", 1<<17) + `"}`, 400},
		"nobody":                  {"POST", "/kick", "application/json", `{}`, 400},
		"only a reason":           {"POST", "/kick", "application/json", `{"reason":"x"}`, 400},
		"a bad network":           {"POST", "/kick", "application/json", `{"client":"127.0.0.1/99"}`, 400},
		"the proxy":               {"POST", "/kick", "application/json", `{"proxy":true}`, 400},
		"nothing to drain":        {"POST", "/drain", "application/json", `{}`, 400},
		"a node of nothing":       {"POST", "/drain", "application/json", `{"node":"b1a"}`, 400},
		"too much to drain":       {"POST", "/drain", "application/json", `{"proxy":true,"backend":"b1"}`, 400},
		"a user to drain":         {"POST", "/drain", "application/json", `{"backend":"b1","user":"anna"}`, 400},
		"nobody to forget":        {"POST", "/forget", "application/json", `{}`, 400},
		"somebody and all":        {"POST", "/forget", "application/json", `{"user":"anna","all":true}`, 400},
		"a name that is none":     {"POST", "/forget", "application/json", `{"user":"an na"}`, 400},
		"a backend to forget":     {"POST", "/forget", "application/json", `{"backend":"b1"}`, 400},
		"all to kick":             {"POST", "/kick", "application/json", `{"all":true}`, 400},
		"all to drain":            {"POST", "/drain", "application/json", `{"all":true}`, 400},
		"no such backend":         {"POST", "/drain", "application/json", `{"backend":"b9"}`, 404},
		"no such node":            {"POST", "/undrain", "application/json", `{"backend":"b1","node":"b9a"}`, 404},
	} {
		if code, body := r.do(c.method, c.path, c.kind, c.body); code != c.code {
			t.Errorf("%s: got %d %s, want %d", name, code, body, c.code)
		}
	}
	for host, want := range map[string]int{
		"evil.example:9000": 403, "localhost.evil.example": 403, "": 403, "localhost:9000": 200, "localhost": 200, "[::1]:9000": 200, "[::1]": 200, "127.0.0.1": 200,
	} {
		req := httptest.NewRequest("GET", "http://x/sessions", nil)
		req.Host = host
		w := httptest.NewRecorder()
		console.New(r.proxy.Router, console.Options{}).Handlers()["GET /sessions"].ServeHTTP(w, req)
		if w.Code != want {
			t.Errorf("host %q: got %d, want %d", host, w.Code, want)
		}
	}
	if n := r.proxy.Router.Stats().Kicked; n != 0 || r.proxy.Router.Ready() != nil {
		t.Errorf("%d sessions were kicked", n)
	}
}

// TestMetrics: all are well formed, and count.
func TestMetrics(t *testing.T) {
	r := start(t)
	r.client(false)
	anna := r.client(true)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(console.Metrics(r.proxy.Router)); err != nil {
		t.Fatal(err)
	}
	read := func() map[string]float64 {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string]float64)
		for _, f := range families {
			for _, m := range f.Metric {
				name := strings.TrimPrefix(f.GetName(), "switchyard_proxy_")
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return out
	}
	compare := func(want map[string]float64) {
		t.Helper()
		got := read()
		for name, v := range want {
			if now, ok := got[name]; !ok || now != v {
				t.Errorf("%s: got %v (%v), want %v", name, now, ok, v)
			}
		}
	}
	compare(map[string]float64{
		"sessions door login": 1, "sessions door joined": 1, "sessions door inbound": 0, "joined_sessions b1 b1a": 1, "users": 1, "waiting_sessions": 1,
		"logins_total door ok": 1, "logins_total door rejected": 0, "lookups_total found check": 1, "lookups_total absent lookup": 0,
		"dials_total b1 b1a connected": 1, "dials_total b1 b1a failed": 0, "draining": 0, "node_drained b1 b1a": 0, "node_unreachable b1 b1a imap": 0,
		"sessions_kicked_total": 0, "node_state b1 b1a imap up": 1, "node_state b1 b1a imap drained": 0, "node_logins b1 b1a imap": 0,
		"node_turned_away_total b1 b1a imap": 0, "taken_over_logins_total b1 b1a": 0, "node_checks_total b1 b1a bad imap": 0, "node_login_seconds b1 b1a imap": 1,
	})
	r.proxy.Router.DrainNode(t.Context(), "b1", "")
	r.leaves(anna, 1)
	compare(map[string]float64{
		"sessions_ended_total door kicked": 1, "node_drained b1 b1a": 1, "sessions_kicked_total": 1, "node_state b1 b1a imap drained": 1,
		"bytes_total in door": float64(len("anna\r\n")), "bytes_total out door": float64(len("hello\r\njoined\r\nbye\r\n")),
	})
}
