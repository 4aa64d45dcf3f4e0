package router_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/router/routertest"
)

// TestRecheck: what no feed tells of ends sessions all the same, at the next
// question; what the directory cannot say ends none.
func TestRecheck(t *testing.T) {
	anna := lookup.Account{Name: "anna@example.test", Home: "b2", Generation: 3, PasswordMark: "monday"}
	for name, c := range map[string]struct {
		change func(a *lookup.Account)
		fail   error
		ends   bool
	}{
		"nothing changed":          {change: func(a *lookup.Account) {}},
		"quota":                    {change: func(a *lookup.Account) { a.Quota = 5 }},
		"a status that allows":     {change: func(a *lookup.Account) { a.Status = lookup.StatusPayDue }},
		"an answer that says less": {change: func(a *lookup.Account) { a.Generation, a.PasswordMark = 0, "" }},
		"suspended":                {change: func(a *lookup.Account) { a.Status = lookup.StatusSuspended }, ends: true},
		"another password":         {change: func(a *lookup.Account) { a.PasswordMark = "tuesday" }, ends: true},
		"made anew":                {change: func(a *lookup.Account) { a.Generation = 4 }, ends: true},
		"moved":                    {change: func(a *lookup.Account) { a.Home = "b1" }, ends: true},
		"gone":                     {ends: true},
		"unavailable":              {fail: lookup.ErrUnavailable},
		"home unknown here":        {change: func(a *lookup.Account) { a.Home = "b9" }},
		"broken":                   {fail: errors.New("rubbish")},
	} {
		t.Run(name, func(t *testing.T) {
			backend := routertest.NewBackend(t, nil, farewell)
			cfg := config()
			cfg.Backends = one("b2", backend)
			cfg.Backends = append(cfg.Backends, one("b1", backend)...)
			d := routertest.NewDirectory()
			d.Add(anna, "sesame")
			cfg.Directory = d
			p := routertest.Start(t, cfg)
			s := joined(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); p.Router.Recheck(ctx, time.Hour) }()
			changed := anna
			switch {
			case c.change != nil:
				c.change(&changed)
				d.Add(changed, "sesame")
			case c.fail != nil:
				d.Fail(func(string, string) error { return c.fail })
			default:
				d.Remove(anna.Name)
			}
			asked := len(d.Asked())
			p.Router.Changed(lookup.Change{}) // the feed was interrupted
			until(t, "the question", func() bool { return len(d.Asked()) > asked })
			if c.ends {
				s.expect("* BYE from the backend")
				s.ended()
				p.Sessions(1)
			} else {
				if n, err := p.Router.Forget(t.Context(), "anna"); n != 0 || err != nil {
					t.Errorf("forget ended %d sessions, %v", n, err)
				}
				if live := p.Router.Sessions(); len(live) != 1 || live[0].Ending {
					t.Errorf("the session ended: %+v", live)
				}
				s.Close()
				p.Sessions(1)
			}
			cancel()
			<-done
		})
	}
}

// TestForget: an administrator's word reaches the cache, and the sessions before the
// answer.
func TestForget(t *testing.T) {
	backend := routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = one("b2", backend)
	d := directory()
	cfg.Directory = d
	p := routertest.Start(t, cfg)
	s := joined(t, p)
	d.Move("anna@example.test", "b9", 0)
	if n, err := p.Router.Forget(t.Context(), "anna"); n != 0 || err != nil {
		t.Errorf("moved to nowhere: %d sessions ended, %v", n, err)
	}
	d.Remove("anna@example.test")
	if n, err := p.Router.Forget(t.Context(), "anna"); n != 1 || err != nil {
		t.Errorf("gone: %d sessions ended, %v", n, err)
	}
	s.expect("* BYE from the backend")
	s.ended()
	if _, err := p.Router.Forget(t.Context(), "no name"); err == nil {
		t.Error("no name was taken for one")
	}
	p.Sessions(1)
}

// TestRecheckByAge: without any feed the question comes by itself.
func TestRecheckByAge(t *testing.T) {
	backend := routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = one("b2", backend)
	d := directory()
	cfg.Directory = d
	p := routertest.Start(t, cfg)
	s := joined(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Router.Recheck(ctx, 10*time.Millisecond) }()
	d.Remove("anna@example.test")
	s.expect("* BYE from the backend")
	s.ended()
	p.Sessions(1)
	cancel()
	<-done
}
