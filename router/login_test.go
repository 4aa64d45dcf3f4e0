package router_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/internal/origin"
	"switchyard/internal/server"
	"switchyard/internal/tlsconf"
	"switchyard/lookup"
	"switchyard/router"
	"switchyard/router/routertest"
	"switchyard/router/upstream"

	"pgregory.net/rapid"
)

func TestKindOf(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want router.Kind
	}{
		"nil":                           {nil, router.OK},
		"rejected":                      {fmt.Errorf("x: %w", lookup.ErrRejected), router.Rejected},
		"absent":                        {lookup.ErrAbsent, router.Absent},
		"bad name":                      {&lookup.NameError{}, router.Absent},
		"status":                        {&router.StatusError{Status: "banned"}, router.Refused},
		"refused by the backend":        {router.NewRefused("[LIMIT] x"), router.Refused},
		"directory":                     {lookup.Unavailable("dial", nil), router.Unavailable},
		"directory, because of absence": {lookup.Unavailable("search", lookup.ErrAbsent), router.Unavailable},
		"backend":                       {fmt.Errorf("%w: %w", router.ErrBackend, io.EOF), router.Unavailable},
		"backend that says rejected":    {fmt.Errorf("%w: %w", router.ErrOperator, lookup.ErrRejected), router.Unavailable},
		"moved":                         {router.ErrMoved, router.Unavailable},
		"unreachable":                   {upstream.ErrUnreachable, router.Unavailable},
		"shutdown":                      {server.ErrShutdown, router.Unavailable},
		"anything else":                 {errors.New("a bug"), router.Broken},
	} {
		if got := router.KindOf(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	for status, want := range map[lookup.Status]string{
		lookup.StatusSuspended: "suspended", "PayUp": "payup", "": "disabled", "a\r\nb": "disabled", "no] such": "disabled",
		"averyveryverylongwordindeed": "disabled",
	} {
		if got := (&router.StatusError{Status: status}).Word(); got != want {
			t.Errorf("%q: got %q, want %q", status, got, want)
		}
	}
	if got := router.NewRefused("[LIMIT] a\r\nb\x00\x7f").Text; got != "[LIMIT] ab" {
		t.Errorf("got %q", got)
	}
}

// TestPenance: the delay behind a wrong login grows, and the third is the last.
func TestPenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipes := routertest.NewPipes()
		cfg := config()
		cfg.Net = pipes
		cfg.Options.FailureDelay = time.Second
		p := routertest.Start(t, cfg)
		started := time.Now()
		out := pipes.Say([]byte("anna wrong\r\nanna wrong\r\nanna wrong\r\nanna sesame\r\n"), false)
		want := fmt.Sprintf("hello invalid IP\r\n%[1]d\r\n%[1]d\r\n%[1]d\r\n", router.Rejected)
		if string(out) != want {
			t.Errorf("got %q, want %q", out, want)
		}
		if took := time.Since(started); took != 7*time.Second {
			t.Errorf("took %v, want 1 s, 2 s and 4 s", took)
		}
		p.Stop()
	})
}

// TestNeverAnotherBackend: with the directory failing at any step, in any way,
// with homes moving and backends answering "moved", no session reaches a backend
// that was not the account's home at the time, and no client hears "no" for "not
// now".
func TestNeverAnotherBackend(t *testing.T) {
	failures := []error{
		nil, nil, nil,
		lookup.Unavailable("dial", errors.New("refused")), lookup.Unavailable("read", io.EOF),
		errors.New("a bug"), io.ErrUnexpectedEOF,
	}
	rapid.Check(t, func(t *rapid.T) {
		homes := []string{"", "b1", "b2", "b3", "b9"} // b9 is no backend; b3 is the default
		account := lookup.Account{Name: "anna@example.test", Home: rapid.SampledFrom(homes).Draw(t, "home")}
		dir := routertest.NewDirectory()
		dir.Add(account, "sesame")
		now := rapid.SampledFrom(homes).Draw(t, "home behind the cache")
		dir.Move(account.Name, now, 2)
		fail := map[string]error{
			"check": rapid.SampledFrom(failures).Draw(t, "check"),
			"fresh": rapid.SampledFrom(failures).Draw(t, "fresh"),
		}
		dir.Fail(func(verb, _ string) error { return fail[verb] })
		moved := map[string]bool{}
		for _, b := range []string{"b1", "b2", "b3"} {
			moved[b] = rapid.Bool().Draw(t, "moved from "+b)
		}

		net := &backends{moved: moved}
		cfg := config()
		pipes := routertest.NewPipes()
		cfg.Net, cfg.Directory = pipes, dir
		cfg.Options.DefaultBackend = "b3"
		cfg.Upstream.Dial = net.dial
		for _, b := range []string{"b1", "b2", "b3"} {
			cfg.Backends = append(cfg.Backends, upstream.Backend{Name: b, Nodes: []upstream.Node{{
				Name: b, Services: map[upstream.Service]upstream.Endpoint{upstream.IMAP: {Address: b + ":1"}},
			}}})
		}
		p := routertest.Start(t, cfg)
		out := string(pipes.Say([]byte("anna sesame\r\nbye\r\n"), false))
		p.Stop()

		want, reached := expect(account.Home, now, fail, moved)
		if got := net.reached(); fmt.Sprint(got) != fmt.Sprint(reached) {
			t.Fatalf("reached %v, want %v", got, reached)
		}
		if got := "hello invalid IP\r\n" + want; out != got {
			t.Fatalf("got %q, want %q", out, got)
		}
	})
}

