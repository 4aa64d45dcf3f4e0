package ldap_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
)

var anna = lookuptest.Account("anna@example.test")

// TestFaults: what slapd answers when something is wrong, with the account, the
// configuration or the server's rules, and never as absent or rejected.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := common(t)
	with := func(change func(*ldap.Options)) ldap.Options {
		o := options()
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		url  string // of s when empty
		base string
		opts ldap.Options
		name string
		want string // in the error
	}{
		"two matches": {
			base: "ou=twins,dc=example,dc=test", name: "twin@example.test",
			want: "more than one entry has the name: uid=first,ou=twins,dc=example,dc=test and uid=second,ou=twins,dc=example,dc=test",
		},
		"three matches": {
			base: "ou=twins,dc=example,dc=test", name: "triplet@example.test",
			want: "more than one entry has the name: uid=a,ou=twins,dc=example,dc=test and uid=b,ou=twins",
		},
		"size limit": {
			base: "ou=twins,dc=example,dc=test", name: "twin@example.test",
			opts: with(func(o *ldap.Options) { o.BindDN = limitedDN }), want: "Limit Exceeded",
		},
		"referral beside the entry": {
			base: "ou=split,dc=example,dc=test", name: "here@example.test", want: "refers to",
		},
		"referral and nothing else": {
			base: "ou=split,dc=example,dc=test", name: "gone@example.test", want: "refers to \"ldap://127.0.0.1:1/",
		},
		"referral at the base": {
			base: "ou=away,ou=split,dc=example,dc=test", name: anna.Name, want: "Referral",
		},
		"base that does not exist": {
			base: "ou=nowhere,dc=example,dc=test", name: anna.Name, want: "the base is not there",
		},
		"base of another server": {
			base: "dc=elsewhere,dc=test", name: anna.Name, want: "the base is not there",
		},
		"wrong service password": {
			base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.Password = "wrong" }), want: "bind as the service: LDAP Result Code 49",
		},
		"unknown service": {
			base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.BindDN = "cn=nobody,dc=example,dc=test" }), want: "bind as the service",
		},
		"anonymous where that may not read": {
			base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.BindDN, o.Password = "", "" }), want: "the base is not there or may not be read",
		},
		"missing canary": {
			base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.Canary = "canary@example.test" }), want: "the canary canary@example.test is not there or may not be read",
		},
		"name that may not be read": {
			base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.BindDN = blindDN }), want: "swName is missing or may not be read",
		},
		"negative quota": {
			base: "ou=odd,dc=example,dc=test", name: "negative@example.test", want: "swQuota: -1 is less than zero",
		},
		"generation too big": {
			base: "ou=odd,dc=example,dc=test", name: "endless@example.test", want: "swHomeGeneration",
		},
		"two homes": {
			base: "ou=odd,dc=example,dc=test", name: "torn@example.test",
			opts: with(func(o *ldap.Options) { o.Home = "employeeType" }), want: `employeeType has 2 values: ["b1" "b2"]`,
		},
		"certificate of an unknown authority": {
			url: s.tls, base: base, name: anna.Name, want: "certificate",
		},
		"certificate of another name": {
			url: s.tls, base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.TLS = s.tlsConfig(); o.TLS.ServerName = "ldap.example.test" }), want: "certificate",
		},
		"StartTLS with an unknown authority": {
			base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.StartTLS = true }), want: "certificate",
		},
		"TLS to a port in clear": {
			url: strings.Replace(s.plain, "ldap:", "ldaps:", 1), base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.TLS, o.DialTimeout = s.tlsConfig(), 300*time.Millisecond }), want: "TLS handshake",
		},
		"clear to a port with TLS": {
			url: strings.Replace(s.tls, "ldaps:", "ldap:", 1), base: base, name: anna.Name,
			opts: with(func(o *ldap.Options) { o.BindTimeout = 300 * time.Millisecond }), want: "bind as the service",
		},
		"no such socket": {
			url: "ldapi:///nowhere/ldapi", base: base, name: anna.Name, want: "connect",
		},
		"nobody listens": {
			url: "ldap://" + freePort(t), base: base, name: anna.Name, want: "refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.url == "" {
				c.url = s.plain
			}
			if c.opts.SearchTimeout == 0 {
				c.opts = options()
			}
			d := openAll(t, []string{c.url}, c.base, c.opts)
			_, err := d.Lookup(t.Context(), c.name)
			if lookup.AnswerOf(err) != lookup.AnswerUnavailable || !strings.Contains(err.Error(), c.want) {
				t.Errorf("lookup: got %v, want unavailable with %q", err, c.want)
			}
			_, err = d.Check(t.Context(), lookup.Credentials{Name: c.name, Password: "sesame"})
			if lookup.AnswerOf(err) != lookup.AnswerUnavailable {
				t.Errorf("check: got %v, want unavailable", err)
			}
			if err != nil && (strings.Contains(err.Error(), servicePass) || strings.Contains(err.Error(), "sesame")) {
				t.Errorf("a password is in %v", err)
			}
		})
	}
}

