package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"
)

// memory is a directory that remembers berta.
type memory struct{ *routertest.Directory }

func (m memory) Remembered(name string) (lookup.Account, time.Time, bool, error) {
	since := time.Now().Add(-2 * time.Minute)
	switch name {
	case "berta@example.test":
		return lookup.Account{Name: name, Status: lookup.StatusSuspended}, since, true, nil
	case "gone@example.test":
		return lookup.Account{}, since, true, lookup.ErrAbsent
	}
	return lookup.Account{}, time.Time{}, false, nil
}

// TestExplain: each step and what decided it, and nobody is dialled.
func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		address        string
		defaultBackend string
		remember       bool
		drain          bool
		fail           error
		answer, home   string
		says           []string
	}{
		"home": {
			address: "Anna@Example.test", answer: "found", home: "b2",
			says: []string{"anna@example.test  [as it is]", `home "b2", generation 3  [directory or cache]`, "logins allowed, mail allowed", "b2  [account]", "a at ", ", then b at ", "no node offers it"},
		},
		"default domain and backend": {
			address: "berta", defaultBackend: "b2", answer: "found", home: "b2",
			says: []string{"berta@example.test  [default domain]", "b2  [default backend]"},
		},
		"no default backend":   {address: "berta", answer: "found", says: []string{"set default_backend"}},
		"no such backend":      {address: "erna", answer: "found", says: []string{`"b9" is configured`, "not now"}},
		"nobody":               {address: "nobody", answer: "absent", says: []string{"absent: no such account"}},
		"no name":              {address: "a b", answer: "absent", says: []string{"refused", "[rules for names]"}},
		"directory away":       {address: "anna", fail: lookup.Unavailable("dial", errors.New("refused")), answer: "unavailable", says: []string{"unavailable: dial"}},
		"a bug there":          {address: "anna", fail: errors.New("a bug"), answer: "unavailable", says: []string{"a bug"}},
		"remembered":           {address: "berta", remember: true, defaultBackend: "b2", answer: "found", home: "b2", says: []string{"[cache, 2m0", "logins refused, mail allowed"}},
		"not remembered":       {address: "anna", remember: true, answer: "found", home: "b2", says: []string{"generation 3  [directory]"}},
		"remembered as absent": {address: "gone", remember: true, answer: "absent", says: []string{"absent", "[cache, "}},
		"drained":              {address: "anna", drain: true, answer: "found", home: "b2", says: []string{"b at ", ", then never a at ", "drained"}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := routertest.NewBackend(t, nil, "EOF"), routertest.NewBackend(t, nil, "EOF")
			d := directory()
			d.Fail(func(string, string) error { return c.fail })
			cfg := config()
			cfg.Directory, cfg.Backends, cfg.Options.DefaultBackend = d, twins(a, b), c.defaultBackend
			if c.remember {
				cfg.Directory = memory{d}
			}
			p := routertest.Start(t, cfg)
			if c.drain {
				p.Router.SetNodeDraining("b2", "a", true)
			}
			e := p.Router.Explain(t.Context(), c.address)
			if e.Answer != c.answer || e.Home != c.home || (e.Error == "") != (c.home != "") || len(e.Routes) != min(len(c.home), 1) {
				t.Errorf("got %+v", e)
			}
			text := e.String()
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("%q is missing in:\n%s", want, text)
				}
			}
			if a.Calls()+b.Calls() > 0 {
				t.Error("a node was called")
			}
			if out, err := json.Marshal(e); err != nil || !strings.Contains(string(out), `"answer":"`+c.answer+`"`) {
				t.Errorf("got %s, %v", out, err)
			}
			if e.Home != "" && (e.Routes[0].Service != upstream.IMAP || len(e.Routes[0].Nodes) != 2) {
				t.Errorf("got %+v", e.Routes)
			}
		})
	}
}

// TestExplainShowsMarks: why a node is tried last.
func TestExplainShowsMarks(t *testing.T) {
	b := routertest.NewBackend(t, nil, farewell)
	cfg := config()
	cfg.Backends = twins(b, b)
	dead := cfg.Backends[0].Nodes[0].Services[upstream.IMAP]
	dead.Address = "127.0.0.1:1"
	cfg.Backends[0].Nodes[0].Services = map[upstream.Service]upstream.Endpoint{upstream.IMAP: dead}
	p := routertest.Start(t, cfg)
	c := joined(t, p)
	c.Close()
	p.Session()
	e := p.Router.Explain(context.Background(), "anna")
	if hops := e.Routes[0].Nodes; hops[0].Node != "b" || hops[0].State != upstream.Up || hops[1].Node != "a" || hops[1].State != upstream.Suspect || hops[1].Reason == "" {
		t.Errorf("got %+v", hops)
	}
}

var _ router.Memory = memory{}
