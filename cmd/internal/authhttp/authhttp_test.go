package authhttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"switchyard/conf"
	"switchyard/lookup"
	"switchyard/lookup/lookuptest"

	"go.uber.org/zap"
)

func config() *conf.Config {
	return &conf.Config{
		Cluster: conf.Cluster{DefaultBackend: "b1"},
		Backends: []conf.Backend{
			{Name: "b1", Nodes: []conf.Node{{TLS: "starttls", IMAP: "192.0.2.1:143", Submission: "mail1.example.test:587"}, {TLS: "off", POP3: "[2001:db8::1]:110"}}},
			{Name: "b2", Nodes: []conf.Node{{IMAP: "192.0.2.2:993", POP3: "192.0.2.2:995"}, {TLS: "starttls", IMAP: "192.0.2.2:143"}}},
		},
	}
}

// TestPlaces: nginx gets address literals, of the home's first node that has
// the protocol, and a name that cannot be resolved any more is remembered.
func TestPlaces(t *testing.T) {
	asked := 0
	var fails error
	p := &places{c: config(), found: make(map[string]found), resolve: func(_ context.Context, _, host string) ([]netip.Addr, error) {
		asked++
		if host != "mail1.example.test" {
			t.Errorf("asked for %s", host)
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.9")}, fails
	}}
	for _, c := range []struct{ protocol, home, want string }{
		{"imap", "b1", "192.0.2.1:143"}, {"imap", "", "192.0.2.1:143"}, {"pop3", "b1", "[2001:db8::1]:110"}, {"imap", "b2", "192.0.2.2:143"}, {"pop3", "b2", ""},
		{"smtp", "b1", "192.0.2.9:587"}, {"smtp", "b1", "192.0.2.9:587"}, {"smtp", "b2", ""}, {"imap", "b3", ""}, {"nntp", "b1", ""},
	} {
		got, err := p.place(t.Context(), c.protocol, c.home)
		if c.want == "" && err == nil || c.want != "" && (err != nil || got.String() != c.want) {
			t.Errorf("%s of %q: got %v, %v; want %s", c.protocol, c.home, got, err, c.want)
		}
	}
	if asked != 1 {
		t.Errorf("the name was resolved %d times", asked)
	}
	fails = errors.New("no name server")
	p.found["mail1.example.test"] = found{addr: netip.MustParseAddr("192.0.2.9")} // long ago
	if got, err := p.place(t.Context(), "smtp", "b1"); err != nil || got.String() != "192.0.2.9:587" {
		t.Errorf("an old answer: got %v, %v", got, err)
	}
}

// TestServe: who is outside the networks is refused before a password is looked
// at.
func TestServe(t *testing.T) {
	d := lookuptest.NewScripted(lookuptest.Record{Account: lookup.Account{Name: "anna@example.test", Home: "b2"}, Password: "sesame"})
	for _, c := range []struct {
		networks []string
		code     int
		server   string
	}{{nil, 200, "192.0.2.2"}, {[]string{"127.0.0.0/8"}, 200, "192.0.2.2"}, {[]string{"10.0.2.0/24"}, 403, ""}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, ln, config(), conf.AuthHTTP{Networks: c.networks}, d, zap.NewNop()) }()
		req, err := http.NewRequest("GET", "http://"+ln.Addr().String()+"/auth", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Auth-Method": "plain", "Auth-User": "anna@example.test", "Auth-Pass": "sesame", "Auth-Protocol": "imap", "Client-IP": "198.51.100.7"} {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code || resp.Header.Get("Auth-Server") != c.server {
			t.Errorf("networks %q: %d, server %q", c.networks, resp.StatusCode, resp.Header.Get("Auth-Server"))
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	if d.Checks() != 2 {
		t.Errorf("%d passwords were looked at", d.Checks())
	}
}