func TestAmbiguousErrorIsTyped(t *testing.T) {
	s := common(t)
	d := openAll(t, []string{s.plain, s.plain}, "ou=twins,dc=example,dc=test", options())
	_, err := d.Lookup(t.Context(), "twin@example.test")
	var ambiguous *ldap.AmbiguousError
	if !errors.As(err, &ambiguous) || len(ambiguous.DNs) != 2 {
		t.Errorf("got %v, want both DNs", err)
	}
}

// TestMapping: other attributes, other filters, other scopes.
func TestMapping(t *testing.T) {
	s := common(t)
	opts := options()
	opts.Filter, opts.Name = "(mail={name})", "mail"
	opts.Home, opts.Generation, opts.Status, opts.Quota, opts.Forward = "sn", "-", "-", "-", "-"
	opts.Attributes = []string{"UID", "mail", "telephoneNumber", "userPassword"}
	below := "ou=odd,dc=example,dc=test"
	d := openAll(t, []string{s.plain}, below, opts)
	for _, name := range []string{"deep@example.test", "deep.alias@example.test"} {
		got, err := d.Lookup(t.Context(), name)
		want := lookup.Account{Name: name, Home: "deep", Attributes: map[string]string{
			"uid": "deep", "mail": "deep@example.test\nDeep.Alias@example.test",
		}}
		if err != nil || lookuptest.Diff(want, got) != "" {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	opts.Scope = ldap.OneLevel
	flat := openAll(t, []string{s.plain}, below, opts)
	if _, err := flat.Lookup(t.Context(), "deep@example.test"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("got %v, want absent in the level below the base", err)
	}
	// An IA5String cannot hold this name, so there is no account of it.
	if _, err := d.Lookup(t.Context(), "jörg@example.test"); !errors.Is(err, lookup.ErrAbsent) {
		t.Errorf("got %v, want absent", err)
	}
	// Without a password there is none that is right.
	locked := openAll(t, []string{s.plain}, below, options())
	_, err := locked.Check(t.Context(), lookup.Credentials{Name: "locked@example.test", Password: "x"})
	if !errors.Is(err, lookup.ErrRejected) {
		t.Errorf("got %v, want rejected", err)
	}
}

// TestBadServers: servers that say what none should.
func TestBadServers(t *testing.T) {
	for name, c := range map[string]struct {
		on   func(net.Conn)
		opts func(*ldap.Options)
	}{
		"accepts and never answers": {on: func(c net.Conn) { io.Copy(io.Discard, c) }},
		"never answers StartTLS":    {on: func(c net.Conn) { io.Copy(io.Discard, c) }, opts: func(o *ldap.Options) { o.StartTLS = true }},
		"closes":                    {on: func(c net.Conn) { c.Close() }},
		"closes during StartTLS":    {on: func(c net.Conn) { c.Close() }, opts: func(o *ldap.Options) { o.StartTLS = true }},
		"speaks HTTP":               {on: func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }},
		"HTTP for StartTLS":         {on: func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, opts: func(o *ldap.Options) { o.StartTLS = true }},
		"a message of 2 GiB":        {on: func(c net.Conn) { c.Write([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}); zeros(c) }},
		"a value of 2 GiB":          {on: func(c net.Conn) { c.Write([]byte{0x30, 0x10, 0x04, 0x84, 0x7f, 0xff, 0xff, 0xff}); zeros(c) }},
		"a message without end":     {on: func(c net.Conn) { c.Write([]byte{0x30, 0x80}); zeros(c) }},
		"StartTLS without end":      {on: zeros, opts: func(o *ldap.Options) { o.StartTLS = true }},
		"deep nesting":              {on: func(c net.Conn) { c.Write([]byte(strings.Repeat("\x30\x80", 1<<16))) }},
		"refuses StartTLS": {
			on:   func(c net.Conn) { c.Write([]byte("\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00")) },
			opts: func(o *ldap.Options) { o.StartTLS = true },
		},
		"a bind's answer to StartTLS": {
			on:   func(c net.Conn) { c.Write([]byte("\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00")) },
			opts: func(o *ldap.Options) { o.StartTLS = true },
		},
		// What a man in the middle puts behind the answer is not part of the
		// dialogue after the handshake.
		"a bind's answer behind StartTLS": {
			on: func(c net.Conn) {
				c.Write([]byte("\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00" + "\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"))
			},
			opts: func(o *ldap.Options) { o.StartTLS = true },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t, c.on, nil)
			opts := options()
			opts.DialTimeout, opts.BindTimeout, opts.SearchTimeout = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
			if c.opts != nil {
				c.opts(&opts)
			}
			d := open(t, f.url, opts)
			for range 3 {
				if _, err := d.Lookup(t.Context(), anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
					t.Errorf("lookup: got %v, want unavailable", err)
				}
				if _, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "x"}); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
					t.Errorf("check: got %v, want unavailable", err)
				}
			}
		})
	}
}