// expect is the model: what the client hears, and which backends are dialled.
func expect(home, now string, fail map[string]error, moved map[string]bool) (answer string, reached []string) {
	notNow := fmt.Sprintf("%d\r\n", router.Unavailable)
	owner := func(home string) string {
		if home == "" {
			return "b3"
		}
		return home
	}
	if fail["check"] != nil || owner(home) == "b9" {
		return notNow, nil
	}
	reached = []string{owner(home)}
	if !moved[owner(home)] {
		return "joined\r\n", reached
	}
	if fail["fresh"] != nil || owner(now) == "b9" || owner(now) == owner(home) {
		return notNow, reached
	}
	reached = append(reached, owner(now))
	if moved[owner(now)] {
		return notNow, reached
	}
	return "joined\r\n", reached
}

// TestBelieve: whose word about a client counts, and when.
func TestBelieve(t *testing.T) {
	told := origin.Origin{Session: "first", Client: netip.MustParseAddrPort("192.0.2.9:1234"), Local: netip.MustParseAddrPort("198.51.100.1:993"), TTL: 4}
	for name, c := range map[string]struct {
		trusted    []netip.Prefix
		told       []origin.Origin
		wantClient string
		wantTTL    int
		wantErr    bool
	}{
		"nobody says anything": {loopback, nil, "127.0.0.1", 6, false},
		"a proxy of ours":      {loopback, []origin.Origin{told}, "192.0.2.9", 3, false},
		"only the first time":  {loopback, []origin.Origin{told, {Client: netip.MustParseAddrPort("192.0.2.66:1")}}, "192.0.2.9", 3, false},
		"a stranger":           {nil, []origin.Origin{told}, "127.0.0.1", 3, false},
		"a circle":             {loopback, []origin.Origin{{TTL: 1}}, "127.0.0.1", 0, true},
		"a stranger's circle":  {nil, []origin.Origin{{TTL: 1}}, "127.0.0.1", 0, true},
		"a TTL never grows":    {loopback, []origin.Origin{{TTL: 200}}, "127.0.0.1", 6, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Listener.TrustedProxies = c.trusted
			got := make(chan believed, 1)
			cfg.Protocol = believer{c.told, got}
			p := routertest.Start(t, cfg)
			p.Play("EOF")
			b := <-got
			if b.client != c.wantClient || !c.wantErr && b.ttl != c.wantTTL || (b.err != nil) != c.wantErr {
				t.Errorf("got %+v", b)
			}
			p.Session()
		})
	}
}

// TestTrustBehindABalancer: the balancer's own address lends nobody trust.
func TestTrustBehindABalancer(t *testing.T) {
	for name, c := range map[string]struct{ header, want string }{
		"a client":           {"PROXY TCP4 203.0.113.5 198.51.100.1 50000 993", "203.0.113.5"},
		"a proxy of ours":    {"PROXY TCP4 127.0.0.9 198.51.100.1 50000 993", "192.0.2.9"},
		"nobody knows whose": {"PROXY UNKNOWN", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Listener = router.Listener{ProxyProtocol: true, ProxyNetworks: loopback, TrustedProxies: loopback}
			got := make(chan believed, 1)
			cfg.Protocol = believer{[]origin.Origin{{Client: netip.MustParseAddrPort("192.0.2.9:1")}}, got}
			p := routertest.Start(t, cfg)
			p.Play("C: " + c.header + "\nEOF")
			if b := <-got; b.client != c.want {
				t.Errorf("got %s, want %s", b.client, c.want)
			}
			p.Session()
		})
	}
}

func TestServeRefusesHalfAListener(t *testing.T) {
	r := router.New(directory(), nil, router.Options{})
	for name, l := range map[string]router.Listener{
		"no protocol": {},
		"no TLS":      {Protocol: talk{}, TLS: tlsconf.Implicit},
	} {
		if err := r.Serve(t.Context(), routertest.NewPipes(), l); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}
