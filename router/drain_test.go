package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"switchyard/internal/tlsconf"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// TestDrain: no new sessions, no logins, the live ones end, and all of it can be
// taken back.
func TestDrain(t *testing.T) {
	backend := routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = one("b2", backend)
	cfg.Options.KickRate = 4
	p := routertest.Start(t, cfg)
	oldest, waiting := joined(t, p), dial(t, p)
	done := make(chan error, 1)
	go func() { done <- p.Router.Drain(t.Context()) }()
	oldest.expect("* BYE from the backend") // at once
	oldest.ended()
	if err := p.Router.Ready(); err != router.ErrDraining {
		t.Errorf("ready: %v", err)
	}
	waiting.say("anna sesame") // its turn to be kicked comes later
	waiting.expect(fmt.Sprint(int(router.Unavailable)))
	p.Play("S: busy\nEOF")
	has(t, p, 2, "draining")
	if n := backend.Calls(); n != 1 {
		t.Errorf("the backend was called %d times", n)
	}
	waiting.ended() // kicked
	if err := <-done; err != nil {
		t.Errorf("drain: %v", err)
	}

	go func() { done <- p.Router.Drain(t.Context()) }()
	if err := <-done; err != nil { // nobody was there
		t.Errorf("drain: %v", err)
	}
	p.Router.SetDraining(false)
	if err := p.Router.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	again := joined(t, p)
	again.Close()
	p.Sessions(4)
}

// TestUndrainEndsADrain, and leaves those alone whose turn has not come.
func TestUndrainEndsADrain(t *testing.T) {
	cfg := config()
	cfg.Options.KickRate = 4
	p := routertest.Start(t, cfg)
	first, second, third := dial(t, p), dial(t, p), dial(t, p)
	ctx, cancel := context.WithCancelCause(t.Context())
	left := make(chan error, 1)
	go func() { left <- p.Router.Drain(ctx) }()
	first.ended()
	cause := errors.New("the administrator went home")
	cancel(cause)
	if err := <-left; err != cause {
		t.Errorf("got %v, want the cause", err)
	}
	if p.Router.Ready() == nil {
		t.Error("a drain that was left is over")
	}
	go func() { left <- p.Router.Drain(t.Context()) }()
	second.ended()
	p.Router.SetDraining(false)
	if err := <-left; err != router.ErrUndrained {
		t.Errorf("got %v, want ErrUndrained", err)
	}
	third.say("nobody x")
	third.expect(fmt.Sprint(int(router.Rejected)))
	third.Close()
	p.Sessions(3)
}

// twins makes a backend of two nodes.
func twins(a, b *routertest.Backend) []upstream.Backend {
	return []upstream.Backend{{Name: "b2", Nodes: []upstream.Node{
		a.Node("a", upstream.IMAP, tlsconf.Off, nil), b.Node("b", upstream.IMAP, tlsconf.Off, nil),
	}}}
}

// TestDrainNode: the peer takes over; without one it is "not now".
func TestDrainNode(t *testing.T) {
	a, b := routertest.NewBackend(t, nil, farewell), routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = twins(a, b)
	p := routertest.Start(t, cfg)
	if _, err := p.Router.DrainNode(t.Context(), "b2", "c"); !errors.Is(err, upstream.ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	first := joined(t, p)
	drain := func(node string, want int) {
		t.Helper()
		if n, err := p.Router.DrainNode(t.Context(), "b2", node); err != nil || n != want {
			t.Errorf("drained %d, %v, want %d", n, err, want)
		}
	}
	drain("a", 1)
	first.expect("* BYE from the backend")
	first.ended()
	second := joined(t, p)
	if a.Calls() != 1 || b.Calls() != 1 {
		t.Errorf("a was called %d times, b %d", a.Calls(), b.Calls())
	}
	drain("a", 0)
	drain("", 1)
	second.expect("* BYE from the backend")
	second.ended()
	p.Play("S: hello 127.0.0.1\nC: anna sesame\nS: " + fmt.Sprint(int(router.Unavailable)) + "\nC: bye\nEOF")
	has(t, p, 3, "backend unavailable")
	if err := p.Router.SetNodeDraining("b2", "a", false); err != nil {
		t.Fatal(err)
	}
	third := joined(t, p)
	third.Close()
	p.Sessions(4)
	if a.Calls() != 2 || b.Calls() != 1 {
		t.Errorf("a was called %d times, b %d", a.Calls(), b.Calls())
	}
}

// late drains node a behind the first connection to it, before the session
// could be found there.
type late struct {
	router.Upstream
	once sync.Once
}

func (l *late) Dial(ctx context.Context, w upstream.Want) (*upstream.Back, error) {
	b, err := l.Upstream.Dial(ctx, w)
	l.once.Do(func() { l.Drain(w.Backend, "a", true) })
	return b, err
}

// TestNoSessionSlipsPastADrain.
func TestNoSessionSlipsPastADrain(t *testing.T) {
	a, b := routertest.NewBackend(t, nil, "EOF"), routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = twins(a, b)
	cfg.Wrap = func(up router.Upstream) router.Upstream { return &late{Upstream: up} }
	p := routertest.Start(t, cfg)
	c := joined(t, p)
	c.Close()
	if line := p.Session(); line["node"] != "b" {
		t.Errorf("got %v", line)
	}
	if a.Calls() != 1 || b.Calls() != 1 {
		t.Errorf("a was called %d times, b %d", a.Calls(), b.Calls())
	}
}

// carrier is a protocol that takes mail without a login: it goes to b2 at once
// and then reads on.
type carrier struct{}

func (carrier) Name() string { return "carrier" }

func (carrier) Serve(ctx context.Context, s *router.Session) error {
	s.Admit()
	for range 2 { // the second connection is to the same node
		b, err := s.Dial(ctx, "b2", upstream.LMTP)
		if err != nil {
			return err
		}
		defer b.Close()
	}
	if err := s.Conn.Line("hello 127.0.0.1"); err != nil {
		return err
	}
	_, err := s.Conn.ReadLine(100)
	return err
}

// TestDrainNodeOfInboundMail: a session that has dialled the node is there too.
func TestDrainNodeOfInboundMail(t *testing.T) {
	backend := routertest.NewBackend(t, nil, "EOF")
	cfg := config()
	cfg.Protocol = carrier{}
	cfg.Backends = []upstream.Backend{{Name: "b2", Nodes: []upstream.Node{backend.Node("a", upstream.LMTP, tlsconf.Off, nil)}}}
	p := routertest.Start(t, cfg)
	c := dial(t, p)
	all := p.Router.Find(router.Match{Backend: "b2", Node: "a"})
	if len(all) != 1 || all[0].State != router.StateInbound || all[0].Home != "" || len(all[0].Legs) != 1 || all[0].Legs[0] != (router.Leg{Backend: "b2", Node: "a"}) {
		t.Errorf("got %+v", all)
	}
	if n := len(p.Router.Find(router.Match{Node: "b"})); n != 0 {
		t.Errorf("found %d elsewhere", n)
	}
	if len(p.Router.Joined()) != 0 || p.Router.Stats().Waiting != 0 {
		t.Errorf("got %v, %+v", p.Router.Joined(), p.Router.Stats())
	}
	if n, err := p.Router.DrainNode(t.Context(), "b2", "a"); n != 1 || err != nil {
		t.Errorf("drained %d, %v", n, err)
	}
	c.ended()
	if line := p.Session(); line["result"] != "kicked" {
		t.Errorf("got %v", line)
	}
}