// zeros writes until the other side has enough, and no more than 64 MB.
func zeros(c net.Conn) {
	block := make([]byte, 1<<20)
	for range 64 {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// TestBindResults: only invalidCredentials to the user's own bind is a no.
func TestBindResults(t *testing.T) {
	var code atomic.Int64
	f := startFake(t, nil, func(r request) {
		if r.name() == "bind swName="+anna.Name {
			r.result(goldap.ApplicationBindResponse, code.Load())
			return
		}
		agreeable(r)
	})
	d := open(t, f.url, options())
	for c := range int64(130) {
		code.Store(c)
		want := lookup.AnswerUnavailable
		switch c {
		case goldap.LDAPResultSuccess:
			want = lookup.AnswerFound
		case goldap.LDAPResultInvalidCredentials:
			want = lookup.AnswerRejected
		}
		_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "x"})
		if got := lookup.AnswerOf(err); got != want {
			t.Errorf("result %d: got %v (%v), want %v", c, got, err, want)
		}
	}
}

// TestSearchResults: only success is absent, whatever else came with it.
func TestSearchResults(t *testing.T) {
	var code atomic.Int64
	var entries atomic.Int32
	f := startFake(t, nil, func(r request) {
		if r.name() != "search" {
			agreeable(r)
			return
		}
		for i := range entries.Load() {
			r.entry(fmt.Sprintf("cn=%d", i), "swName", r.wanted())
		}
		r.result(goldap.ApplicationSearchResultDone, code.Load())
	})
	d := open(t, f.url, options())
	for c := range int64(130) {
		for n := range int32(3) {
			code.Store(c)
			entries.Store(n)
			want := lookup.AnswerUnavailable
			if c == goldap.LDAPResultSuccess {
				want = [...]lookup.Answer{lookup.AnswerAbsent, lookup.AnswerFound, lookup.AnswerUnavailable}[n]
			}
			_, err := d.Lookup(t.Context(), anna.Name)
			if got := lookup.AnswerOf(err); got != want {
				t.Errorf("result %d with %d entries: got %v (%v), want %v", c, n, got, err, want)
			}
		}
	}
}

