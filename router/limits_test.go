package router_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"switchyard/internal/tlsconf"
	"switchyard/router"
	"switchyard/router/admit"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// asker is a client of the protocol talk.
type asker struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func ask(t *testing.T, p *routertest.Proxy) *asker {
	t.Helper()
	conn := p.Dial()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	a := &asker{t, conn, bufio.NewReader(conn)}
	return a
}

func (a *asker) line() string {
	a.t.Helper()
	line, err := a.in.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

func (a *asker) say(line string) string {
	a.t.Helper()
	io.WriteString(a.conn, line+"\r\n")
	return a.line()
}

// TestUserSessions: a user who has as many sessions as one may have is told "not
// now", and another is not; a session that has ended makes room, and those that
// only try the name take none.
func TestUserSessions(t *testing.T) {
	cfg := config()
	b := routertest.NewBackend(t, nil, "C: *\nS: welcome\nEOF")
	cfg.Backends = []upstream.Backend{{Name: "b2", Nodes: []upstream.Node{b.Node("a", upstream.IMAP, tlsconf.Off, nil)}}}
	cfg.Options.Admit.UserSessions = 2
	p := routertest.Start(t, cfg)
	for range 3 {
		stranger := ask(t, p)
		stranger.line()
		stranger.say("anna wrong")
	}
	var own []*asker
	for range 2 {
		a := ask(t, p)
		a.line()
		if got := a.say("anna sesame"); got != "joined" {
			t.Fatalf("got %q", got)
		}
		own = append(own, a)
	}
	third := ask(t, p)
	third.line()
	if got := third.say("anna sesame"); got != fmt.Sprint(int(router.Unavailable)) {
		t.Errorf("the third: got %q, want not now", got)
	}
	own[0].conn.Close()
	p.Sessions(1)
	if got := third.say("anna sesame"); got != "joined" {
		t.Errorf("with room for one: got %q", got)
	}
	stats := p.Router.Stats()
	if n := stats.Protocols[0].Logins["too many sessions"]; n != 1 {
		t.Errorf("%d logins are counted as too many, want 1", n)
	}
}

// TestAddressSessions: an address that has as many sessions as one may have, logged
// in or not, is turned away with the protocol's words; exempt ones are not.
func TestAddressSessions(t *testing.T) {
	for name, exempt := range map[string]bool{"bounded": false, "exempt": true} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Options.Admit.AddressSessions = 2
			if exempt {
				cfg.Options.Admit.Exempt = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
			p := routertest.Start(t, cfg)
			var open []*asker
			for range 2 {
				a := ask(t, p)
				if got := a.line(); got != "hello 127.0.0.1" {
					t.Fatalf("got %q", got)
				}
				open = append(open, a)
			}
			want := map[bool]string{false: "busy", true: "hello 127.0.0.1"}[exempt]
			if got := ask(t, p).line(); got != want {
				t.Errorf("the third: got %q, want %q", got, want)
			}
			open[0].conn.Close()
			if !exempt {
				for deadline := time.Now().Add(10 * time.Second); ask(t, p).line() != "hello 127.0.0.1"; {
					if time.Now().After(deadline) {
						t.Fatal("turned away with room for one")
					}
				}
			}
		})
	}
}

// TestGuard: wrong logins from an address count over all its connections, and
// end in "not now" without a question to the directory; a user who has logged in
// from there before is still let in.
func TestGuard(t *testing.T) {
	cfg := config()
	d := directory()
	cfg.Directory = d
	b := routertest.NewBackend(t, nil, "C: *\nS: welcome\nEOF")
	cfg.Backends = []upstream.Backend{{Name: "b2", Nodes: []upstream.Node{b.Node("a", upstream.IMAP, tlsconf.Off, nil)}}}
	cfg.Options.FailureDelay = time.Nanosecond
	cfg.Options.MaxFailures = 100
	cfg.Options.Admit.Guard = admit.GuardOptions{Free: 4, Delay: time.Hour, MaxDelay: time.Hour, MaxUserDelay: time.Nanosecond}
	p := routertest.Start(t, cfg)
	a := ask(t, p)
	a.line()
	if got := a.say("anna sesame"); got != "joined" {
		t.Fatalf("got %q", got)
	}
	for i := range 5 {
		guess := ask(t, p)
		guess.line()
		if got := guess.say(fmt.Sprintf("berta guess%d", i)); got != fmt.Sprint(int(router.Rejected)) {
			t.Fatalf("guess %d: got %q", i, got)
		}
	}
	before := len(d.Asked())
	guess := ask(t, p)
	guess.line()
	for _, login := range []string{"berta again", "nobody x", "cora sesame"} {
		if got := guess.say(login); got != fmt.Sprint(int(router.Unavailable)) {
			t.Errorf("%s: got %q, want not now", login, got)
		}
	}
	if now := d.Asked(); len(now) != before {
		t.Errorf("the directory was asked %q", now[before:])
	}
	own := ask(t, p)
	own.line()
	if got := own.say("anna sesame"); got != "joined" {
		t.Errorf("anna, known here: got %q", got)
	}
	if n := p.Router.Stats().Protocols[0].Logins["throttled"]; n != 3 {
		t.Errorf("%d logins are counted as throttled, want 3", n)
	}
}

// eager is a protocol that looks for early talkers.
type eager struct{ wait time.Duration }

func (eager) Name() string { return "eager" }

func (e eager) Serve(_ context.Context, s *router.Session) error {
	early, err := s.Early(e.wait)
	if err != nil {
		return err
	}
	if err := s.Conn.Line("early %v", early); err != nil {
		return err
	}
	line, err := s.Conn.ReadLine(100)
	if err != nil {
		return err
	}
	return s.Conn.Line("heard %s", line)
}

// TestEarly: who talks before the banner is found out, and what it said can still
// be read; who waits is not.
func TestEarly(t *testing.T) {
	cfg := config()
	cfg.Protocol = eager{time.Hour}
	talker := ask(t, routertest.Start(t, cfg))
	if got := talker.say("me first"); got != "early true" {
		t.Errorf("got %q", got)
	}
	if got := talker.line(); got != "heard me first" {
		t.Errorf("got %q", got)
	}
	cfg = config()
	cfg.Protocol = eager{20 * time.Millisecond}
	listener := ask(t, routertest.Start(t, cfg))
	if got := listener.line(); got != "early false" {
		t.Errorf("got %q", got)
	}
	if got := listener.say("my turn"); got != "heard my turn" {
		t.Errorf("got %q", got)
	}
}
