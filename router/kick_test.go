package router_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/server"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
)

// farewell is a backend that says goodbye when its half ends.
const farewell = "C: user *\nS: welcome\nEOF\nS: * BYE from the backend"

// client is a connection with its reader.
type client struct {
	net.Conn
	r *bufio.Reader
	t *testing.T
}

// dial connects and reads the greeting.
func dial(t *testing.T, p *routertest.Proxy) *client {
	t.Helper()
	c := p.Dial()
	return greeted(t, c)
}

func greeted(t *testing.T, c net.Conn) *client {
	t.Helper()
	out := &client{c, bufio.NewReader(c), t}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	out.expect("hello 127.0.0.1")
	return out
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) expect(want string) {
	c.t.Helper()
	if got := read(c.t, c.r); got != want {
		c.t.Errorf("got %q, want %q", got, want)
	}
}

func (c *client) ended() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Errorf("got %q, %v, want the end", rest, err)
	}
	c.Close()
}

// joined logs anna in.
func joined(t *testing.T, p *routertest.Proxy) *client {
	t.Helper()
	c := dial(t, p)
	c.say("anna sesame")
	c.expect("joined")
	return c
}

// has waits for n sessions' lines and finds a result among them.
func has(t *testing.T, p *routertest.Proxy, n int, result string) {
	t.Helper()
	var got []any
	for _, line := range p.Sessions(n) {
		got = append(got, line["result"])
	}
	if !slices.Contains(got, any(result)) {
		t.Errorf("got %v, want %s", got, result)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestSessions: what is known of a session at each stage, and that nothing is
// left of it.
func TestSessions(t *testing.T) {
	backend := routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = one("b2", backend)
	p := routertest.Start(t, cfg)

	first := dial(t, p)
	until(t, "the greeting is counted", func() bool { return p.Router.Sessions()[0].Bytes.Out > 0 })
	all := p.Router.Sessions()
	if len(all) != 1 || all[0].State != router.StateLogin || all[0].User != "" || all[0].Protocol != "talk" || all[0].Listener != "test" ||
		all[0].ID == "" || all[0].Client.String() != first.LocalAddr().String() || all[0].Since.IsZero() {
		t.Errorf("before login: %+v", all)
	}
	first.say("nobody sesame")
	first.expect(fmt.Sprint(int(router.Rejected)))
	if all = p.Router.Sessions(); all[0].User != "nobody@example.test" || all[0].State != router.StateLogin {
		t.Errorf("behind a failed login: %+v", all)
	}
	second := joined(t, p)
	until(t, "joined", func() bool { return p.Router.Sessions()[1].State == router.StateJoined })
	if all = p.Router.Sessions(); len(all) != 2 || all[1].User != "anna@example.test" || all[1].Home != "b2" || all[1].Node != "b2a" ||
		all[1].Since.Before(all[0].Since) || len(all[1].Legs) != 0 {
		t.Errorf("joined: %+v", all)
	}
	if got := p.Router.Joined(); len(got) != 1 || got[router.Leg{Backend: "b2", Node: "b2a"}] != 1 {
		t.Errorf("joined to: %v", got)
	}
	s := p.Router.Stats()
	if s.Users != 2 || s.Waiting != 1 || len(s.Protocols) != 1 || s.Protocols[0].Live[router.StateLogin] != 1 || s.Protocols[0].Live[router.StateJoined] != 1 {
		t.Errorf("stats: %+v", s)
	}
	for name, m := range map[string]router.Match{
		"session": {Session: all[1].ID}, "user": {User: "anna"}, "backend": {Backend: "b2"}, "node": {Node: "b2a"},
		"user and backend": {User: "ANNA@example.test", Backend: "b2"},
	} {
		if got := p.Router.Find(m); len(got) != 1 || got[0].ID != all[1].ID {
			t.Errorf("%s: found %v", name, got)
		}
	}
	for name, m := range map[string]router.Match{
		"nothing": {}, "another user": {User: "berta"}, "another node": {Backend: "b2", Node: "b2b"}, "elsewhere": {Client: netip.MustParsePrefix("192.0.2.0/24")},
		"protocol": {Protocol: "imap"}, "user elsewhere": {User: "anna", Backend: "b1"}, "no name": {User: "a\x00b"},
	} {
		if got := p.Router.Find(m); len(got) != 0 {
			t.Errorf("%s: found %v", name, got)
		}
	}
	first.Close()
	second.Close()
	p.Sessions(2)
	until(t, "empty", func() bool { return len(p.Router.Sessions()) == 0 })
	s = p.Router.Stats()
	if s.Users != 0 || s.Waiting != 0 || s.Protocols[0].Live[router.StateLogin] != 0 || s.Protocols[0].Live[router.StateJoined] != 0 {
		t.Errorf("at the end: %+v", s)
	}
	want := router.ProtocolStats{Logins: map[string]uint64{"ok": 1, "rejected": 1}, Ended: map[string]uint64{"client gone": 1, "login rejected": 1}}
	for result, n := range s.Protocols[0].Logins {
		if n != want.Logins[result] {
			t.Errorf("logins %s: %d", result, n)
		}
	}
	for result, n := range s.Protocols[0].Ended {
		if n != want.Ended[result] {
			t.Errorf("ended %s: %d", result, n)
		}
	}
	if s.Protocols[0].BytesIn != uint64(len("nobody sesame\r\nanna sesame\r\n")) || s.Protocols[0].BytesOut == 0 {
		t.Errorf("bytes: %+v", s.Protocols[0])
	}
	for _, l := range s.Lookups {
		if l.Question == "check" && (l.Answer == lookup.AnswerFound || l.Answer == lookup.AnswerRejected) != (l.Count == 1) {
			t.Errorf("lookups: %+v", l)
		}
	}
}

// TestKick: whom it ends, and how.
func TestKick(t *testing.T) {
	for name, c := range map[string]struct {
		match        router.Match
		login, joint bool // are ended: the session before its login, the joined one
	}{
		"nobody":    {router.Match{}, false, false},
		"all":       {router.Match{All: true}, true, true},
		"user":      {router.Match{User: "anna"}, false, true},
		"client":    {router.Match{Client: netip.MustParsePrefix("127.0.0.1/32")}, true, true},
		"backend":   {router.Match{Backend: "b2"}, false, true},
		"node":      {router.Match{Backend: "b2", Node: "b2a"}, false, true},
		"protocol":  {router.Match{Protocol: "talk"}, true, true},
		"elsewhere": {router.Match{Client: netip.MustParsePrefix("192.0.2.0/24")}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			backend := routertest.NewBackend(t, nil, farewell)
			cfg := config()
			cfg.Backends = one("b2", backend)
			p := routertest.Start(t, cfg)
			login, joint := dial(t, p), joined(t, p)
			want := 0
			for _, yes := range []bool{c.login, c.joint} {
				if yes {
					want++
				}
			}
			if n := p.Router.Kick(t.Context(), c.match, "as the test says"); n != want {
				t.Errorf("kicked %d, want %d", n, want)
			}
			if c.joint {
				joint.expect("* BYE from the backend")
				joint.ended()
			}
			if c.login {
				login.ended()
			}
			for _, line := range p.Sessions(want)[:want] {
				if line["result"] != "kicked" || line["reason"] != "session was ended: as the test says" {
					t.Errorf("got %v", line)
				}
			}
			if n := p.Router.Stats().Kicked; n != uint64(want) {
				t.Errorf("counted %d", n)
			}
			if !c.login {
				login.say("bye")
				login.ended()
			}
			joint.Close()
			p.Sessions(2)
		})
	}
}

// TestKickIsPaced: by age, and no faster than said, over all that kick.
func TestKickIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipes := routertest.NewPipes()
		cfg := config()
		cfg.Net, cfg.Options.KickRate = pipes, 10
		p := routertest.Start(t, cfg)
		var mu sync.Mutex
		var order []int
		var ends []time.Duration
		begun := time.Now()
		var clients sync.WaitGroup
		for i := range 30 {
			clients.Go(func() {
				pipes.Say(nil, false)
				mu.Lock()
				defer mu.Unlock()
				order, ends = append(order, i), append(ends, time.Since(begun))
			})
			synctest.Wait()
		}
		// Half of them go to another: they take turns.
		ctx, cancel := context.WithCancel(t.Context())
		var second int
		var kicks sync.WaitGroup
		kicks.Go(func() {
			if n := p.Router.Kick(t.Context(), router.Match{Session: p.Router.Sessions()[29].ID}, "one"); n != 1 {
				t.Errorf("kicked %d, want 1", n)
			}
		})
		synctest.Wait()
		kicks.Go(func() { second = p.Router.Kick(ctx, router.Match{All: true}, "all") })
		time.Sleep(1950 * time.Millisecond)
		cancel()
		kicks.Wait()
		synctest.Wait()
		mu.Lock()
		want := []int{29}
		for i := range 19 {
			want = append(want, i)
		}
		if !slices.Equal(order, want) || second != 19 {
			t.Errorf("kicked %v, %d, want %v", order, second, want)
		}
		for i, at := range ends {
			if at != time.Duration(i)*100*time.Millisecond {
				t.Errorf("number %d ended after %v", i, at)
			}
		}
		mu.Unlock()
		p.Stop()
		clients.Wait()
	})
}