// TestWhatIsNeverAsked: empty and endless passwords reach no bind and names
// that nobody has no search. A user never binds where searches run.
func TestWhatIsNeverAsked(t *testing.T) {
	f := startFake(t, nil, agreeable)
	d := open(t, f.url, options())
	for _, password := range []string{"", strings.Repeat("x", 64<<10+1)} {
		_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: password})
		if !errors.Is(err, lookup.ErrRejected) {
			t.Errorf("password of %d bytes: got %v, want rejected", len(password), err)
		}
	}
	for _, name := range []string{"", "*\n", "a b@c.test", `a"@b.test`, "A@b.test", strings.Repeat("x", 321)} {
		if _, err := d.Lookup(t.Context(), name); !errors.Is(err, lookup.ErrAbsent) {
			t.Errorf("name %.20q: got %v, want absent", name, err)
		}
	}
	if n := f.count("search"); n != 0 {
		t.Errorf("%d searches, want none", n)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			name := fmt.Sprintf("user%d@example.test", i%20)
			if _, err := d.Check(t.Context(), lookup.Credentials{Name: name, Password: "x"}); err != nil {
				t.Errorf("check %s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if n := f.count("search"); n != 200 {
		t.Errorf("%d searches, want 200", n)
	}
	if n := f.count("bind "); n != 0 {
		t.Errorf("%d anonymous binds, want none", n)
	}
	searching, binding := 0, 0
	for _, ops := range f.asked() {
		searches, users := false, false
		for _, op := range ops {
			searches = searches || op == "search"
			users = users || strings.HasPrefix(op, "bind swName=")
		}
		if searches && users {
			t.Errorf("a connection has both: %q", ops)
		}
		if searches {
			searching++
		}
		if users {
			binding++
		}
	}
	if searching > 2 || binding > 6 {
		t.Errorf("%d connections searched and %d bound, want 2 and 6 at most", searching, binding)
	}
}

// TestAnswersInAnyOrder: each caller gets the answer to its own question.
func TestAnswersInAnyOrder(t *testing.T) {
	var mu sync.Mutex
	held := make(map[net.Conn][]request)
	f := startFake(t, nil, func(r request) {
		if r.name() != "search" {
			agreeable(r)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		held[r.conn] = append(held[r.conn], r)
		if len(held[r.conn]) < 8 {
			return
		}
		for i := len(held[r.conn]) - 1; i >= 0; i-- {
			agreeable(held[r.conn][i])
		}
		held[r.conn] = nil
	})
	opts := options()
	opts.SearchConns = 1
	opts.SearchTimeout = 10 * time.Second
	d := open(t, f.url, opts)
	var wg sync.WaitGroup
	for i := range 8 * 20 {
		wg.Go(func() {
			name := fmt.Sprintf("user%d@example.test", i)
			if a, err := d.Lookup(t.Context(), name); err != nil || a.Name != name {
				t.Errorf("got %q, %v, want %s", a.Name, err, name)
			}
		})
	}
	wg.Wait()
}

// TestAbandonedSearchesAreBounded: callers that leave a silent server do not
// pile up. What a closed connection leaves behind may take a moment to end.
func TestAbandonedSearchesAreBounded(t *testing.T) {
	f := startFake(t, nil, func(r request) {
		if r.name() != "search" {
			agreeable(r)
		}
	})
	opts := options()
	opts.SearchTimeout = time.Hour // nothing else ends them
	d := open(t, f.url, opts)
	before := runtime.NumGoroutine()
	for range 600 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := d.Lookup(ctx, anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
			t.Errorf("got %v, want unavailable", err)
		}
		cancel()
		deadline := time.Now().Add(10 * time.Second)
		for runtime.NumGoroutine()-before > 200 {
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines more than before, want about 64 for each of 2 connections", runtime.NumGoroutine()-before)
			}
			runtime.Gosched()
		}
	}
}

// TestIdleConnectionsThatTheServerClosed cost nobody an answer.
func TestIdleConnectionsThatTheServerClosed(t *testing.T) {
	f := startFake(t, nil, agreeable)
	d := open(t, f.url, options())
	for range 20 {
		for range 2 {
			_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "x"})
			if err != nil {
				t.Fatal(err)
			}
		}
		f.hangUp()
	}
}

