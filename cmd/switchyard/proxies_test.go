package main

import (
	"bytes"
	"context"
	"encoding/json"
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
)

// door is a protocol that joins anna to her backend.
type door struct{}

func (door) Name() string { return "door" }

func (door) Serve(ctx context.Context, s *router.Session) error {
	account, err := s.Check(ctx, "anna", "sesame")
	if err != nil {
		return err
	}
	b, err := s.Open(ctx, account, upstream.IMAP, func(context.Context, *router.Back, lookup.Account) error { return nil })
	if err != nil {
		return err
	}
	s.Conn.WriteString("joined\r\n") // sent by Join, once it has joined
	return s.Join(ctx, b)
}

// startProxy starts a proxy with a session of anna's and returns its admin
// address.
func startProxy(t *testing.T) string {
	t.Helper()
	store := routertest.NewBackend(t, nil, "EOF\nS: bye")
	d := routertest.NewDirectory()
	d.Add(lookup.Account{Name: "anna@example.test", Home: "b1"}, "sesame")
	p := routertest.Start(t, routertest.Config{
		Protocol: door{}, Directory: d, Options: router.Options{DefaultDomain: "example.test"},
		Backends: []upstream.Backend{{Name: "b1", Nodes: []upstream.Node{store.Node("b1a", upstream.IMAP, tlsconf.Off, nil)}}},
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
	client := p.Dial()
	t.Cleanup(func() { client.Close() })
	b := make([]byte, len("joined\r\n"))
	if _, err := client.Read(b); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(srv.URL, "http://")
}

// tool runs the tool and returns what it prints.
func tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

// says runs the tool and holds that it prints all of words.
func says(t *testing.T, args []string, words ...string) string {
	t.Helper()
	out, err := tool(t, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%v does not say %q:\n%s", args, w, out)
		}
	}
	return out
}

// TestProxyCommands runs each command on a proxy against a real one with one
// session.
func TestProxyCommands(t *testing.T) {
	admin := startProxy(t)
	at := func(args ...string) []string { return append(args, "--proxy", admin) }
	says(t, at("who"), "1 sessions", "anna@example.test", "b1a", "joined")
	says(t, at("who", "--user", "bert@example.test"), "0 sessions")
	says(t, at("backends"), "b1", "b1a", "up")
	says(t, at("route", "explain", "anna@example.test"), "anna@example.test", "b1")

	var a answer
	if err := json.Unmarshal([]byte(says(t, at("who", "--json"))), &a); err != nil || a.Proxy != admin || len(a.Answer) == 0 {
		t.Errorf("JSON: %+v, %v", a, err)
	}
	// A dry run changes nothing.
	says(t, at("kick", "--user", "anna@example.test", "--dry-run"), "1 sessions")
	says(t, at("drain", "b1", "b1a", "--dry-run"), "1 sessions")
	says(t, at("who"), "1 sessions")

	says(t, at("forget", "anna@example.test"), "asks anew, ends 0 sessions")
	says(t, at("forget", "--all"), "asks anew")
	says(t, at("drain", "b1", "b1a"), "drains, ends 1 sessions")
	says(t, at("backends"), "drained")
	says(t, at("undrain", "b1", "b1a"), "in service again")
	says(t, at("backends"), "up")
	says(t, at("kick", "--user", "anna@example.test"), "ends")
}

// TestProxyCommandsRefused: mistakes are told with what to do next, and one
// proxy that is away does not hide the others.
func TestProxyCommandsRefused(t *testing.T) {
	admin := startProxy(t)
	t.Setenv(adminVariable, "")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"who"}, "--proxy"},
		{[]string{"kick", "--proxy", admin}, "say whom"},
		{[]string{"drain", "--proxy", admin}, "say what"},
		{[]string{"forget", "--proxy", admin}, "say whom"},
		{[]string{"drain", "b1", "--self", "--proxy", admin}, "name no backend"},
		{[]string{"drain", "b9", "--proxy", admin}, "b9"},
		{[]string{"who", "--client", "nowhere", "--proxy", admin}, "neither an address"},
		{[]string{"who", "--proxy", "127.0.0.1:1"}, "is proxyd running"},
		{[]string{"who", "--proxy", "not an address"}, "is not an address"},
	} {
		if out, err := tool(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want a word about %q\n%s", c.args, err, c.want, out)
		}
	}
	t.Setenv(adminVariable, "127.0.0.1:1, "+admin)
	if out, err := tool(t, "who"); err == nil || !strings.Contains(out, "anna@example.test") {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestAmounts(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1.0k", 12_345: "12k", 999_499: "999k", 999_600: "1.0M", 5e9: "5.0G"} {
		if got := size(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 61 * time.Second: "1m1s", 3 * time.Hour: "3h0m", 49 * time.Hour: "2d1h"} {
		if got := age(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