// TestChanged: a change that bears on sessions ends the account's, and no other.
func TestChanged(t *testing.T) {
	for name, c := range map[string]struct {
		change lookup.Change
		want   int
	}{
		"password":              {lookup.Change{Name: "anna@example.test", Sessions: true}, 2},
		"quota":                 {lookup.Change{Name: "anna@example.test"}, 0},
		"another's":             {lookup.Change{Name: "berta@example.test", Sessions: true}, 0},
		"the feed was broken":   {lookup.Change{}, 0},
		"broken, with sessions": {lookup.Change{Sessions: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			backend := routertest.NewBackend(t, nil, farewell)
			cfg := config()
			cfg.Backends = one("b2", backend)
			cfg.Options.KickRate = 1 // it does not apply
			p := routertest.Start(t, cfg)
			sessions := []*client{joined(t, p), joined(t, p)}
			begun := time.Now()
			if n := p.Router.Changed(c.change); n != c.want {
				t.Errorf("ended %d, want %d", n, c.want)
			}
			for _, s := range sessions {
				if c.want > 0 {
					s.expect("* BYE from the backend")
					s.ended()
				}
				s.Close()
			}
			if took := time.Since(begun); took > time.Second && c.want > 0 {
				t.Errorf("took %v", took)
			}
			p.Sessions(2)
		})
	}
}