// TestFailover: the second server answers when the first does not, however it
// fails, and the first has its place back once it is well.
func TestFailover(t *testing.T) {
	t.Parallel()
	first, second := startSlapd(t, "accounts.ldif"), startSlapd(t, "accounts.ldif")
	core, logs := observer.New(zap.InfoLevel)
	opts := options()
	opts.SearchTimeout, opts.BindTimeout, opts.Logger = 4*time.Second, 4*time.Second, zap.New(core)
	d := openAll(t, []string{first.plain, second.plain}, base, opts)
	ask := func(what string) {
		t.Helper()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := d.Lookup(t.Context(), anna.Name); err != nil {
					t.Errorf("%s: lookup: %v", what, err)
				}
				if _, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: anna.Password}); err != nil {
					t.Errorf("%s: check: %v", what, err)
				}
				_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "wrong"})
				if !errors.Is(err, lookup.ErrRejected) {
					t.Errorf("%s: check of a wrong password: %v", what, err)
				}
				if _, err := d.Lookup(t.Context(), "nobody@example.test"); !errors.Is(err, lookup.ErrAbsent) {
					t.Errorf("%s: lookup of nobody: %v", what, err)
				}
			})
		}
		wg.Wait()
	}
	connected := func(server, want int) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for d.Status()[server].Connected != want {
			if time.Now().After(deadline) {
				t.Fatalf("server %d: got %+v, want %d connections", server, d.Status()[server], want)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	ask("both well")
	for what, take := range map[string]func(testing.TB){"stopped": first.stop, "hanging": first.hang} {
		take(t)
		ask("first " + what)
		ask("first still " + what)
		first.mend(t)
		connected(0, 2)
		ask("first mended")
	}
	first.stop(t)
	second.stop(t)
	if _, err := d.Lookup(t.Context(), anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable ||
		!strings.Contains(err.Error(), first.plain) || !strings.Contains(err.Error(), second.plain) {
		t.Errorf("got %v, want unavailable with both servers named", err)
	}
	second.mend(t)
	connected(1, 2)
	ask("only the second")
	if logs.FilterMessage("directory server lost").Len() == 0 || logs.FilterMessage("directory server back").Len() == 0 {
		t.Errorf("nobody was told: %v", logs.All())
	}
	for _, line := range logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, servicePass) {
			t.Errorf("a password is in the log: %s", text)
		}
	}
}

// TestRestartsUnderLoad: while the server comes and goes, answers are right or
// unavailable.
func TestRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	s := startSlapd(t, "accounts.ldif")
	d := open(t, s.plain, options())
	var stop atomic.Bool
	var found, rejected atomic.Int32
	var wg sync.WaitGroup
	records := lookuptest.Accounts()
	for caller := range 8 {
		wg.Go(func() {
			for i := caller; !stop.Load(); i++ {
				r := records[i%len(records)]
				a, err := d.Lookup(t.Context(), r.Name)
				switch lookup.AnswerOf(err) {
				case lookup.AnswerFound:
					found.Add(1)
					if diff := lookuptest.Diff(r.Account, a); diff != "" {
						t.Errorf("%s (-want +got):\n%s", r.Name, diff)
					}
				case lookup.AnswerUnavailable:
				default:
					t.Errorf("lookup %s: got %v", r.Name, err)
				}
				_, err = d.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: r.Password})
				if a := lookup.AnswerOf(err); a != lookup.AnswerFound && a != lookup.AnswerUnavailable {
					t.Errorf("check %s: got %v", r.Name, err)
				}
				_, err = d.Check(t.Context(), lookup.Credentials{Name: r.Name, Password: "wrong"})
				switch lookup.AnswerOf(err) {
				case lookup.AnswerRejected:
					rejected.Add(1)
				case lookup.AnswerUnavailable:
				default:
					t.Errorf("check %s with a wrong password: got %v", r.Name, err)
				}
			}
		})
	}
	grow := func(n *atomic.Int32) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for start := n.Load(); n.Load() < start+50; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no answers any more")
			}
		}
	}
	for range 2 {
		grow(&found)
		grow(&rejected)
		s.stop(t)
		s.start(t)
	}
	grow(&found)
	grow(&rejected)
	stop.Store(true)
	wg.Wait()
}

// TestClose: it waits for nothing but what it can end, and answers go on to be
// unavailable.
func TestClose(t *testing.T) {
	var searches atomic.Int32
	f := startFake(t, nil, func(r request) {
		switch r.name() {
		case "search":
			if searches.Add(1) <= 4 {
				agreeable(r)
			}
		case "look", "bind " + serviceDN:
			agreeable(r)
		}
	})
	opts := options()
	opts.SearchTimeout, opts.BindTimeout = time.Hour, time.Hour
	d, err := ldap.New([]string{f.url}, base, opts)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 { // the binds get no answer
		wg.Go(func() {
			_, err := d.Check(t.Context(), lookup.Credentials{Name: anna.Name, Password: "x"})
			if lookup.AnswerOf(err) != lookup.AnswerUnavailable {
				t.Errorf("got %v under way, want unavailable", err)
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); f.count("bind swName="+anna.Name) < 4; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want four binds", f.asked())
		}
	}
	for range 4 { // and these searches none
		wg.Go(func() {
			if _, err := d.Lookup(t.Context(), anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
				t.Errorf("got %v under way, want unavailable", err)
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); f.count("search") < 8; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want eight searches", f.asked())
		}
	}
	start := time.Now()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
	if _, err := d.Lookup(t.Context(), anna.Name); lookup.AnswerOf(err) != lookup.AnswerUnavailable {
		t.Errorf("got %v after Close, want unavailable", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, c := range map[string]struct {
		urls []string
		base string
		opts ldap.Options
	}{
		"no LDAP server": {nil, base, ldap.Options{}},
		"the scheme is none of ldap, ldaps, ldapi": {[]string{"http://x"}, base, ldap.Options{}},
		"want a host":                                      {[]string{"ldap:///dc=x"}, base, ldap.Options{}},
		"and nothing else":                                 {[]string{"ldap://x/dc=example"}, base, ldap.Options{}},
		"no path of a socket":                              {[]string{"ldapi://"}, base, ldap.Options{}},
		`base "people"`:                                    {[]string{"ldap://x"}, "people", ldap.Options{}},
		`bind DN "mail"`:                                   {[]string{"ldap://x"}, base, ldap.Options{BindDN: "mail", Password: "x"}},
		"a bind DN needs a password":                       {[]string{"ldap://x"}, base, ldap.Options{BindDN: serviceDN}},
		"and a password a bind DN":                         {[]string{"ldap://x"}, base, ldap.Options{Password: "x"}},
		`canary "Canary" is not`:                           {[]string{"ldap://x"}, base, ldap.Options{Canary: "Canary"}},
		"scope 7 is unknown":                               {[]string{"ldap://x"}, base, ldap.Options{Scope: 7}},
		`filter "(mail=*)" has no {name}`:                  {[]string{"ldap://x"}, base, ldap.Options{Filter: "(mail=*)"}},
		`filter "(mail={name}"`:                            {[]string{"ldap://x"}, base, ldap.Options{Filter: "(mail={name}"}},
		`filter "(&(mail=x)){name}"`:                       {[]string{"ldap://x"}, base, ldap.Options{Filter: "(&(mail=x)){name}"}},
		`filter "({name}=x)": {name} is not in the place`:  {[]string{"ldap://x"}, base, ldap.Options{Filter: "({name}=x)"}},
		`filter "(a{name}=x)": {name} is not in the place`: {[]string{"ldap://x"}, base, ldap.Options{Filter: "(a{name}=x)"}},
		`filter "({name})"`:                                {[]string{"ldap://x"}, base, ldap.Options{Filter: "({name})"}},
	} {
		d, err := ldap.New(c.urls, c.base, c.opts)
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestClearIsTold(t *testing.T) {
	for url, want := range map[string]int{
		"ldap://ldap.example.test": 1, "ldaps://ldap.example.test": 0, "ldap://127.0.0.1": 0, "ldap://[::1]": 0, "ldapi:///run/ldapi": 0,
	} {
		core, logs := observer.New(zap.WarnLevel)
		d, err := ldap.New([]string{url}, base, ldap.Options{Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		if got := logs.FilterMessage("passwords go to the directory in clear").Len(); got != want {
			t.Errorf("%s: %d warnings, want %d", url, got, want)
		}
	}
}