// TestChangedDuringALogin: an account that changes while its password is being
// checked gets no session by the old one, under whatever name it logs in.
func TestChangedDuringALogin(t *testing.T) {
	d := directory()
	d.Alias("ann@example.test", "anna@example.test")
	cfg := config()
	cfg.Directory = d
	backend := routertest.NewBackend(t, nil, "C: user *\nS: welcome\nEOF")
	cfg.Backends = one("b2", backend)
	p := routertest.Start(t, cfg)
	change := func() { p.Router.Changed(lookup.Change{Name: "anna@example.test", Sessions: true}) }
	during := func(times int) {
		d.Fail(func(verb, _ string) error {
			if verb == "check" && times > 0 {
				times--
				change()
			}
			return nil
		})
	}
	during(1)
	c := dial(t, p)
	c.say("anna sesame")
	c.ended()
	if line := p.Session(); line["result"] != "kicked" {
		t.Errorf("got %v", line)
	}
	if n := backend.Calls(); n != 0 {
		t.Fatalf("the backend was called %d times", n)
	}

	during(1) // the second answer is behind the change
	before := len(d.Asked())
	c = dial(t, p)
	c.say("ann sesame")
	c.expect("joined")
	if n := len(d.Asked()) - before; n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	change()
	c.ended()

	during(2) // by the second question the session bears the account's name
	c = dial(t, p)
	c.say("ann sesame")
	c.ended()
	p.Sessions(3)
	if n := backend.Calls(); n != 1 {
		t.Errorf("the backend was called %d times", n)
	}
}

// TestKickAtAnyMoment: sessions that are kicked while they come and go leave
// nothing behind.
func TestKickAtAnyMoment(t *testing.T) {
	backend := routertest.NewBackend(t, nil, "HANG")
	network := &backends{}
	cfg := config()
	cfg.Backends = one("b2", backend)
	cfg.Upstream.Dial = network.dial
	cfg.Options.KickRate = 1e6
	cfg.Options.Grace = 200 * time.Millisecond
	p := routertest.Start(t, cfg)
	var clients, kicker sync.WaitGroup
	stop := make(chan struct{})
	kicker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				p.Router.Kick(t.Context(), router.Match{All: true}, "again")
			}
		}
	})
	const each = 40
	for range 5 {
		clients.Go(func() {
			for range each {
				conn, err := net.Dial("tcp", p.Addr)
				if err != nil {
					t.Error(err)
					return
				}
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				io.WriteString(conn, "anna sesame\r\n")
				if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, net.ErrClosed) && isTimeout(err) {
					t.Errorf("a session did not end: %v", err)
				}
				conn.Close()
			}
		})
	}
	clients.Wait()
	close(stop)
	kicker.Wait()
	p.Sessions(5 * each)
	until(t, "empty", func() bool { return len(p.Router.Sessions()) == 0 })
	s := p.Router.Stats()
	if s.Users != 0 || s.Waiting != 0 || s.Protocols[0].Live[router.StateLogin] != 0 || s.Protocols[0].Live[router.StateJoined] != 0 {
		t.Errorf("left: %+v", s)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestKickedIsLikeShutdown for protocols that have no words of their own.
func TestKickedIsLikeShutdown(t *testing.T) {
	err := error(&router.KickedError{Reason: "x"})
	if !errors.Is(err, server.ErrShutdown) || router.KindOf(err) != router.Unavailable {
		t.Error("it is not")
	}
}
